"""The benchmark's built-in candidates: one row each. Needs neither torch nor onnx."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capsnet.definitions import deferred
from capsnet.formats import FORMATS
from capsnet.precision import PRECISIONS

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from capsnet.model import CapsNet
    from capsnet.runtime.bench.candidates import Candidate

__all__ = ["BUILT_IN", "PARTS", "REDUCED", "BuiltIn", "Recipe", "in_precision"]

PARTS: Mapping[str, str] = {
    "encoder": "the whole encoder",
    "routing": "the routing alone (of ONNX files)",
    "training": "a step of training",
    "resident": "the encoder with its images and outputs kept on the device",
}
"""What can be timed."""


@dataclass(frozen=True)
class Recipe:
    """What an artifact is exported as.

    Attributes:
        format: a row of :data:`capsnet.formats.FORMATS`.
        precision: a row of :data:`capsnet.precision.PRECISIONS`.
        forms: of the lowering, such as ``{"routing": "projected"}``.
        as_written: whether it is exported without lowering.
    """

    format: str
    precision: str = "fp32"
    forms: Mapping[str, str] = field(default_factory=dict)
    as_written: bool = False

    def export(
        self,
        model: "CapsNet",
        path: Path,
        calibration: "npt.NDArray[np.float32] | None" = None,
    ) -> None:
        """Lower the network, and write the artifact.

        Args:
            model: the network.
            path: the file to write.
            calibration: images for a precision that is calibrated.
        """
        from capsnet.export.lower import lower
        from capsnet.export.options import ExportOptions

        calibrated = PRECISIONS[self.precision].calibrated
        lowered = lower(
            model,
            precision=self.precision,
            forms=self.forms,
            preferred=FORMATS[self.format].preferred,
            as_written=self.as_written,
        )
        options = ExportOptions(calibration=calibration if calibrated else None)
        FORMATS[self.format].export(lowered, path, options)


@dataclass(frozen=True)
class BuiltIn:
    """One row of the table.

    Attributes:
        name: as the command line and the results call it.
        parts: what it can be timed in; the first candidate of a part always is.
        opened_as: the class of the candidate, called with name, path and baseline.
        recipe: what its file is exported as; None where the candidate opens the checkpoint.
        baseline: whether ratios to it are shown.
        on_request: whether it is timed only where it is named: it needs an extra.
    """

    name: str
    parts: tuple[str, ...]
    opened_as: Callable[..., "Candidate"]
    recipe: Recipe | None = None
    baseline: bool = False
    on_request: bool = False

    def make(
        self,
        model: "CapsNet",
        checkpoint: Path,
        folder: Path,
        calibration: "npt.NDArray[np.float32] | None" = None,
    ) -> "Candidate":
        """The candidate, exported into the folder where it is a file of its own.

        Args:
            model: the network.
            checkpoint: that it comes from.
            folder: for the file.
            calibration: images for a precision that is calibrated.
        """
        path = checkpoint
        if self.recipe is not None:
            path = folder / self.name
            self.recipe.export(model, path, calibration)
        return self.opened_as(self.name, path, baseline=self.baseline)


def _kind(name: str) -> Callable[..., Any]:
    return deferred(f"capsnet.runtime.bench.candidates:{name}")


def _resident(
    name: str,
    kind: str,
    recipe: Recipe | None = None,
    precisions: Sequence[str] = ("fp32", "fp16"),
    **options: Any,
) -> list[BuiltIn]:
    """The rows of one candidate of the part of that name, one for each precision."""
    return [
        BuiltIn(
            f"resident-{name}" + ("" if precision == "fp32" else f"-{precision}"),
            ("resident",),
            functools.partial(_kind(kind), resident=True, precision=precision, **options),
            recipe and dataclasses.replace(recipe, precision=precision),
            baseline=precision == "fp32" and name in ("eager", "onnx-naive"),
        )
        for precision in precisions
    ]


def _in_tf32(name: str, path: Path, baseline: bool) -> "Candidate":
    """An fp32 file whose products round to the 11 bits of fp16: it is judged as fp16 is."""
    open_as: Any = _kind("PlainOnnx")
    options = {"cuda_options": {"use_tf32": "1"}, "precision": "fp16", "resident": True}
    candidate: Candidate = open_as(name, path, baseline=baseline, **options)
    return candidate


def _step(encoder: str) -> Callable[..., Any]:
    step = _kind("TrainingStep")
    return lambda name, path, baseline: step(name, path, encoder, baseline=baseline)


_in_openvino = functools.partial(_kind("Artifact"), runtime="openvino")

_NAIVE = Recipe("onnx", as_written=True)
_PROJECTED = Recipe("onnx", forms={"routing": "projected"})
_DIRECT = Recipe("onnx", forms={"convolution": "direct"})

BUILT_IN: Mapping[str, BuiltIn] = {
    row.name: row
    for row in (
        BuiltIn("eager", ("encoder",), _kind("Eager"), baseline=True),
        BuiltIn("compile", ("encoder",), _kind("Compiled")),
        BuiltIn("torchscript", ("encoder",), _kind("Artifact"), Recipe("torchscript")),
        BuiltIn("onnx-naive", ("encoder", "routing"), _kind("PlainOnnx"), _NAIVE, baseline=True),
        BuiltIn("onnx-projected", ("encoder", "routing"), _kind("Artifact"), _PROJECTED),
        BuiltIn("onnx-direct", ("encoder",), _kind("Artifact"), _DIRECT),
        BuiltIn("onnx", ("encoder", "routing"), _kind("Artifact"), Recipe("onnx")),
        BuiltIn("onnx-openvino", ("encoder",), _in_openvino, Recipe("onnx"), on_request=True),
        BuiltIn("literal", ("training",), _step("literal"), baseline=True),
        BuiltIn("trainer", ("training",), _step("trainer")),
        *_resident("eager", "Eager"),
        *_resident("compile", "Compiled"),
        *_resident("max-autotune", "Compiled", mode="max-autotune"),
        *_resident("torchscript", "PlainTorchScript", Recipe("torchscript")),
        *_resident("onnx-naive", "PlainOnnx", _NAIVE, ["fp32"]),
        *_resident("onnx-direct", "PlainOnnx", _DIRECT, ["fp32"]),
        *_resident("onnx", "PlainOnnx", Recipe("onnx")),
        *_resident("onnx-nhwc", "PlainOnnx", Recipe("onnx"), cuda_options={"prefer_nhwc": "1"}),
        *_resident("onnx-graph", "PlainOnnx", Recipe("onnx"), cuda_graphs=True),
        BuiltIn("resident-onnx-tf32", ("resident",), _in_tf32, Recipe("onnx")),
    )
}
"""The candidates by name; a new one is one more row."""

REDUCED = tuple(name for name in PRECISIONS if name != "fp32")
"""The precisions that are candidates on request."""


def in_precision(precision: str) -> BuiltIn:
    """The ONNX artifact in another precision."""
    artifact = Recipe("onnx", precision)
    return BuiltIn(f"onnx-{precision}", ("encoder",), _kind("Artifact"), artifact)

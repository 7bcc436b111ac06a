"""Where a wrong artifact goes wrong: the first stage whose error leaves the budget."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch

from capsnet.artifact import OUTPUT_NAMES
from capsnet.data.batch import Batch, Rows, named
from capsnet.errors import ArtifactError, first_line
from capsnet.model import CapsNet
from capsnet.own import OwnNetwork
from capsnet.precision import find_precision
from capsnet.runtime.proof.results import Tolerance
from capsnet.runtime.sessions.onnx import create_session
from capsnet.stages import record_stages
from capsnet.vetting import default_dtype

__all__ = ["Stage", "locate", "onnx_stages"]

Arrays = dict[str, npt.NDArray[np.floating]]


@dataclass(frozen=True)
class Stage:
    """One stage of the network in an artifact, against the readable model.

    Attributes:
        name: of the stage, see ``capsnet.stages``.
        error: largest absolute error; None if the artifact does not have the stage.
        allowed: what the error budget allows.
        passed: whether it is within the budget.
    """

    name: str
    error: float | None
    allowed: float
    passed: bool


def locate(
    model: CapsNet | OwnNetwork,
    found: Mapping[str, npt.NDArray[np.floating]],
    images: Rows,
    precision: str,
    tolerance: Tolerance | None = None,
) -> tuple[Stage, ...]:
    """Judge every stage; the first that does not pass is where the fault is.

    Args:
        model: the readable model.
        found: the artifact's stages for these images, laid out as in the readable model.
        images: float32 ``[batch, channels, height, width]``, or the rows of other inputs.
        precision: whose budget decides.
        tolerance: a limit of the user's own, which decides in its place.

    Returns:
        The stages in the order of computation.
    """
    golden, baseline = (_readable_stages(model, images, t) for t in (torch.float64, torch.float32))
    budget = find_precision(precision).budget
    stages = []
    for name, expected in golden.items():
        if name in OUTPUT_NAMES and name not in found:
            continue  # an artifact may leave outputs out
        own, largest = (
            float(np.abs(values).max()) for values in (baseline[name] - expected, expected)
        )
        allowed = budget.factor * own + budget.max * largest
        if tolerance is not None:
            allowed = tolerance.atol + tolerance.rtol * largest
        error = None
        if name in found and found[name].shape == expected.shape:
            error = float(np.abs(found[name].astype(np.float64) - expected).max())
        stages.append(Stage(name, error, allowed, error is not None and error <= allowed))
    return tuple(stages)


def onnx_stages(content: bytes, images: npt.NDArray[Any] | Batch) -> Arrays:
    """Read the stages of an ONNX artifact: tensors inside its graph, which keep their names.

    Args:
        content: of the artifact, which was checked.
        images: a batch of the type and shape that it takes, or the rows of several inputs.

    Returns:
        Every stage that is in the graph, by name, laid out as the artifact lays it out.

    Raises:
        ArtifactError: if it cannot be run.
    """
    model = onnx.load_model_from_string(content)
    computed = {name for node in model.graph.node for name in node.output}
    # What is no stage is named after its node, ``stage/operator``.
    stages = {name for name in computed if "/" not in name}
    inside = [value for value in model.graph.value_info if value.name in stages]
    model.graph.output.extend(inside)
    session = create_session(model.SerializeToString(), "cpu")
    names = [value.name for value in session.get_outputs()]
    given = dict(zip((i.name for i in session.get_inputs()), named(images).values(), strict=True))
    try:
        return dict(zip(names, session.run(names, given), strict=True))
    except Exception as error:  # onnxruntime's own errors have many kinds
        raise ArtifactError(
            f"onnxruntime failed on the stages of the artifact: {first_line(error)}"
        ) from error


def _readable_stages(model: CapsNet | OwnNetwork, images: Rows, dtype: torch.dtype) -> Arrays:
    network = copy.deepcopy(model).to(dtype).requires_grad_(False).eval()
    inputs = (torch.from_numpy(rows).to(dtype) for rows in named(images).values())
    with default_dtype(dtype):
        stages = record_stages(network, *inputs)
    return {name: stage.numpy() for name, stage in stages.items()}

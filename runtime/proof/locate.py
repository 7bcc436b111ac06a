"""Where a wrong artifact goes wrong: the first stage whose error leaves the budget."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch

from capsnet.artifact import OUTPUT_NAMES
from capsnet.model import CapsNet
from capsnet.precision import find_precision
from capsnet.runtime.sessions.onnx import create_session
from capsnet.stages import record_stages

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
    model: CapsNet,
    found: Mapping[str, npt.NDArray[np.floating]],
    images: npt.NDArray[np.float32],
    precision: str,
) -> tuple[Stage, ...]:
    """Judge every stage; the first that does not pass is where the fault is.

    Args:
        model: the readable model.
        found: the artifact's stages for these images, laid out as in the readable model.
        images: float32 ``[batch, channels, height, width]``.
        precision: whose budget decides.

    Returns:
        The stages in the order of computation.
    """
    golden, baseline = (_readable_stages(model, images, t) for t in (torch.float64, torch.float32))
    budget = find_precision(precision).budget
    stages = []
    for name, expected in golden.items():
        if name in OUTPUT_NAMES and name not in found:
            continue  # an artifact may leave outputs out
        own = float(np.abs(baseline[name] - expected).max())
        allowed = budget.factor * own + budget.max * float(np.abs(expected).max())
        error = None
        if name in found and found[name].shape == expected.shape:
            error = float(np.abs(found[name].astype(np.float64) - expected).max())
        stages.append(Stage(name, error, allowed, error is not None and error <= allowed))
    return tuple(stages)


def onnx_stages(path: Path, images: npt.NDArray[np.float32]) -> Arrays:
    """Read the stages of an ONNX artifact: tensors inside its graph, which keep their names.

    Args:
        path: the artifact.
        images: float32 ``[batch, channels, height, width]``, a batch that it accepts.

    Returns:
        Every stage that is in the graph, by name, laid out as the artifact lays it out.
    """
    model = onnx.load(path)
    computed = {name for node in model.graph.node for name in node.output}
    # What is no stage is named after its node, ``stage/operator``.
    stages = {name for name in computed if "/" not in name}
    inside = [value for value in model.graph.value_info if value.name in stages]
    model.graph.output.extend(inside)
    session = create_session(model.SerializeToString(), "cpu")
    names = [value.name for value in session.get_outputs()]
    given = session.get_inputs()[0].name
    return dict(zip(names, session.run(names, {given: images}), strict=True))


def _readable_stages(model: CapsNet, images: npt.NDArray[np.float32], dtype: torch.dtype) -> Arrays:
    network = copy.deepcopy(model).to(dtype).requires_grad_(False).eval()
    stages = record_stages(network, torch.from_numpy(images).to(dtype))
    return {name: stage.numpy() for name, stage in stages.items()}

"""Where a wrong artifact goes wrong: the first stage whose error leaves the budget."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from einops import rearrange
from torch import Tensor

from capsnet.artifact import ArtifactMetadata
from capsnet.layers.routing import squash
from capsnet.model import PRIMARY_SCALE, CapsNet, CapsuleLayer
from capsnet.precision import find_precision

__all__ = ["Stage", "locate", "onnx_stages", "readable_stages"]

Arrays = dict[str, npt.NDArray[np.floating]]


@dataclass(frozen=True)
class Stage:
    """One stage of the network in an artifact, against the readable model.

    Attributes:
        name: of the stage, as ``LoweredCapsNet.stages`` calls it.
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
    metadata: ArtifactMetadata,
) -> list[Stage]:
    """Judge every stage; the first that does not pass is where the fault is.

    Args:
        model: the readable model.
        found: the stages of the artifact, or of its lowered module, for these images.
        images: float32 ``[batch, channels, height, width]``.
        metadata: of the artifact: its precision decides the budget, and the form of its routing the
            layout of the iterations.

    Returns:
        The stages in the order of computation.
    """
    golden = readable_stages(model, images, torch.float64)
    baseline = readable_stages(model, images, torch.float32)
    budget = find_precision(metadata.precision).budget
    stages = []
    for name, expected in golden.items():
        if name == "reconstruction" and name not in found:
            continue  # an artifact without the decoder
        own = float(np.abs(baseline[name] - expected).max())
        allowed = budget.factor * own + budget.max * float(np.abs(expected).max())
        if metadata.forms.get("routing") == "projected" and ".iteration" in name:
            expected = np.moveaxis(expected, 0, 1)  # to [out_capsules, batch, dim]
        error = None
        if name in found and found[name].shape == expected.shape:
            error = float(np.abs(found[name].astype(np.float64) - expected).max())
        stages.append(Stage(name, error, allowed, error is not None and error <= allowed))
    return stages


def onnx_stages(path: Path, images: npt.NDArray[np.float32]) -> Arrays:
    """Read the stages of an ONNX artifact: tensors inside its graph, which keep their names.

    Args:
        path: the artifact.
        images: float32 ``[batch, channels, height, width]``, a batch that it accepts.

    Returns:
        Every stage that is in the graph, by name.
    """
    model = onnx.load(path)
    outputs = {value.name for value in model.graph.output}
    inside = [
        value
        for value in model.graph.value_info
        if value.name in {"stem", "primary_capsules"} or ".iteration" in value.name
    ]
    model.graph.output.extend(inside)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in inside] + sorted(outputs)
    return dict(zip(names, session.run(names, {"image": images}), strict=True))


def readable_stages(model: CapsNet, images: npt.NDArray[np.float32], dtype: torch.dtype) -> Arrays:
    """The stages of the readable model, as it is written, batch first.

    Args:
        model: the network.
        images: float32 ``[batch, channels, height, width]``.
        dtype: to compute in.

    Returns:
        Every stage by name, in the order of computation; see ``LoweredCapsNet.stages``.
    """
    copy = CapsNet(model.config)
    copy.load_state_dict(model.state_dict())
    copy.to(dtype).requires_grad_(False).eval()
    image = torch.from_numpy(images).to(dtype)
    stages = {"stem": torch.relu(copy.stem(image))}
    capsules: Tensor = copy.to_capsules(copy.primary(stages["stem"]))
    capsules = squash(capsules) if copy.squash_primary else capsules * PRIMARY_SCALE
    stages["primary_capsules"] = rearrange(
        capsules, "b (hw g) d -> b d (g hw)", g=model.config.primary_groups
    )
    for index, layer in enumerate(copy.capsule_layers):
        assert isinstance(layer, CapsuleLayer)
        votes = torch.einsum("bid,idoh->bioh", capsules, layer.weight)
        total = torch.zeros_like(votes[:, 0])
        for iteration in range(1, layer.routing_iterations + 1):
            coupling = torch.softmax(torch.einsum("biod,bod->bio", votes, total), dim=-1)
            inputs = torch.einsum("bio,biod->bod", coupling, votes)
            capsules = squash(inputs)
            total = total + capsules
            prefix = f"layer{index}.iteration{iteration}"
            stages[f"{prefix}.inputs"] = inputs
            stages[f"{prefix}.capsules"] = capsules
    lengths, outputs = copy(image)
    stages |= {"lengths": lengths, "capsules": outputs}
    if copy.decoder is not None:
        stages["reconstruction"] = copy.reconstruct(outputs, lengths.argmax(-1))
    return {name: stage.numpy() for name, stage in stages.items()}

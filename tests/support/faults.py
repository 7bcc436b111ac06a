"""Planted faults: a weight of an artifact is changed, and the stage that is blamed for it."""

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

import capsnet
from capsnet.checkpoint import save_checkpoint
from capsnet.jobs import locate_fault
from capsnet.networks import NetworkSource
from capsnet.runtime.proof.request import Request


def first_wrong_stage(
    model: capsnet.CapsNet, images: np.ndarray, artifact: Path, weight: str
) -> str:
    """Make a weight of an ONNX artifact 1 % too large; the first stage that is then wrong."""
    checkpoint, data = artifact.with_suffix(".safetensors"), artifact.with_suffix(".npy")
    save_checkpoint(model, checkpoint)
    np.save(data, images)
    graph = onnx.load(artifact)
    (tensor,) = [t for t in graph.graph.initializer if t.name == weight]
    changed = numpy_helper.to_array(tensor) * np.float32(1.01)
    tensor.CopyFrom(numpy_helper.from_array(changed, weight))
    onnx.save(graph, artifact)
    assert not capsnet.verify(artifact, model, images=images, device="cpu").passed
    stages = locate_fault(artifact, Request(NetworkSource(checkpoint), data, device="cpu"))
    return next(stage.name for stage in stages if not stage.passed)

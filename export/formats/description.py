"""The metadata of an export: the same document whatever the format."""

import importlib.metadata
import json

from capsnet.artifact import COUPLINGS, INPUT_NAME, ArtifactMetadata, Claim, TensorSpec
from capsnet.errors import ConfigError
from capsnet.export.lower import LoweredCapsNet

__all__ = ["TRACE_BATCH", "describe", "refuse_int8"]

TRACE_BATCH = 2
"""Batch size that dynamic artifacts are traced at; a batch of 1 would be taken for a constant."""


def refuse_int8(lowered: LoweredCapsNet) -> None:
    """Raise ConfigError if the network is to be quantised, which torch's formats are not."""
    if lowered.precision == "int8":
        raise ConfigError("int8 is for ONNX: lower the network to fp32 or fp16")


def describe(
    lowered: LoweredCapsNet,
    *,
    exporter: str,
    libraries: tuple[str, ...],
    batch: int | None,
    checkpoint_sha256: str | None,
    opset: int | None = None,
    ir_version: int | None = None,
) -> ArtifactMetadata:
    """The metadata of an artifact.

    Args:
        lowered: the exported network.
        exporter: what wrote the graph.
        libraries: distributions whose versions matter for the bytes.
        batch: the fixed batch size, or None for any.
        checkpoint_sha256: digest of the checkpoint file, if there was one.
        opset: ONNX operator set.
        ir_version: version of the ONNX representation.

    Returns:
        The document.
    """
    size = "batch" if batch is None else batch
    config = lowered.config
    shapes = {
        "lengths": (config.classes,),
        "capsules": (config.classes, config.class_dim),
        "reconstruction": config.image_shape,
    }
    iterations = [layer.routing_iterations for layer in config.capsule_layers]
    couplings = sum(count - 1 for count in iterations)
    return ArtifactMetadata(
        toolkit_version=importlib.metadata.version("capsnet-export"),
        exporter=exporter,
        versions={name: importlib.metadata.version(name) for name in libraries},
        checkpoint_sha256=checkpoint_sha256,
        config=json.loads(config.to_json()),
        forms={"routing": lowered.routing, "convolution": lowered.convolution},
        precision=lowered.precision,
        inputs=(TensorSpec(INPUT_NAME, "float32", (size, *config.image_shape)),),
        outputs=tuple(
            TensorSpec(name, "float32", (size, *shapes[name])) for name in lowered.outputs
        ),
        claims=(Claim(f"routing by {iterations} iterations", COUPLINGS, couplings, couplings),),
        opset=opset,
        ir_version=ir_version,
    )

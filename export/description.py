"""The metadata of an export: the same document whatever the format."""

import importlib.metadata

from capsnet.artifact import ArtifactMetadata, Precision, input_spec, output_specs
from capsnet.config import CapsNetConfig

__all__ = ["TRACE_BATCH", "describe"]

TRACE_BATCH = 2
"""Batch size that dynamic artifacts are traced at; a batch of 1 would be taken for a constant."""


def describe(
    config: CapsNetConfig,
    outputs: tuple[str, ...],
    *,
    routing: str,
    precision: Precision,
    exporter: str,
    libraries: tuple[str, ...],
    batch: int | None,
    checkpoint_sha256: str | None,
    convolution: str = "direct",
    opset: int | None = None,
    ir_version: int | None = None,
) -> ArtifactMetadata:
    """The metadata of an artifact.

    Args:
        config: of the exported network.
        outputs: names of its outputs, in order.
        routing: form of its routing.
        precision: of its weights and convolutions.
        exporter: what wrote the graph.
        libraries: distributions whose versions matter for the bytes.
        batch: the fixed batch size, or None for any.
        checkpoint_sha256: digest of the checkpoint file, if there was one.
        convolution: how it computes its primary convolution.
        opset: ONNX operator set.
        ir_version: version of the ONNX representation.

    Returns:
        The document.
    """
    size = "batch" if batch is None else batch
    return ArtifactMetadata(
        toolkit_version=importlib.metadata.version("capsnet-export"),
        exporter=exporter,
        versions={name: importlib.metadata.version(name) for name in libraries},
        checkpoint_sha256=checkpoint_sha256,
        config=config,
        routing=routing,
        precision=precision,
        inputs=(input_spec(config, size),),
        outputs=output_specs(config, size, outputs),
        convolution=convolution,
        opset=opset,
        ir_version=ir_version,
    )

"""The metadata of an export: the same document whatever the format."""

import importlib.metadata

from capsnet.artifact import ArtifactMetadata, TensorSpec
from capsnet.errors import ConfigError
from capsnet.export.lower import LoweredNetwork
from capsnet.export.options import ExportOptions

__all__ = ["describe", "require_format"]


def require_format(lowered: LoweredNetwork, name: str) -> None:
    """Raise ConfigError if a network's precision does not exist in a format."""
    formats = lowered.precision.formats
    if formats is not None and name not in formats:
        raise ConfigError(
            f"{lowered.precision.name} exists in {', '.join(formats)} only, not in {name}: "
            "choose another precision or format"
        )
    if lowered.precision.finish is not None and name != "onnx":
        raise ConfigError(
            f"{lowered.precision.name} changes the ONNX graph, and {name} has none: list its "
            'formats=("onnx",), or choose another precision'
        )


def describe(
    lowered: LoweredNetwork,
    options: ExportOptions,
    *,
    exporter: str,
    libraries: tuple[str, ...],
    opset: int | None = None,
    ir_version: int | None = None,
) -> ArtifactMetadata:
    """The metadata of an artifact.

    Args:
        lowered: the exported network.
        options: how it was exported.
        exporter: what wrote the graph.
        libraries: distributions whose versions matter for the bytes.
        opset: ONNX operator set.
        ir_version: version of the ONNX representation.
    """
    inputs, outputs = lowered.interface("batch" if options.batch is None else options.batch)
    if (options.input_dtype, options.layout) != ("float32", "nchw"):
        inputs = (_as_served(inputs, options),)
    return ArtifactMetadata(
        toolkit_version=importlib.metadata.version("capsnet-export"),
        exporter=exporter,
        versions={name: importlib.metadata.version(name) for name in libraries},
        checkpoint_sha256=options.checkpoint_sha256,
        config=dict(lowered.identity),
        precision=lowered.precision.name,
        forms=lowered.forms,
        inputs=inputs,
        layout=options.layout,
        outputs=outputs,
        decision=lowered.decision,
        claims=lowered.claims,
        opset=opset,
        ir_version=ir_version,
        class_names=options.about.class_names,
        training_inputs=options.about.training_inputs,
    )


def _as_served(inputs: tuple[TensorSpec, ...], options: ExportOptions) -> TensorSpec:
    """The one input, of the type and layout that were asked for."""
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].dtype != "float32":
        raise ConfigError(
            "another type or layout of the input goes with networks that take one batch of images: "
            "leave it out"
        )
    batch, channels, *sizes = inputs[0].shape
    shape = (batch, channels, *sizes) if options.layout == "nchw" else (batch, *sizes, channels)
    return TensorSpec(inputs[0].name, options.input_dtype, shape)

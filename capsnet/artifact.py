"""What an exported artifact says about itself: one JSON document. Needs neither torch nor onnx."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from capsnet.config import CapsNetConfig
from capsnet.errors import ArtifactError, ConfigError

__all__ = [
    "INPUT_NAME",
    "METADATA_KEY",
    "OUTPUT_NAMES",
    "SCHEMA_VERSION",
    "ArtifactMetadata",
    "Convolution",
    "Precision",
    "TensorSpec",
    "input_spec",
    "output_specs",
]

METADATA_KEY = "capsnet"
"""Key of the document: ONNX ``metadata_props``, TorchScript and torch.export extra files."""

SCHEMA_VERSION = 1
INPUT_NAME = "image"
OUTPUT_NAMES = ("lengths", "capsules", "reconstruction")

Precision = Literal["fp32", "fp16", "int8"]
Convolution = Literal["direct", "winograd"]


@dataclass(frozen=True)
class TensorSpec:
    """An input or output: its name, dtype, and shape, in which ``"batch"`` is any size."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


def input_spec(config: CapsNetConfig, batch: int | str) -> TensorSpec:
    """The input ``image``: values 0..1."""
    return TensorSpec(INPUT_NAME, "float32", (batch, *config.image_shape))


def output_specs(
    config: CapsNetConfig, batch: int | str, names: tuple[str, ...]
) -> tuple[TensorSpec, ...]:
    """The outputs of the given names, in their order."""
    shapes = {
        "lengths": (config.classes,),
        "capsules": (config.classes, config.class_dim),
        "reconstruction": config.image_shape,
    }
    return tuple(TensorSpec(name, "float32", (batch, *shapes[name])) for name in names)


@dataclass(frozen=True)
class ArtifactMetadata:
    """The document inside an artifact.

    Attributes:
        toolkit_version: version of this package that exported it.
        exporter: which exporter wrote it, such as ``torch.onnx``.
        versions: of the libraries that took part.
        checkpoint_sha256: of the checkpoint file whose weights it holds, if there was one.
        config: the network's sizes.
        routing: form of the lowered routing.
        precision: of the weights and arithmetic inside; inputs and outputs are always float32.
        inputs: what it takes.
        outputs: what it gives, in order.
        convolution: form of its primary convolution.
        opset: ONNX operator set, None for other formats.
        ir_version: version of the ONNX representation, None for other formats.
        schema_version: of this document.
    """

    toolkit_version: str
    exporter: str
    versions: Mapping[str, str]
    checkpoint_sha256: str | None
    config: CapsNetConfig
    routing: str
    precision: Precision
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    convolution: Convolution = "direct"
    opset: int | None = None
    ir_version: int | None = None
    schema_version: int = SCHEMA_VERSION

    @property
    def routing_iterations(self) -> tuple[int, ...]:
        """Rounds of routing of each capsule layer."""
        return tuple(layer.routing_iterations for layer in self.config.capsule_layers)

    def to_dict(self) -> dict[str, Any]:
        """The document as JSON values."""
        return {
            **dataclasses.asdict(self),
            "routing_iterations": list(self.routing_iterations),
        }

    def to_json(self) -> str:
        """The document as one line of JSON; equal documents give equal text."""
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse what :meth:`to_json` wrote.

        Raises:
            ArtifactError: if the text is not such a document, is of a newer schema, or contradicts
                itself.
        """
        try:
            values = json.loads(text)
            version = values["schema_version"]
            if version != SCHEMA_VERSION:
                raise ArtifactError(
                    f"the metadata has schema version {version}, this toolkit reads "
                    f"{SCHEMA_VERSION}: upgrade capsnet-export, or export the model again"
                )
            values["config"] = CapsNetConfig.from_dict(values["config"])
            for side in ("inputs", "outputs"):
                values[side] = tuple(
                    TensorSpec(spec["name"], spec["dtype"], tuple(spec["shape"]))
                    for spec in values[side]
                )
            iterations = tuple(values.pop("routing_iterations"))
            metadata = cls(**values)
        except (ValueError, KeyError, TypeError, RecursionError, ConfigError) as error:
            raise ArtifactError(f"the metadata is damaged: {error!r}; export again") from error
        metadata._check(iterations)
        return metadata

    def _check(self, iterations: tuple[int, ...]) -> None:
        """Raise ArtifactError where the document's parts contradict each other."""
        if iterations != self.routing_iterations:
            raise ArtifactError(
                f"the metadata contradicts itself: routing iterations {list(iterations)}, but the "
                f"model configuration says {list(self.routing_iterations)}; export again"
            )
        for name, known in (("precision", Precision), ("convolution", Convolution)):
            value = getattr(self, name)
            if value not in get_args(known):
                raise ArtifactError(
                    f"the metadata names the {name} {value!r}, expected one of "
                    f"{', '.join(get_args(known))}; export again"
                )
        if self.convolution == "winograd" and self.precision != "fp32":
            raise ArtifactError(
                f"the metadata contradicts itself: Winograd's convolution in {self.precision}, "
                "which is computed in fp32 alone; export again"
            )
        batch = self.inputs[0].shape[0] if self.inputs else None
        names = tuple(spec.name for spec in self.outputs)
        if not isinstance(batch, int | str) or names not in (OUTPUT_NAMES, OUTPUT_NAMES[:2]):
            raise ArtifactError("the metadata names other inputs or outputs; export again")
        expected = (input_spec(self.config, batch), *output_specs(self.config, batch, names))
        if (*self.inputs, *self.outputs) != expected:
            raise ArtifactError(
                "the metadata contradicts itself: the inputs and outputs are not those of its "
                "model configuration; export again"
            )

"""What an exported artifact says about itself: one JSON document. Needs neither torch nor onnx."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from capsnet.about import TrainingInputs
from capsnet.documents import from_values, parse_json, to_values
from capsnet.errors import ArtifactError, printable

__all__ = [
    "COUPLINGS",
    "INPUT_DTYPES",
    "INPUT_NAME",
    "LAYOUTS",
    "METADATA_KEY",
    "OUTPUT_NAMES",
    "SCHEMA_VERSION",
    "ArtifactMetadata",
    "Claim",
    "TensorSpec",
]

METADATA_KEY = "capsnet"
"""Key of the document: ONNX ``metadata_props``, TorchScript and torch.export extra files."""

SCHEMA_VERSION = 3
"""Of the documents that are written; earlier ones are read, too."""

INPUT_DTYPES = ("float32", "uint8")
LAYOUTS = ("nchw", "nhwc")
"""How an artifact may take images; the first of each is what it takes unless it is asked for."""

INPUT_NAME = "image"
OUTPUT_NAMES = ("lengths", "capsules", "reconstruction")
"""What a classifying capsule network takes and gives; a user's own network names its own."""

COUPLINGS = (
    *("Exp", "Softmax", "aten::exp", "aten::softmax"),
    *("aten.exp.default", "aten.softmax.int", "aten._softmax.default"),
)


_IMAGE_AXES = 3

_LARGEST = 2**26
"""Elements of an input or output, at a fixed batch size."""


@dataclass(frozen=True)
class TensorSpec:
    """An input or output: its name, dtype, and shape, in which ``"batch"`` is any size."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Claim:
    """What a graph must contain to be what its metadata says.

    Attributes:
        what: the property that it shows, in words.
        operators: names of operators, of any format, that are counted together.
        least: how many of them there must be.
        most: how many there may be; None for any number.
    """

    what: str
    operators: tuple[str, ...]
    least: int
    most: int | None = None

    def and_also(self, other: "Claim") -> "Claim":
        """Both claims of one graph, which has the operators of both."""
        most = None if None in (self.most, other.most) else (self.most or 0) + (other.most or 0)
        return Claim(f"{self.what}, {other.what}", self.operators, self.least + other.least, most)

    def problem(self, found: Mapping[str, int]) -> str | None:
        """Why a graph with so many of each operator is not what it claims to be; None if it is."""
        count = sum(found.get(name, 0) for name in self.operators)
        if count >= self.least and (self.most is None or count <= self.most):
            return None
        bounds = f"at least {self.least}"
        if self.most is not None:
            bounds = f"{self.least}" if self.most == self.least else f"{self.least} to {self.most}"
        return (
            f"{self.what} takes {bounds} of {'/'.join(self.operators[:2])}, the graph has {count}"
        )


@dataclass(frozen=True)
class ArtifactMetadata:
    """The document inside an artifact.

    Attributes:
        toolkit_version: version of this package that exported it.
        exporter: which exporter wrote it, such as ``torch.onnx``.
        versions: of the libraries that took part.
        checkpoint_sha256: of the checkpoint file whose weights it holds, if there was one.
        config: the network's configuration as JSON values (:class:`capsnet.config.CapsNetConfig`).
        precision: of the weights and arithmetic inside; outputs are always float32.
        forms: what the lowering chose, such as ``{"convolution": "winograd"}``.
        inputs: what it takes; images of uint8 have values 0..255.
        layout: of images: ``"nchw"`` or ``"nhwc"``.
        outputs: what it gives, in order.
        decision: the output ``[batch, classes]`` whose largest value names the class; None where
            nothing is classified.
        claims: what the graph must contain to be the network that it says it is.
        opset: ONNX operator set, None for other formats.
        ir_version: version of the ONNX representation, None for other formats.
        class_names: by the number of the class; empty where they have none.
        training_inputs: what the images looked like that the network was trained on, where that is
            known.
        schema_version: of this document.
    """

    toolkit_version: str
    exporter: str
    versions: Mapping[str, str]
    checkpoint_sha256: str | None
    config: Mapping[str, Any]
    precision: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    layout: str = "nchw"
    forms: Mapping[str, str] = field(default_factory=dict)
    decision: str | None = "lengths"
    claims: tuple[Claim, ...] = ()
    opset: int | None = None
    ir_version: int | None = None
    class_names: tuple[str, ...] = ()
    training_inputs: TrainingInputs | None = None
    schema_version: int = SCHEMA_VERSION

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of one input image: channels, height, width.

        Raises:
            ArtifactError: if it takes something else.
        """
        sizes = [int(size) for size in self.inputs[0].shape[1:]]
        if len(self.inputs) > 1 or len(sizes) != _IMAGE_AXES:
            given = "; ".join(f"{spec.name} {list(spec.shape)}" for spec in self.inputs)
            raise ArtifactError(
                f"the network takes {given}, expected images [batch, channels, height, width]; run "
                "its session with arrays instead"
            )
        return (sizes[-1], *sizes[:-1]) if self.layout == "nhwc" else tuple(sizes)

    @property
    def is_own(self) -> bool:
        """Whether it is a network of a user's own, which names its inputs itself."""
        return "module" in self.config

    @property
    def fixed_batch(self) -> int | None:
        """The batch size that it insists on; None for any."""
        batch = self.inputs[0].shape[0]
        return batch if isinstance(batch, int) else None

    @property
    def classes(self) -> int:
        """Number of classes; 0 where nothing is classified."""
        found = [spec for spec in self.outputs if spec.name == self.decision]
        return int(found[0].shape[1]) if found and len(found[0].shape) == 2 else 0

    def to_json(self) -> str:
        """The document as one line of JSON; equal documents give equal text."""
        return json.dumps(to_values(self), sort_keys=True)

    def describe(self) -> str:
        """What the network takes and gives, in words, for people who look into the file."""
        takes = ", ".join(
            f"{spec.name} {spec.dtype} [{', '.join(map(str, spec.shape))}]" for spec in self.inputs
        )
        lines = [f"Takes {takes}, values 0 to 1."]
        given = self.training_inputs
        if given is not None:
            lines.append(
                f"Trained on {given.colour} images, {given.polarity}, mean {given.mean.mean:.3g}, "
                f"deviation {given.deviation.mean:.3g}."
            )
        if self.class_names:
            lines.append(f"Classes in order: {', '.join(self.class_names)}.")
        return " ".join(lines)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse what :meth:`to_json` wrote, in this or an earlier schema version.

        Raises:
            ArtifactError: if the text is not such a document, is of a newer schema, or contradicts
                itself.
        """
        try:
            values = parse_json(text)
            _refuse_control_characters(values)
            version = values["schema_version"]
            if version == 1:
                values = _from_version_1(values)
            elif version == 2:  # knows neither names of classes nor training inputs
                values = {**values, "schema_version": SCHEMA_VERSION}
            elif version != SCHEMA_VERSION:
                raise ArtifactError(
                    f"the metadata has schema version {version}, this toolkit reads up to "
                    f"{SCHEMA_VERSION}: upgrade capsnet-export, or export the model again"
                )
            metadata = from_values(cls, values)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ArtifactError(f"the metadata is damaged: {error}; export again") from error
        metadata._check()
        return metadata

    def _check(self) -> None:
        """Raise ArtifactError where the document's parts contradict each other."""
        names = [spec.name for spec in (*self.inputs, *self.outputs)]
        if not self.inputs or not self.outputs or len(set(names)) < len(names):
            raise ArtifactError(
                f"the metadata names the inputs and outputs {', '.join(names) or '(none)'}, "
                "expected at least one of each, all different; export again"
            )
        allowed = dict.fromkeys((spec.name for spec in self.inputs), INPUT_DTYPES)
        if any(
            len(spec.shape) < 1 or spec.dtype not in allowed.get(spec.name, ("float32",))
            for spec in (*self.inputs, *self.outputs)
        ):
            raise ArtifactError(
                "the metadata names an input or output that is not float32 with a batch axis; "
                "export again"
            )
        if self.layout not in LAYOUTS or (
            self.layout != "nchw" and [len(spec.shape) for spec in self.inputs] != [4]
        ):
            raise ArtifactError(
                f"the metadata gives the layout {self.layout!r} to inputs that it does not fit; "
                "export again"
            )
        for spec in (*self.inputs, *self.outputs):
            sizes = [n for n in spec.shape if isinstance(n, int)]
            if any(n < 1 for n in sizes) or math.prod(sizes) > _LARGEST:
                raise ArtifactError(
                    f"the metadata gives {spec.name} the shape {list(spec.shape)}, expected "
                    f"positive sizes and at most {_LARGEST} elements; export again"
                )
            if len(sizes) < len(spec.shape) - 1:
                raise ArtifactError(
                    f"the metadata gives {spec.name} the shape {list(spec.shape)}, expected "
                    "numbers behind the batch axis; export again"
                )
        if len({spec.shape[0] for spec in (*self.inputs, *self.outputs)}) > 1:
            raise ArtifactError(
                "the metadata contradicts itself: inputs and outputs of different batch sizes; "
                "export again"
            )
        if self.class_names and len(self.class_names) != self.classes:
            raise ArtifactError(
                f"the metadata contradicts itself: {len(self.class_names)} names for "
                f"{self.classes} classes; export again"
            )
        if self.decision is not None and self.decision not in names[len(self.inputs) :]:
            raise ArtifactError(
                f"the metadata contradicts itself: {self.decision} decides the class, and is none "
                "of its outputs; export again"
            )


def _refuse_control_characters(values: Any) -> None:
    """Raise ValueError where a document holds characters that control a terminal."""
    if isinstance(values, Mapping):
        for name, value in values.items():
            _refuse_control_characters(name)
            _refuse_control_characters(value)
    elif isinstance(values, list):
        for value in values:
            _refuse_control_characters(value)
    elif isinstance(values, str) and printable(values) != values:
        raise ValueError(f"{values[:60]!r} holds control characters")


def _from_version_1(values: Mapping[str, Any]) -> dict[str, Any]:
    """The document of a file that version 0.1 of the toolkit wrote, in today's form."""
    document = dict(values)
    iterations = document.pop("routing_iterations")
    configured = [layer["routing_iterations"] for layer in document["config"]["capsule_layers"]]
    if iterations != configured:
        raise ArtifactError(
            f"the metadata contradicts itself: routing iterations {iterations}, but the model "
            f"configuration says {configured}; export it again"
        )
    couplings = sum(count - 1 for count in iterations)
    claim = Claim(f"routing of {iterations} iterations", COUPLINGS, couplings, couplings)
    forms = {
        "routing": document.pop("routing"),
        "convolution": document.pop("convolution", "direct"),
    }
    return document | {
        "forms": forms,
        "claims": [to_values(claim)],
        "schema_version": SCHEMA_VERSION,
    }

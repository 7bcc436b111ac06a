"""What every kind of layer has: a configuration that names its kind, and builds its module."""

import dataclasses
import importlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from torch import nn

from capsnet.errors import ConfigError
from capsnet.layers import KINDS
from capsnet.limits import MOST_VALUES, require_at_most

__all__ = [
    "AnyDecoderConfig",
    "Kind",
    "LayerConfig",
    "Shape",
    "require_capsules",
    "require_positive",
]

Shape = tuple[int, ...]
"""Of what flows between layers, without the batch: an image ``(channels, height, width)``, or
capsules ``(capsules, dim)``."""


class Kind(ABC):
    """A configuration that says in JSON which of its siblings it is, under the key ``kind``."""

    kind: ClassVar[str]
    sort: ClassVar[str]
    _known: ClassVar[dict[str, type["Kind"]]] = {}

    def __init_subclass__(cls, *, kind: str | None = None) -> None:
        if kind is not None:
            cls.kind = kind
            Kind._known[kind] = cls

    @classmethod
    def of_kind(cls, kind: object) -> type[Self]:
        """The class of that kind.

        Raises:
            ValueError: if there is none, or it is of another sort than this class.
        """
        if isinstance(kind, str) and kind in KINDS:
            importlib.import_module(KINDS[kind])
        found = Kind._known.get(kind) if isinstance(kind, str) else None
        if found is None or not issubclass(found, cls):
            raise ValueError(
                f"{kind!r} is no kind of {cls.sort}, expected one of "
                f"{', '.join(k for k, c in Kind._known.items() if issubclass(c, cls))}; "
                "import the module that defines it"
            )
        return found


@dataclass(frozen=True)
class LayerConfig(Kind):
    """Sizes of one layer. A subclass is a kind of layer::

        @dataclass(frozen=True)
        class MyConfig(LayerConfig, kind="mine"):
            capsules: int

    Its JSON form holds its fields, and its ``kind``.

    Attributes:
        activated: whether its capsules carry an activation, the probability that what they stand
            for is present, as their last value. Without one, their length is that.
        needs_activation: whether the capsules that it takes must carry one; otherwise none may.
    """

    sort: ClassVar[str] = "layer"
    activated: ClassVar[bool] = False
    needs_activation: ClassVar[bool] = False

    @abstractmethod
    def output_shape(self, shape: Shape) -> Shape:
        """Shape of what the layer gives.

        Args:
            shape: of what it takes.

        Raises:
            ConfigError: if it does not take that.
        """

    @abstractmethod
    def build(self, shape: Shape) -> nn.Module:
        """A new layer, with random weights.

        Args:
            shape: of what it takes.
        """


@dataclass(frozen=True)
class AnyDecoderConfig(Kind):
    """Sizes of a decoder; a subclass is a kind of decoder, as with :class:`LayerConfig`."""

    sort: ClassVar[str] = "decoder"

    @abstractmethod
    def build(self, capsules: Shape, image_shape: Shape) -> nn.Module:
        """A new decoder, with random weights.

        Args:
            capsules: number and dim of the class capsules.
            image_shape: channels, height and width of the images.

        Returns:
            A module from class capsules ``[batch, classes, dim]``, all but one of them zero, to
            images ``[batch, channels, height, width]``, values 0..1.
        """


def require_capsules(shape: Shape) -> None:
    """Raise ConfigError unless the shape is that of capsules."""
    if len(shape) != 2:
        raise ConfigError(f"a capsule layer takes (capsules, dim), got {shape}")


def require_positive(config: Any, name: str = "", or_zero: tuple[str, ...] = ()) -> None:
    """Raise ConfigError unless every whole number is positive and within the limits.

    Args:
        config: of a layer, or of a part of it.
        name: what messages call it; its kind by default.
        or_zero: fields that may be zero.
    """
    name = name or config.kind
    for field in dataclasses.fields(config):
        if field.type not in (int, "int"):
            continue
        value, least = getattr(config, field.name), 0 if field.name in or_zero else 1
        if type(value) is not int or value < least:
            expected = "a positive integer" if least else "zero or a positive integer"
            raise ConfigError(f"{name}: {field.name} must be {expected}, got {value!r}")
        require_at_most(f"{name}: {field.name}", value, MOST_VALUES)

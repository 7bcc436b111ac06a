"""The hyperparameters of a capsule network, validated, and as JSON."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from capsnet.errors import ConfigError

__all__ = ["PRESETS", "CapsNetConfig", "CapsuleLayerConfig", "PrimaryActivation"]

PrimaryActivation = Literal["scale", "squash"]


def _require_positive(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name} must be a positive integer, got {value!r}")


@dataclass(frozen=True)
class CapsuleLayerConfig:
    """One layer of capsules with routing by agreement.

    Attributes:
        capsules: number of output capsules.
        dim: length of each capsule's pose vector.
        routing_iterations: rounds of dynamic routing, at least 1 (the paper uses 3).

    Raises:
        ConfigError: if a value is not a positive integer.
    """

    capsules: int
    dim: int
    routing_iterations: int = 3

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _require_positive(f"capsule layer: {field.name}", getattr(self, field.name))


@dataclass(frozen=True)
class CapsNetConfig:
    """Sizes of a CapsNet: stem convolution, primary capsules, capsule layers, decoder.

    The defaults are the network of Sabour, Frosst and Hinton (2017, arXiv:1710.09829, section 4).

    Attributes:
        image_shape: channels, height and width of an image.
        stem_channels: output channels of the first convolution (stride 1).
        stem_kernel: its kernel size, in pixels.
        primary_groups: convolutional capsules at each position.
        primary_dim: length of a primary capsule's pose vector.
        primary_kernel: kernel size of the primary convolution, in stem positions.
        primary_stride: its stride.
        primary_activation: ``"scale"`` multiplies the primary capsules by 0.01 (as readable_capsnet
            does); ``"squash"`` squashes them (as the paper does).
        capsule_layers: the stack of capsule layers; the last one holds the classes.
        decoder_sizes: hidden sizes of the reconstructing decoder, or None for no decoder.

    Raises:
        ConfigError: if a value is out of range, or the convolutions leave no position.
    """

    image_shape: tuple[int, int, int] = (1, 28, 28)
    stem_channels: int = 256
    stem_kernel: int = 9
    primary_groups: int = 32
    primary_dim: int = 8
    primary_kernel: int = 9
    primary_stride: int = 2
    primary_activation: PrimaryActivation = "scale"
    capsule_layers: tuple[CapsuleLayerConfig, ...] = (CapsuleLayerConfig(capsules=10, dim=16),)
    decoder_sizes: tuple[int, ...] | None = (512, 1024)

    def __post_init__(self) -> None:
        if not isinstance(self.image_shape, tuple) or len(self.image_shape) != 3:
            raise ConfigError(
                f"image_shape must be (channels, height, width), got {self.image_shape!r}"
            )
        for axis, size in zip(("channels", "height", "width"), self.image_shape, strict=True):
            _require_positive(f"image_shape: {axis}", size)
        for field in dataclasses.fields(self):
            if field.type is int:
                _require_positive(field.name, getattr(self, field.name))
        if self.primary_activation not in get_args(PrimaryActivation):
            raise ConfigError(
                f"primary_activation must be one of {', '.join(get_args(PrimaryActivation))}, "
                f"got {self.primary_activation!r}"
            )
        if not isinstance(self.capsule_layers, tuple) or not self.capsule_layers:
            raise ConfigError(
                "capsule_layers must be a tuple of at least one layer, the classes, "
                f"got {self.capsule_layers!r}"
            )
        for layer in self.capsule_layers:
            if not isinstance(layer, CapsuleLayerConfig):
                raise ConfigError(f"capsule_layers must hold CapsuleLayerConfig, got {layer!r}")
        if self.classes < 2:
            raise ConfigError("the last capsule layer holds the classes: it needs at least 2")
        if self.decoder_sizes is not None:
            if not isinstance(self.decoder_sizes, tuple) or not self.decoder_sizes:
                raise ConfigError(
                    "decoder_sizes must be a tuple of at least one hidden size, or None for no "
                    f"decoder, got {self.decoder_sizes!r}"
                )
            for size in self.decoder_sizes:
                _require_positive("decoder_sizes", size)
        if min(self.primary_grid) < 1:
            _, height, width = self.image_shape
            needed = self.stem_kernel + self.primary_kernel - 1
            raise ConfigError(
                f"no pixels are left behind the convolutions: kernels of {self.stem_kernel} and "
                f"{self.primary_kernel} need images of at least {needed}x{needed}, "
                f"got {height}x{width}"
            )

    @property
    def stem_grid(self) -> tuple[int, int]:
        """Height and width of the stem's output."""
        _, height, width = self.image_shape
        return height - self.stem_kernel + 1, width - self.stem_kernel + 1

    @property
    def primary_grid(self) -> tuple[int, int]:
        """Height and width of the primary convolution's output."""
        height, width = self.stem_grid
        return (
            (height - self.primary_kernel) // self.primary_stride + 1,
            (width - self.primary_kernel) // self.primary_stride + 1,
        )

    @property
    def primary_capsules(self) -> int:
        """Number of primary capsules: positions times groups."""
        height, width = self.primary_grid
        return height * width * self.primary_groups

    @property
    def classes(self) -> int:
        """Number of classes: the capsules of the last layer."""
        return self.capsule_layers[-1].capsules

    @property
    def class_dim(self) -> int:
        """Length of a class capsule's pose vector."""
        return self.capsule_layers[-1].dim

    def to_json(self) -> str:
        """The configuration as one line of JSON with sorted keys."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The configuration that :meth:`to_json` wrote.

        Raises:
            ConfigError: if the text is not JSON, or describes no network.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"the configuration is not JSON: {error}") from error
        return cls.from_dict(values)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The configuration from parsed JSON.

        Raises:
            ConfigError: if a key is unknown, or a value describes no network.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"the configuration must be a JSON object, got {values!r}")
        known = dict(values)
        layers = known.get("capsule_layers")
        try:
            if layers is not None:
                known["capsule_layers"] = tuple(CapsuleLayerConfig(**layer) for layer in layers)
            for name in ("image_shape", "decoder_sizes"):
                if known.get(name) is not None:
                    known[name] = tuple(known[name])
            return cls(**known)
        except TypeError as error:
            raise ConfigError(f"the configuration does not describe a CapsNet: {error}") from error


PRESETS: Mapping[str, CapsNetConfig] = {
    "mnist": CapsNetConfig(),
    "cifar10": CapsNetConfig(image_shape=(3, 32, 32)),
    "tiny": CapsNetConfig(
        stem_channels=8,
        primary_groups=4,
        primary_dim=4,
        capsule_layers=(CapsuleLayerConfig(capsules=10, dim=8),),
        decoder_sizes=(16,),
    ),
}
"""Named configurations: ``mnist`` has the paper's sizes, ``tiny`` is for tests."""

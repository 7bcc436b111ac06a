"""The configuration of a capsule network: its layers, validated, and as JSON."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

from capsnet.documents import from_values, parse_json, to_values
from capsnet.errors import ConfigError
from capsnet.importers.version_0_1 import from_flat, is_flat
from capsnet.layers.base import AnyDecoderConfig, LayerConfig, Shape
from capsnet.layers.decoder import DecoderConfig
from capsnet.layers.dynamic import DynamicConfig
from capsnet.layers.primary import PrimaryConfig
from capsnet.layers.stem import ConvConfig
from capsnet.limits import MOST_LAYERS, MOST_VALUES, require_at_most
from capsnet.presets import PRESETS

__all__ = ["CapsNetConfig", "preset"]


@dataclass(frozen=True)
class CapsNetConfig:
    """What a CapsNet is composed of.

    The defaults are the network of Sabour, Frosst and Hinton (2017, arXiv:1710.09829, section 4).

    Attributes:
        image_shape: channels, height and width of an image.
        stem: from images to features.
        primary: from features to capsules.
        capsule_layers: from capsules to capsules; the last one holds the classes.
        decoder: from class capsules to images, or None for no decoder.

    Raises:
        ConfigError: if a layer does not take what the one before it gives.
    """

    image_shape: tuple[int, int, int] = (1, 28, 28)
    stem: LayerConfig = ConvConfig()
    primary: LayerConfig = PrimaryConfig()
    capsule_layers: tuple[LayerConfig, ...] = (DynamicConfig(capsules=10, dim=16),)
    decoder: AnyDecoderConfig | None = DecoderConfig()

    def __post_init__(self) -> None:
        if not isinstance(self.image_shape, tuple) or len(self.image_shape) != 3:
            raise ConfigError(
                f"image_shape must be (channels, height, width), got {self.image_shape!r}"
            )
        for axis, size in zip(("channels", "height", "width"), self.image_shape, strict=True):
            if type(size) is not int or size < 1:
                raise ConfigError(f"image_shape: {axis} must be a positive integer, got {size!r}")
        require_at_most("the values of an image", math.prod(self.image_shape), MOST_VALUES)
        if not isinstance(self.capsule_layers, tuple) or not self.capsule_layers:
            raise ConfigError(
                "capsule_layers must be a tuple of at least one layer, the classes, "
                f"got {self.capsule_layers!r}"
            )
        require_at_most("the number of capsule layers", len(self.capsule_layers), MOST_LAYERS)
        for name, layer in self.layers().items():
            if not isinstance(layer, LayerConfig):
                raise ConfigError(f"{name} must be the configuration of a layer, got {layer!r}")
        if self.decoder is not None and not isinstance(self.decoder, AnyDecoderConfig):
            raise ConfigError(
                f"decoder must be the configuration of a decoder or None, got {self.decoder!r}"
            )
        shape = self.shapes[-1]
        if len(shape) != 2:
            raise ConfigError(f"the last layer must give (capsules, dim), it gives {shape}")
        layers = list(self.layers().items())
        for (_, giving), (name, taking) in pairwise(layers[1:]):
            if giving.activated != taking.needs_activation:
                needs = "needs" if taking.needs_activation else "does not take"
                raise ConfigError(
                    f"{name}: {taking.kind} {needs} capsules with an activation, and {giving.kind} "
                    f"gives capsules {'with' if giving.activated else 'without'} one"
                )
        if self.classes < 2:
            raise ConfigError("the last capsule layer holds the classes: it needs at least 2")

    def layers(self) -> dict[str, LayerConfig]:
        """The layers by the name of their stage, in the order of computation."""
        routed = {f"layer{index}": layer for index, layer in enumerate(self.capsule_layers)}
        return {"stem": self.stem, "primary_capsules": self.primary, **routed}

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """The shape of an image, and of what each layer gives."""
        shapes: list[Shape] = [self.image_shape]
        for name, layer in self.layers().items():
            try:
                shapes.append(layer.output_shape(shapes[-1]))
            except ConfigError as error:
                raise ConfigError(f"{name}: {error}") from error
            require_at_most(f"{name}: the values it gives", math.prod(shapes[-1]), MOST_VALUES)
        return tuple(shapes)

    @property
    def classes(self) -> int:
        """Number of classes: the capsules of the last layer."""
        return self.shapes[-1][0]

    @property
    def activated(self) -> bool:
        """Whether class capsules carry an activation as their last value."""
        return self.capsule_layers[-1].activated

    @property
    def class_dim(self) -> int:
        """Length of a class capsule's pose vector."""
        return self.shapes[-1][1] - self.activated

    def to_json(self) -> str:
        """The configuration as one line of JSON with sorted keys."""
        return json.dumps(to_values(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The configuration that :meth:`to_json` wrote.

        Raises:
            ConfigError: if the text is not JSON, or describes no network.
        """
        try:
            values = parse_json(text)
        except ValueError as error:
            raise ConfigError(f"the configuration is not JSON: {error}") from error
        return cls.from_dict(values)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The configuration from parsed JSON, of this or an earlier version of the toolkit.

        Raises:
            ConfigError: if a key is unknown, or a value describes no network.
        """
        try:
            if isinstance(values, Mapping) and is_flat(values):
                values = from_flat(values)
            return from_values(cls, values)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigError(f"the configuration does not describe a CapsNet: {error}") from error


def preset(name: str) -> CapsNetConfig:
    """The configuration of that name.

    Raises:
        ConfigError: if :data:`capsnet.presets.PRESETS` has none.
    """
    if name not in PRESETS:
        raise ConfigError(f"preset must be one of {', '.join(PRESETS)}, got {name!r}")
    return CapsNetConfig.from_dict(PRESETS[name])

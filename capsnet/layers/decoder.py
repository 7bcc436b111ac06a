"""Decoders: images from class capsules, by dense layers (arXiv:1710.09829, section 4.1)."""

import math
from dataclasses import dataclass
from itertools import pairwise

from einops.layers.torch import Rearrange, Reduce
from torch import nn

from capsnet.errors import ConfigError
from capsnet.layers.base import AnyDecoderConfig, Shape
from capsnet.limits import MOST_LAYERS, MOST_VALUES, require_at_most

__all__ = ["Decoder", "DecoderConfig", "capsules_as_values", "check_sizes"]


def check_sizes(name: str, sizes: object) -> None:
    """Raise ConfigError unless these are at least one positive integer, within the limits.

    Args:
        name: of the field.
        sizes: the field's value.
    """
    where = f"decoder: {name}"
    if not isinstance(sizes, tuple) or not sizes:
        raise ConfigError(
            f"{where} must be a tuple of at least one size (no decoder at all is None), "
            f"got {sizes!r}"
        )
    for size in sizes:
        if type(size) is not int or size < 1:
            raise ConfigError(f"{where} must be positive integers, got {size!r}")
        require_at_most(f"{where}: a size", size, MOST_VALUES)
    require_at_most(f"{where}: the number of sizes", len(sizes), MOST_LAYERS)


def capsules_as_values(capsules: Shape, alone: bool) -> tuple[nn.Module, int]:
    """What turns class capsules, all but one of them zero, into values ``[batch, n]``, and n.

    Args:
        capsules: their number and dim.
        alone: whether only the one that is not zero counts, whichever it is.
    """
    if alone:
        return Reduce("b o h -> b h", "sum"), capsules[1]
    return Rearrange("b o h -> b (o h)"), math.prod(capsules)


@dataclass(frozen=True)
class DecoderConfig(AnyDecoderConfig, kind="dense"):
    """Fully connected layers with ReLU, and a sigmoid at the end.

    Attributes:
        hidden: sizes of the hidden layers.
        alone: whether the decoder sees the values of the one class capsule, and not which class it
            stands for.

    Raises:
        ConfigError: if there is no hidden layer, or a size is not a positive integer.
    """

    hidden: tuple[int, ...] = (512, 1024)
    alone: bool = False

    def __post_init__(self) -> None:
        check_sizes("hidden", self.hidden)

    def build(self, capsules: Shape, image_shape: Shape) -> "Decoder":
        return Decoder(capsules, self, image_shape)


class Decoder(nn.Sequential):
    """Class capsules ``[batch, classes, dim]``, all but one masked, to images, values 0..1.

    Args:
        capsules: number and dim of the class capsules.
        config: sizes of the hidden layers.
        image_shape: channels, height and width of the images.
    """

    def __init__(self, capsules: Shape, config: DecoderConfig, image_shape: Shape) -> None:
        channels, height, width = image_shape
        values, size = capsules_as_values(capsules, config.alone)
        sizes = (size, *config.hidden)
        super().__init__(
            values,
            *(m for pair in pairwise(sizes) for m in (nn.Linear(*pair), nn.ReLU())),
            nn.Linear(sizes[-1], math.prod(image_shape)),
            nn.Sigmoid(),
            Rearrange("b (c h w) -> b c h w", c=channels, h=height, w=width),
        )

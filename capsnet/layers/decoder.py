"""The decoder: images from class capsules (arXiv:1710.09829, section 4.1)."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from einops.layers.torch import Rearrange
from torch import nn

from capsnet.errors import ConfigError
from capsnet.layers.base import Shape
from capsnet.limits import MOST_LAYERS, MOST_VALUES, require_at_most

__all__ = ["Decoder", "DecoderConfig"]


@dataclass(frozen=True)
class DecoderConfig:
    """Fully connected layers with ReLU, and a sigmoid at the end.

    Attributes:
        hidden: sizes of the hidden layers.

    Raises:
        ConfigError: if there is no hidden layer, or a size is not a positive integer.
    """

    kind: ClassVar[str] = "dense"

    hidden: tuple[int, ...] = (512, 1024)

    def __post_init__(self) -> None:
        if not isinstance(self.hidden, tuple) or not self.hidden:
            raise ConfigError(
                "decoder: hidden must be a tuple of at least one size (no decoder at all is None), "
                f"got {self.hidden!r}"
            )
        for size in self.hidden:
            if type(size) is not int or size < 1:
                raise ConfigError(f"decoder: hidden must be positive integers, got {size!r}")
            require_at_most("decoder: a hidden layer", size, MOST_VALUES)
        require_at_most("decoder: the number of hidden layers", len(self.hidden), MOST_LAYERS)

    def build(self, capsules: Shape, image_shape: Shape) -> "Decoder":
        """A new decoder, with random weights.

        Args:
            capsules: number and dim of the class capsules.
            image_shape: channels, height and width of the images.
        """
        return Decoder(capsules, self.hidden, image_shape)


class Decoder(nn.Sequential):
    """Class capsules ``[batch, classes, dim]``, all but one masked, to images, values 0..1.

    Args:
        capsules: number and dim of the class capsules.
        hidden: sizes of the hidden layers.
        image_shape: channels, height and width of the images.
    """

    def __init__(self, capsules: Shape, hidden: tuple[int, ...], image_shape: Shape) -> None:
        channels, height, width = image_shape
        sizes = (math.prod(capsules), *hidden)
        super().__init__(
            Rearrange("b o h -> b (o h)"),
            *(m for pair in pairwise(sizes) for m in (nn.Linear(*pair), nn.ReLU())),
            nn.Linear(sizes[-1], math.prod(image_shape)),
            nn.Sigmoid(),
            Rearrange("b (c h w) -> b c h w", c=channels, h=height, w=width),
        )

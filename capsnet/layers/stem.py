"""The stem: a convolution and a ReLU (arXiv:1710.09829, section 4)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from capsnet.errors import ConfigError
from capsnet.layers.base import LayerConfig, Shape, require_positive

__all__ = ["ConvConfig", "ConvStem", "positions"]


def positions(shape: Shape, kernel: int, stride: int) -> tuple[int, int]:
    """Height and width behind a convolution without padding.

    Args:
        shape: channels, height and width in front of it.
        kernel: rows and columns of its kernel.
        stride: between them.

    Raises:
        ConfigError: if nothing is left, or the shape is not that of an image.
    """
    if len(shape) != 3:
        raise ConfigError(f"a convolution takes (channels, height, width), got {shape}")
    _, height, width = shape
    if min(height, width) < kernel:
        raise ConfigError(
            f"no pixels are left: a kernel of {kernel} needs at least {kernel}x{kernel} positions, "
            f"got {height}x{width}"
        )
    return (height - kernel) // stride + 1, (width - kernel) // stride + 1


@dataclass(frozen=True)
class ConvConfig(LayerConfig, kind="conv"):
    """A convolution with stride 1 and without padding.

    Attributes:
        channels: of its output.
        kernel: rows and columns of its kernel, in pixels.

    Raises:
        ConfigError: if a value is not a positive integer.
    """

    channels: int = 256
    kernel: int = 9

    def __post_init__(self) -> None:
        require_positive(self)

    def output_shape(self, shape: Shape) -> Shape:
        return (self.channels, *positions(shape, self.kernel, 1))

    def build(self, shape: Shape) -> "ConvStem":
        return ConvStem(shape[0], self.channels, self.kernel)


class ConvStem(nn.Conv2d):
    """Images ``[batch, channels, height, width]`` to features of the same axes, none negative."""

    def forward(self, images: Tensor) -> Tensor:
        """The rectified convolution."""
        return torch.relu(conv2d(images, self.weight, self.bias))

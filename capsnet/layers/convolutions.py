"""A stem of several convolutions, each with a ReLU, and batch normalisation behind it if asked."""

from dataclasses import dataclass

from torch import nn

from capsnet.errors import ConfigError
from capsnet.layers.base import LayerConfig, Shape, require_positive
from capsnet.layers.stem import positions
from capsnet.limits import MOST_LAYERS, require_at_most

__all__ = ["EPSILON", "Convolution", "ConvolutionsConfig", "ConvolutionsStem"]

EPSILON = 1e-3  # of the batch normalisation: Keras' default
_MOMENTUM = 0.01  # the same: how much one batch counts in the running mean and variance


@dataclass(frozen=True)
class Convolution:
    """One convolution of the stem.

    Attributes:
        channels: of its output.
        kernel: rows and columns of its kernel.
        stride: between its positions.
        padding: rows and columns of zeros around its input.
        batch_norm: whether batch normalisation follows its ReLU.
    """

    channels: int
    kernel: int
    stride: int = 1
    padding: int = 0
    batch_norm: bool = False

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of what it makes of ``(channels, height, width)``."""
        if len(shape) == 3:
            shape = (shape[0], *(size + 2 * self.padding for size in shape[1:]))
        return (self.channels, *positions(shape, self.kernel, self.stride))


@dataclass(frozen=True)
class ConvolutionsConfig(LayerConfig, kind="convolutions"):
    """Several convolutions, one behind the other.

    Attributes:
        convolutions: at least one.

    Raises:
        ConfigError: if there is none, or a value is out of range.
    """

    convolutions: tuple[Convolution, ...]

    def __post_init__(self) -> None:
        given = self.convolutions
        if not (isinstance(given, tuple) and given and all(type(c) is Convolution for c in given)):
            raise ConfigError(
                f"convolutions: expected a tuple of at least one Convolution, got {given!r}"
            )
        require_at_most("the number of convolutions", len(self.convolutions), MOST_LAYERS)
        for number, convolution in enumerate(self.convolutions):
            require_positive(convolution, f"convolutions[{number}]", or_zero=("padding",))

    def output_shape(self, shape: Shape) -> Shape:
        for convolution in self.convolutions:
            shape = convolution.output_shape(shape)
        return shape

    def build(self, shape: Shape) -> "ConvolutionsStem":
        return ConvolutionsStem(shape[0], self)


class ConvolutionsStem(nn.Sequential):
    """Images ``[batch, channels, height, width]`` to features of the same axes.

    Args:
        in_channels: of the images.
        config: the convolutions.
    """

    def __init__(self, in_channels: int, config: ConvolutionsConfig) -> None:
        super().__init__()
        self.config = config
        for c in config.convolutions:
            self.append(nn.Conv2d(in_channels, c.channels, c.kernel, c.stride, c.padding))
            self.append(nn.ReLU())
            if c.batch_norm:
                self.append(nn.BatchNorm2d(c.channels, eps=EPSILON, momentum=_MOMENTUM))
            in_channels = c.channels

"""Convolutional capsules: a capsule layer at every position of a grid, with the same weights.

Which one it is, and so how it routes, is up to its configuration; each position routes by itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from einops import rearrange
from torch import Tensor, nn

from capsnet.errors import ConfigError
from capsnet.layers.base import LayerConfig, Shape, require_positive
from capsnet.layers.stem import positions

__all__ = ["ConvolutionalCapsules", "ConvolutionalConfig"]


@dataclass(frozen=True)
class ConvolutionalConfig(LayerConfig, kind="convolutional"):
    """A capsule layer that sees the capsules of a window, at every position of a grid.

    Attributes:
        grid: rows and columns of the positions that the capsules given to it stand at.
        kernel: rows and columns of a window.
        layer: routes the capsules of a window, and gives those of one position.
        stride: between windows.

    Raises:
        ConfigError: if a value is not a positive integer, or there is no layer.
    """

    grid: tuple[int, int]
    kernel: int
    layer: LayerConfig
    stride: int = 1

    def __post_init__(self) -> None:
        require_positive(self)
        grid = self.grid
        if not (isinstance(grid, tuple) and len(grid) == 2 and all(type(n) is int for n in grid)):
            raise ConfigError(f"convolutional: grid must be (rows, columns), got {grid!r}")
        if min(grid) < 1:
            raise ConfigError(f"convolutional: grid must be positive integers, got {grid}")
        if not isinstance(self.layer, LayerConfig):
            raise ConfigError(
                f"convolutional: layer must be the configuration of a layer, got {self.layer!r}"
            )

    @property
    def activated(self) -> bool:  # type: ignore[override]
        """As the layer at each position."""
        return self.layer.activated

    @property
    def needs_activation(self) -> bool:  # type: ignore[override]
        """As the layer at each position."""
        return self.layer.needs_activation

    def output_shape(self, shape: Shape) -> Shape:
        height, width = positions((1, *self.grid), self.kernel, self.stride)
        capsules, dim = self.layer.output_shape(self.window_shape(shape))
        return height * width * capsules, dim

    def window_shape(self, shape: Shape) -> Shape:
        """Capsules of one window, and their dim, of capsules of that shape."""
        rows, columns = self.grid
        if len(shape) != 2 or shape[0] % (rows * columns):
            raise ConfigError(
                f"convolutional: a grid of {rows}x{columns} takes a multiple of {rows * columns} "
                f"capsules, got {shape}"
            )
        return self.kernel**2 * shape[0] // (rows * columns), shape[1]

    def build(self, shape: Shape) -> "ConvolutionalCapsules":
        return ConvolutionalCapsules(shape, self)


class ConvolutionalCapsules(nn.Module):
    """Capsules of a grid, those of one position next to each other, to capsules of a smaller grid.

    Args:
        shape: capsules and their dim that it takes.
        config: sizes of the layer.
    """

    def __init__(self, shape: Shape, config: ConvolutionalConfig) -> None:
        super().__init__()
        self.config = config
        self.layer = config.layer.build(config.window_shape(shape))

    def forward(self, capsules: Tensor) -> Tensor:
        """``[batch, (rows columns types), dim]`` to the same axes."""
        (rows, columns), kernel, stride = self.config.grid, self.config.kernel, self.config.stride
        grid = rearrange(capsules, "b (h w g) d -> b h w g d", h=rows, w=columns)
        windows = grid.unfold(1, kernel, stride).unfold(2, kernel, stride)
        height, width = windows.shape[1:3]
        inputs = rearrange(windows, "b h w g d y x -> (b h w) (y x g) d")
        outputs: Tensor = self.layer(inputs)
        return rearrange(outputs, "(b h w) o d -> b (h w o) d", h=height, w=width)

    def stages(self) -> Mapping[str, nn.Module]:
        """Those of the layer at each position."""
        own: Mapping[str, nn.Module] = getattr(self.layer, "stages", dict)()
        return own

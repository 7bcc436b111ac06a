"""Primary capsules of a depthwise convolution (Mazzia, Salvetti, Chiaberge 2021, arXiv:2101.12491).

Each channel has a kernel of its own, so that a capsule's values see one feature each.
"""

from dataclasses import dataclass

from einops.layers.torch import Rearrange
from torch import Tensor, nn

from capsnet.errors import ConfigError
from capsnet.layers.base import LayerConfig, Shape, require_positive
from capsnet.layers.squash import ExponentialSquash
from capsnet.layers.stem import positions

__all__ = ["DepthwiseCapsules", "DepthwiseConfig"]


@dataclass(frozen=True)
class DepthwiseConfig(LayerConfig, kind="depthwise"):
    """Capsules at every position of a depthwise convolution.

    Attributes:
        dim: length of a capsule's pose vector; it divides the number of channels.
        kernel: rows and columns of the kernels.
        stride: between their positions.

    Raises:
        ConfigError: if a value is not a positive integer.
    """

    dim: int = 8
    kernel: int = 9
    stride: int = 1

    def __post_init__(self) -> None:
        require_positive(self)

    def output_shape(self, shape: Shape) -> Shape:
        height, width = positions(shape, self.kernel, self.stride)
        if shape[0] % self.dim:
            raise ConfigError(
                f"{shape[0]} channels do not make capsules of {self.dim} values: "
                "the dim must divide the channels"
            )
        return height * width * (shape[0] // self.dim), self.dim

    def build(self, shape: Shape) -> "DepthwiseCapsules":
        return DepthwiseCapsules(shape[0], self)


class DepthwiseCapsules(nn.Module):
    """Features ``[batch, channels, height, width]`` to capsules ``[batch, capsules, dim]``.

    Args:
        channels: of the features.
        config: sizes of the layer.
    """

    def __init__(self, channels: int, config: DepthwiseConfig) -> None:
        super().__init__()
        self.config = config
        self.conv = nn.Conv2d(channels, channels, config.kernel, config.stride, groups=channels)
        self.to_capsules = Rearrange("b (g d) h w -> b (h w g) d", d=config.dim)
        self.squash = ExponentialSquash()

    def forward(self, features: Tensor) -> Tensor:
        """The capsules at every position, those of one position next to each other."""
        capsules: Tensor = self.squash(self.to_capsules(self.conv(features)))
        return capsules

"""Primary capsules: convolutional capsules without routing (arXiv:1710.09829, section 4).

All of them are one fat convolution, as in readable_capsnet (A. Rogozhnikov).
"""

from dataclasses import dataclass
from typing import Literal, get_args

from einops.layers.torch import Rearrange
from torch import Tensor, nn
from torch.nn.functional import conv2d

from capsnet.errors import ConfigError
from capsnet.layers.base import LayerConfig, Shape, require_positive
from capsnet.layers.squash import squash
from capsnet.layers.stem import positions

__all__ = ["SCALE", "Activation", "PrimaryCapsules", "PrimaryConfig"]

Activation = Literal["scale", "squash"]

SCALE = 0.01
"""Factor of the ``scale`` activation: keeps the lengths of class capsules away from 1."""


@dataclass(frozen=True)
class PrimaryConfig(LayerConfig, kind="primary"):
    """Capsules at every position of a strided convolution.

    Attributes:
        groups: capsules at each position.
        dim: length of a capsule's pose vector.
        kernel: rows and columns of the kernel.
        stride: between its positions.
        activation: ``"scale"`` multiplies the poses by 0.01 (as readable_capsnet does);
            ``"squash"`` squashes them (as the paper does).

    Raises:
        ConfigError: if a value is out of range.
    """

    groups: int = 32
    dim: int = 8
    kernel: int = 9
    stride: int = 2
    activation: Activation = "scale"

    def __post_init__(self) -> None:
        require_positive(self)
        if self.activation not in get_args(Activation):
            raise ConfigError(
                f"primary: activation must be one of {', '.join(get_args(Activation))}, "
                f"got {self.activation!r}"
            )

    def output_shape(self, shape: Shape) -> Shape:
        height, width = positions(shape, self.kernel, self.stride)
        return height * width * self.groups, self.dim

    def build(self, shape: Shape) -> "PrimaryCapsules":
        return PrimaryCapsules(shape[0], self)


class PrimaryCapsules(nn.Conv2d):
    """Features ``[batch, channels, height, width]`` to capsules ``[batch, capsules, dim]``.

    Args:
        in_channels: of the features.
        config: sizes of the layer.
    """

    def __init__(self, in_channels: int, config: PrimaryConfig) -> None:
        super().__init__(in_channels, config.groups * config.dim, config.kernel, config.stride)
        self.config = config
        self.squashes = config.activation == "squash"
        self.scale = SCALE  # torch.jit.script sees attributes, not module globals
        self.to_capsules = Rearrange("b (g d) h w -> b (h w g) d", d=config.dim)

    def forward(self, features: Tensor) -> Tensor:
        """The capsules at every position, those of one position next to each other."""
        return self.activate(conv2d(features, self.weight, self.bias, self.stride))

    def activate(self, poses: Tensor) -> Tensor:
        """What the convolution gives, ``[batch, (groups dim), height, width]``, as capsules."""
        capsules: Tensor = self.to_capsules(poses)
        return squash(capsules) if self.squashes else capsules * self.scale

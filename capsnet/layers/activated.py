"""Primary capsules with an activation beside the pose (Hinton, Sabour, Frosst 2018, section 4).

*Matrix capsules with EM routing*, ICLR 2018. The activation is the last value of a capsule.
"""

from dataclasses import dataclass

import torch
from einops.layers.torch import Rearrange
from torch import Tensor, nn
from torch.nn.functional import conv2d

from capsnet.layers.base import LayerConfig, Shape, require_positive
from capsnet.layers.stem import positions

__all__ = ["ActivatedCapsules", "ActivatedConfig"]


@dataclass(frozen=True)
class ActivatedConfig(LayerConfig, kind="activated"):
    """Capsules with activations at every position of a strided convolution.

    Attributes:
        groups: capsules at each position.
        dim: length of a capsule's pose, without its activation.
        kernel: rows and columns of the kernel.
        stride: between its positions.

    Raises:
        ConfigError: if a value is not a positive integer.
    """

    activated = True

    groups: int = 32
    dim: int = 16
    kernel: int = 1
    stride: int = 1

    def __post_init__(self) -> None:
        require_positive(self)

    def output_shape(self, shape: Shape) -> Shape:
        height, width = positions(shape, self.kernel, self.stride)
        return height * width * self.groups, self.dim + 1

    def build(self, shape: Shape) -> "ActivatedCapsules":
        return ActivatedCapsules(shape[0], self)


class ActivatedCapsules(nn.Conv2d):
    """Features ``[batch, channels, height, width]`` to capsules ``[batch, capsules, dim + 1]``.

    Args:
        in_channels: of the features.
        config: sizes of the layer.
    """

    def __init__(self, in_channels: int, config: ActivatedConfig) -> None:
        channels = config.groups * (config.dim + 1)
        super().__init__(in_channels, channels, config.kernel, config.stride)
        self.config = config
        self.to_capsules = Rearrange("b (g d) h w -> b (h w g) d", g=config.groups)

    def forward(self, features: Tensor) -> Tensor:
        """The capsules at every position, those of one position next to each other."""
        capsules = self.to_capsules(conv2d(features, self.weight, self.bias, self.stride))
        return torch.cat((capsules[..., :-1], torch.sigmoid(capsules[..., -1:])), dim=-1)

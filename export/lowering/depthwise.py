"""Depthwise primary capsules for inference."""

import torch
from torch import Tensor

from capsnet.artifact import COUPLINGS, Claim
from capsnet.export.lowering.base import Given, LoweredLayer, Options, rewrites
from capsnet.layers.depthwise import DepthwiseCapsules
from capsnet.layers.squash import exponential_squash

__all__ = ["LoweredDepthwise"]


class LoweredDepthwise(LoweredLayer):
    """Features to capsules ``[batch, capsules, dim]``.

    Args:
        layer: the readable layer; its weights are copied.
        given: features; what they lack becomes a part of the convolution.
    """

    claims = (Claim("an exponential in the squashing", COUPLINGS, 1, 1),)

    def __init__(self, layer: DepthwiseCapsules, given: Given) -> None:
        super().__init__()
        self.dim = layer.config.dim
        self.conv = given.layout.fold_into(layer.conv)

    def forward(self, features: Tensor) -> Tensor:
        poses = self.conv(features).unflatten(1, (-1, self.dim))  # b g d h w
        capsules = poses.permute(0, 3, 4, 1, 2).flatten(1, 3)
        # The square of a short capsule vanishes in float16.
        return exponential_squash(capsules.float() if capsules.dtype == torch.float16 else capsules)

    def in_half(self) -> None:
        self.half()
        self.computes_in = torch.float16


@rewrites(DepthwiseCapsules)
def _depthwise(layer: DepthwiseCapsules, given: Given, options: Options) -> LoweredLayer:  # noqa: ARG001
    return LoweredDepthwise(layer, given)

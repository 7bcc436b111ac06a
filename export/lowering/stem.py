"""The stem for inference: the same convolution, which may compute in float16."""

import copy

import torch
from torch import Tensor

from capsnet.export.lowering.base import Given, LoweredLayer, Options, rewrites
from capsnet.layers.stem import ConvStem

__all__ = ["LoweredStem"]


class LoweredStem(LoweredLayer):
    """Images to features, as the readable layer computes them.

    Args:
        layer: the readable layer; it is copied.
    """

    def __init__(self, layer: ConvStem) -> None:
        super().__init__()
        self.conv = copy.deepcopy(layer)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.conv(images)
        return features

    def in_half(self) -> None:
        self.half()
        self.computes_in = torch.float16


@rewrites(ConvStem)
def _stem(layer: ConvStem, given: Given, options: Options) -> LoweredLayer:  # noqa: ARG001
    return LoweredStem(layer)

"""The stem for inference: the same convolution, which may compute in float16."""

import torch

from capsnet.export.lowering.base import AsWritten, Given, LoweredLayer, Options, rewrite
from capsnet.layers.stem import ConvStem

__all__ = ["LoweredStem"]


class LoweredStem(AsWritten):
    """A convolution and a ReLU, as they are written."""

    opaque = False

    def in_half(self) -> None:
        self.half()
        self.computes_in = torch.float16


@rewrite.register
def _stem(layer: ConvStem, given: Given, options: Options) -> LoweredLayer:  # noqa: ARG001
    return LoweredStem(layer, given.layout)

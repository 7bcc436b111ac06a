"""Routing in which input capsules compete, for inference: at first all of them couple alike."""

import torch
from einops import rearrange
from torch import Tensor

from capsnet.export.lowering.base import Given, LoweredLayer, Options, rewrites
from capsnet.export.lowering.variants import LoweredVariant
from capsnet.importers.gram_ai import InputCoupled

__all__ = ["LoweredInputCoupled"]


class LoweredInputCoupled(LoweredVariant):
    """Capsules to capsules ``[batch, capsules, dim]``.

    Args:
        layer: the readable layer; its weight is copied.
        given: capsules of any layout.
    """

    def __init__(self, layer: InputCoupled, given: Given) -> None:
        super().__init__(layer, given)
        self.in_capsules = len(layer.weight)

    def first(self, capsules: Tensor, weight: Tensor) -> Tensor:
        summed = capsules @ rearrange(weight, "o k h -> k (o h)")
        return rearrange(summed / self.in_capsules, "b (o h) -> o b h", o=weight.shape[0])

    def couple(self, agreement: Tensor) -> Tensor:
        return torch.softmax(agreement, dim=2)


@rewrites(InputCoupled)
def _routed(layer: InputCoupled, given: Given, options: Options) -> LoweredLayer:  # noqa: ARG001
    return LoweredInputCoupled(layer, given)

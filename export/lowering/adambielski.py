"""Routing from trained initial logits, for inference: their coupling is known beforehand."""

import torch
from einops import rearrange
from torch import Tensor

from capsnet.export.lowering.base import Given, LoweredLayer, Options, rewrites
from capsnet.export.lowering.variants import LoweredVariant
from capsnet.importers.adambielski import TrainedLogits
from capsnet.layers.dense_routing import couple

__all__ = ["LoweredTrainedLogits"]


class LoweredTrainedLogits(LoweredVariant):
    """Capsules to capsules ``[batch, capsules, dim]``; the first coupling is in a weight.

    Args:
        layer: the readable layer; its weights are copied.
        given: capsules of any layout.
    """

    def __init__(self, layer: TrainedLogits, given: Given) -> None:
        super().__init__(layer, given)
        logits, weight = (self.in_order(t.detach()) for t in (layer.logits, layer.weight))
        coupling = torch.softmax(logits, dim=1)
        first = rearrange(weight * coupling[:, None, :, None], "i d o h -> (d i) (o h)")
        self.register_buffer("first_weight", first.contiguous())
        self.register_buffer("logits", rearrange(logits, "i o -> o 1 i").contiguous())

    def first(self, capsules: Tensor, weight: Tensor) -> Tensor:
        summed = capsules @ self.get_buffer("first_weight").to(capsules.dtype)
        return rearrange(summed, "b (o h) -> o b h", o=weight.shape[0])

    def couple(self, agreement: Tensor) -> Tensor:
        return couple(agreement + self.get_buffer("logits").to(agreement.dtype), 0)


@rewrites(TrainedLogits)
def _routed(layer: TrainedLogits, given: Given, options: Options) -> LoweredLayer:  # noqa: ARG001
    return LoweredTrainedLogits(layer, given)

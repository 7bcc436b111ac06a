"""Self-attention routing for inference: as matrix products, without the votes."""

from collections.abc import Mapping

import torch
from einops import rearrange
from torch import Tensor, nn

from capsnet.artifact import COUPLINGS, Claim
from capsnet.export.lowering.base import Given, LoweredLayer, Options, rewrites
from capsnet.layers.attention import AttentionCapsules
from capsnet.layers.dense_routing import couple
from capsnet.layers.squash import ExponentialSquash

__all__ = ["LoweredAttention"]


class LoweredAttention(LoweredLayer):
    """Capsules ``[batch, in_capsules, in_dim]`` to ``[batch, capsules, dim]``.

    With votes ``u = x W``, the agreement ``u . sum u`` is ``x . (W sum u)`` and the routed sum
    ``sum c u`` is ``(c x) W``: products with the weights, which all images of a batch share.

    Args:
        layer: the readable layer; its weights are copied.
        given: capsules of any layout.
    """

    claims = (Claim("self-attention routing", COUPLINGS, 2, 2),)  # coupling and squashing

    def __init__(self, layer: AttentionCapsules, given: Given) -> None:
        super().__init__()
        weight, prior = layer.weight.detach(), layer.prior.detach()
        self._dim_first, places = given.layout.dim_first, given.layout.places
        if places is not None:
            weight, prior = weight[places.argsort()], prior[places.argsort()]
        self.scale = layer.scale
        self.register_buffer("weight", rearrange(weight, "i d o h -> o (i d) h").contiguous())
        self.register_buffer("prior", rearrange(prior, "i o -> o 1 i").contiguous())
        self.squash = ExponentialSquash()

    def forward(self, capsules: Tensor) -> Tensor:
        if self._dim_first:
            capsules = capsules.mT
        # Stored in float16 they are computed with in float32.
        weight, prior = (self.get_buffer(n).to(capsules.dtype) for n in ("weight", "prior"))
        # One product of matrices: some engines run no other with any batch.
        summed = capsules.flatten(1) @ rearrange(weight, "o k h -> k (o h)")
        summed = rearrange(summed, "b (o h) -> o b h", o=weight.shape[0])
        projected = (summed @ weight.mT).unflatten(2, capsules.shape[1:])  # o b i d
        agreement = (projected * capsules).sum(3) * self.scale
        coupling = couple(agreement, 0) + prior
        routed = (coupling.unsqueeze(3) * capsules).flatten(2) @ weight
        result: Tensor = self.squash(routed).movedim(0, 1)
        return result

    def stages(self) -> Mapping[str, nn.Module]:
        return {"routing": self.squash}

    def to_readable(self, stage: Tensor) -> Tensor:
        return stage.movedim(0, 1)

    def in_half(self) -> None:
        # A sum of votes can leave float16's range, so only the weights are stored in it.
        self.half()
        self.computes_in = torch.float32


@rewrites(AttentionCapsules)
def _attention(layer: AttentionCapsules, given: Given, options: Options) -> LoweredLayer:  # noqa: ARG001
    return LoweredAttention(layer, given)

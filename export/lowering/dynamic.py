"""Dynamic routing for inference: in one of the forms of ``capsnet.layers.dense_routing``."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from capsnet.artifact import COUPLINGS, Claim
from capsnet.export.lowering.base import Given, LoweredLayer, Options, rewrites
from capsnet.layers.dense_routing import ROUTINGS, pack_weight
from capsnet.layers.dynamic import DynamicCapsules, iteration_stages

__all__ = ["DEFAULT_ROUTING", "LoweredDynamic"]

DEFAULT_ROUTING = "projected"
"""In torch, which multiplies a matrix of votes with one vector slowly, it is 1.0 to 2.5 times as
fast as votes. In onnxruntime votes is 1.40, 1.23, 1.18, 1.06, 0.99 and 1.00 times as fast, at batch
1, 2, 4, 8, 32 and 128: it reads the weights once. (``capsnet bench A B`` of files with ``--routing
projected`` and ``votes``; two cores with AVX-512, torch 2.13.0, onnxruntime 1.31.1.)"""

_MOST_VOTES = 2**20  # values for one image: more do not fit into caches with a few images


class LoweredDynamic(LoweredLayer):
    """Capsules to capsules ``[batch, capsules, dim]``.

    Args:
        layer: the readable layer; its weights and what it squashes with are copied.
        given: capsules of any layout.
        routing: form, one of ``capsnet.layers.dense_routing.ROUTINGS``.
    """

    bias: Tensor | None

    def __init__(self, layer: DynamicCapsules, given: Given, routing: str) -> None:
        super().__init__()
        count = layer.config.routing_iterations
        self.routing = routing
        self.forms = {"routing": routing}
        # Every iteration but the first couples by a softmax; a leaky one has the exponential of the
        # logit that is always zero beside those of the others.
        self.leaky = layer.leaky
        couplings = (count - 1) * (2 if layer.leaky else 1)
        self.claims = (Claim(f"routing of {count} iterations", COUPLINGS, couplings, couplings),)
        self._dim_first = given.layout.dim_first
        weight = layer.weight.detach()
        if given.layout.places is not None:
            weight = weight[given.layout.places.argsort()]
        # Input capsules innermost in memory: torch sums few images' products in several parts so.
        self.register_buffer("weight", pack_weight(weight).mT.contiguous().mT)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().clone())
        self.iterations = copy.deepcopy(layer.iterations)

    def forward(self, capsules: Tensor) -> Tensor:
        if not self._dim_first:
            capsules = capsules.mT
        weight, bias = self.get_buffer("weight"), self.bias
        if weight.dtype != capsules.dtype:  # stored in float16, computed in float32
            weight = weight.to(capsules.dtype)
            bias = None if bias is None else bias.to(capsules.dtype)
        return ROUTINGS[self.routing](capsules, weight, self.iterations, bias, self.leaky)

    def stages(self) -> Mapping[str, nn.Module]:
        return iteration_stages(self.iterations)

    def to_readable(self, stage: Tensor) -> Tensor:
        return stage.movedim(0, 1) if self.routing == "projected" else stage

    def in_half(self) -> None:
        # A sum of votes can leave float16's range, so only the weight is stored in it.
        self.half()
        self.computes_in = torch.float32


@rewrites(DynamicCapsules)
def _dynamic(layer: DynamicCapsules, given: Given, options: Options) -> LoweredLayer:
    in_capsules, _, capsules, dim = layer.weight.shape
    usual = DEFAULT_ROUTING
    if in_capsules * capsules * dim <= _MOST_VOTES:
        usual = options.preferred.get("routing", DEFAULT_ROUTING)
    return LoweredDynamic(layer, given, options.forms.get("routing", usual))

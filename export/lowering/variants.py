"""Dynamic routing that starts or couples in another way, for inference, as matrix products."""

import copy
from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from capsnet.artifact import COUPLINGS, Claim
from capsnet.export.lowering.base import Given, LoweredLayer
from capsnet.layers.dense_routing import pack_weight
from capsnet.layers.dynamic import DynamicCapsules, iteration_stages

__all__ = ["LoweredVariant"]


class LoweredVariant(LoweredLayer):
    """Capsules to capsules ``[batch, capsules, dim]``, without the votes.

    It is :func:`capsnet.layers.dense_routing.projected_routing`, but for the coupling.

    Args:
        layer: the readable layer; its weight is copied.
        given: capsules of any layout.
    """

    def __init__(self, layer: DynamicCapsules, given: Given) -> None:
        super().__init__()
        count = layer.config.routing_iterations
        self.claims = (Claim(f"routing of {count} iterations", COUPLINGS, count - 1, count - 1),)
        self._dim_first, self.places = given.layout.dim_first, given.layout.places
        weight = self.in_order(layer.weight.detach())
        self.register_buffer("weight", pack_weight(weight).mT.contiguous().mT)
        self.iterations = copy.deepcopy(layer.iterations)

    def in_order(self, values: Tensor) -> Tensor:
        """Values of input capsules, first axis, in the order in which those are given."""
        return values if self.places is None else values[self.places.argsort()]

    @abstractmethod
    def first(self, capsules: Tensor, weight: Tensor) -> Tensor:
        """What the first iteration squashes, ``[capsules, batch, dim]``.

        Args:
            capsules: ``[batch, (in_dim in_capsules)]``.
            weight: ``[capsules, (in_dim in_capsules), dim]``.
        """

    @abstractmethod
    def couple(self, agreement: Tensor) -> Tensor:
        """Coupling by agreement, both ``[capsules, batch, in_capsules]``."""

    def forward(self, capsules: Tensor) -> Tensor:
        if not self._dim_first:
            capsules = capsules.mT
        weight, in_dim = self.get_buffer("weight").to(capsules.dtype), capsules.shape[1]
        squash, *others = self.iterations
        outputs = squash(self.first(capsules.flatten(1), weight))
        total = outputs
        for squash in others:
            projected = (total @ weight.mT).unflatten(2, (in_dim, -1))  # o b d i
            coupling = self.couple((projected * capsules).sum(2))
            outputs = squash((coupling.unsqueeze(2) * capsules).flatten(2) @ weight)
            total = total + outputs
        result: Tensor = outputs.movedim(0, 1)
        return result

    def stages(self) -> Mapping[str, nn.Module]:
        return iteration_stages(self.iterations)

    def to_readable(self, stage: Tensor) -> Tensor:
        return stage.movedim(0, 1)

    def in_half(self) -> None:
        # A sum of votes can leave float16's range, so only the weights are stored in it.
        self.half()
        self.computes_in = torch.float32

"""Capsules routed by agreement (Sabour, Frosst, Hinton 2017, arXiv:1710.09829, procedure 1)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from capsnet.layers.base import LayerConfig, Shape, require_capsules, require_positive
from capsnet.layers.squash import Squash
from capsnet.limits import MOST_ITERATIONS, require_at_most

__all__ = ["DynamicCapsules", "DynamicConfig", "iteration_stages"]

_BIAS = 0.1  # to start from, as in the program of the paper's authors


@dataclass(frozen=True)
class DynamicConfig(LayerConfig, kind="dynamic"):
    """A layer of capsules with dynamic routing.

    Attributes:
        capsules: number of output capsules.
        dim: length of each one's pose vector.
        routing_iterations: rounds of routing, 1 to 100 (the paper uses 3).
        bias: whether a vector for each output capsule is added to what it squashes, as in the
            program of the paper's authors.
        leaky: whether the softmax over the output capsules has one more logit, always zero, for
            "none of the above" (section 7): an input capsule need not give all that it has.

    Raises:
        ConfigError: if a value is not a positive integer, or too large.
    """

    capsules: int
    dim: int
    routing_iterations: int = 3
    bias: bool = False
    leaky: bool = False

    def __post_init__(self) -> None:
        require_positive(self)
        require_at_most("dynamic: routing_iterations", self.routing_iterations, MOST_ITERATIONS)

    def output_shape(self, shape: Shape) -> Shape:
        require_capsules(shape)
        return self.capsules, self.dim

    def build(self, shape: Shape) -> "DynamicCapsules":
        in_capsules, in_dim = shape
        return DynamicCapsules(in_capsules, in_dim, self)


class DynamicCapsules(nn.Module):
    """Capsules that vote for capsules of the next layer, routed by agreement. Stackable.

    Axes: b = batch, i = input capsules, o = output capsules, d = dim of an input capsule, h = dim
    of an output capsule.

    Args:
        in_capsules: number of input capsules.
        in_dim: length of an input capsule.
        config: sizes and routing iterations of the layer.
    """

    def __init__(self, in_capsules: int, in_dim: int, config: DynamicConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(in_capsules, in_dim, config.capsules, config.dim))
        bound = (3 / in_dim) ** 0.5  # votes keep the variance of the capsules that cast them
        nn.init.uniform_(self.weight, -bound, bound)
        bias = torch.full((config.capsules, config.dim), _BIAS) if config.bias else None
        self.bias = None if bias is None else nn.Parameter(bias)
        self.leaky = config.leaky
        self.iterations = nn.ModuleList(Squash() for _ in range(config.routing_iterations))

    def forward(self, capsules: Tensor) -> Tensor:
        """Capsules ``[batch, in_capsules, in_dim]`` to ``[batch, capsules, dim]``."""
        return self.route(torch.einsum("bid,idoh->bioh", capsules, self.weight))

    def route(self, votes: Tensor) -> Tensor:
        """Route votes (u_hat) ``[batch, in_capsules, capsules, dim]``, by procedure 1."""
        logits = self.initial_logits(votes)
        outputs = torch.zeros_like(votes[:, 0])
        for squash in self.iterations:
            coupling = self.couple(logits)
            inputs = torch.einsum("bio,bioh->boh", coupling, votes)
            outputs = squash(inputs if self.bias is None else inputs + self.bias)
            logits = logits + torch.einsum("bioh,boh->bio", votes, outputs)
        return outputs

    def initial_logits(self, votes: Tensor) -> Tensor:
        """The logits ``[batch, in_capsules, capsules]`` of the first iteration."""
        return torch.zeros_like(votes[..., 0])

    def couple(self, logits: Tensor) -> Tensor:
        """Coupling coefficients of logits, both ``[batch, in_capsules, capsules]``."""
        if not self.leaky:
            return torch.softmax(logits, dim=-1)
        return torch.softmax(pad(logits, (0, 1)), dim=-1)[..., :-1]

    def stages(self) -> Mapping[str, nn.Module]:
        """What each iteration squashes, and the output capsules after it."""
        return iteration_stages(self.iterations)


def iteration_stages(iterations: nn.ModuleList) -> dict[str, nn.Module]:
    """The squashing of each routing iteration, by the name of its stages."""
    return {f"iteration{number}": squash for number, squash in enumerate(iterations, start=1)}

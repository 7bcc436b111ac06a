"""Self-attention routing (Mazzia, Salvetti, Chiaberge 2021, arXiv:2101.12491, section 3.2).

Not iterative: a vote counts by its agreement with all votes for the same output capsule.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from capsnet.layers.base import LayerConfig, Shape, require_capsules, require_positive
from capsnet.layers.squash import ExponentialSquash

__all__ = ["AttentionCapsules", "AttentionConfig"]


@dataclass(frozen=True)
class AttentionConfig(LayerConfig, kind="attention"):
    """A layer of capsules with self-attention routing.

    Attributes:
        capsules: number of output capsules.
        dim: length of each one's pose vector.

    Raises:
        ConfigError: if a value is not a positive integer.
    """

    capsules: int
    dim: int

    def __post_init__(self) -> None:
        require_positive(self)

    def output_shape(self, shape: Shape) -> Shape:
        require_capsules(shape)
        return self.capsules, self.dim

    def build(self, shape: Shape) -> "AttentionCapsules":
        return AttentionCapsules(shape[0], shape[1], self)


class AttentionCapsules(nn.Module):
    """Capsules that vote for capsules of the next layer, routed by self-attention. Stackable.

    Axes: b = batch, i = input capsules, o = output capsules, d = dim of an input capsule, h = dim
    of an output capsule.

    Args:
        in_capsules: number of input capsules.
        in_dim: length of an input capsule.
        config: sizes of the layer.
    """

    def __init__(self, in_capsules: int, in_dim: int, config: AttentionConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(in_capsules, in_dim, config.capsules, config.dim))
        nn.init.normal_(self.weight, std=(2 / (in_capsules * in_dim)) ** 0.5)
        self.prior = nn.Parameter(torch.zeros(in_capsules, config.capsules))
        self.scale = config.dim**-0.5
        self.squash = ExponentialSquash()

    def forward(self, capsules: Tensor) -> Tensor:
        """Capsules ``[batch, in_capsules, in_dim]`` to ``[batch, capsules, dim]``."""
        votes = torch.einsum("bid,idoh->bioh", capsules, self.weight)
        agreement = torch.einsum("bioh,boh->bio", votes, votes.sum(dim=1)) * self.scale
        coupling = torch.softmax(agreement, dim=-1) + self.prior
        result: Tensor = self.squash(torch.einsum("bio,bioh->boh", coupling, votes))
        return result

    def stages(self) -> Mapping[str, nn.Module]:
        """What is squashed, and the output capsules."""
        return {"routing": self.squash}

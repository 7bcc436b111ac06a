"""Self-routing capsules (Hahn, Pyeon, Kim 2019, *Self-Routing Capsule Networks*, NeurIPS 2019).

Every input capsule decides on its own, by a small layer of its own, where it votes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from capsnet.layers.base import LayerConfig, Shape, require_capsules, require_positive

__all__ = ["SelfRoutingCapsules", "SelfRoutingConfig"]


@dataclass(frozen=True)
class SelfRoutingConfig(LayerConfig, kind="self-routing"):
    """A layer of capsules with activations, that route themselves.

    Attributes:
        capsules: number of output capsules.
        dim: length of each one's pose, without its activation.

    Raises:
        ConfigError: if a value is not a positive integer.
    """

    activated = needs_activation = True

    capsules: int
    dim: int

    def __post_init__(self) -> None:
        require_positive(self)

    def output_shape(self, shape: Shape) -> Shape:
        require_capsules(shape)
        return self.capsules, self.dim + 1

    def build(self, shape: Shape) -> "SelfRoutingCapsules":
        return SelfRoutingCapsules(shape[0], shape[1] - 1, self)


class SelfRoutingCapsules(nn.Module):
    """Capsules with activations to capsules with activations. Stackable.

    Axes: b = batch, i = input capsules, o = output capsules, d = dim of an input pose, h = dim of
    an output pose.

    Args:
        in_capsules: number of input capsules.
        in_dim: length of an input pose.
        config: sizes of the layer.
    """

    def __init__(self, in_capsules: int, in_dim: int, config: SelfRoutingConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(in_capsules, in_dim, config.capsules, config.dim))
        self.routing = nn.Parameter(torch.empty(in_capsules, in_dim, config.capsules))
        self.bias = nn.Parameter(torch.zeros(in_capsules, config.capsules))
        for weight in (self.weight, self.routing):
            nn.init.normal_(weight, std=in_dim**-0.5)

    def forward(self, capsules: Tensor) -> Tensor:
        """``[batch, in_capsules, in_dim + 1]`` to ``[batch, capsules, dim + 1]``."""
        poses, activation = capsules[..., :-1], capsules[..., -1]
        votes = torch.einsum("bid,idoh->bioh", poses, self.weight)
        logits = torch.einsum("bid,ido->bio", poses, self.routing) + self.bias
        weights = torch.softmax(logits, dim=-1) * activation.unsqueeze(-1)
        received = weights.sum(dim=1)
        routed = torch.einsum("bio,bioh->boh", weights, votes) / received.unsqueeze(-1)
        present = received / activation.sum(dim=1, keepdim=True)
        return torch.cat((routed, present.unsqueeze(-1)), dim=-1)

"""Matrix capsules with EM routing (Hinton, Sabour, Frosst 2018, ICLR 2018, procedure 1).

Everything that can be very small is computed as its logarithm.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from capsnet.errors import ConfigError
from capsnet.layers.base import LayerConfig, Shape, require_positive
from capsnet.limits import MOST_ITERATIONS, require_at_most

__all__ = ["EMCapsules", "EMConfig"]

_INVERSE_TEMPERATURE = 0.01  # its final value; the paper leaves the schedule open
_SMALLEST = 1e-6  # of a variance, and of the sum of assignments


@dataclass(frozen=True)
class EMConfig(LayerConfig, kind="em"):
    """A layer of matrix capsules with activations, routed by expectation maximisation.

    Attributes:
        capsules: number of output capsules.
        pose: rows and columns of a pose matrix; poses have ``pose * pose`` values, beside which
            stands the activation.
        routing_iterations: rounds of routing, 1 to 100 (the paper uses 3).

    Raises:
        ConfigError: if a value is not a positive integer, or too large.
    """

    activated = needs_activation = True

    capsules: int
    pose: int = 4
    routing_iterations: int = 3

    def __post_init__(self) -> None:
        require_positive(self)
        require_at_most("em: routing_iterations", self.routing_iterations, MOST_ITERATIONS)

    def output_shape(self, shape: Shape) -> Shape:
        values = self.pose**2 + 1
        if len(shape) != 2 or shape[1] != values:
            raise ConfigError(
                f"EM routing of {self.pose}x{self.pose} poses takes (capsules, {values}): the pose "
                f"and an activation; got {shape}"
            )
        return self.capsules, values

    def build(self, shape: Shape) -> "EMCapsules":
        return EMCapsules(shape[0], self)


class EMCapsules(nn.Module):
    """Matrix capsules with activations to such capsules. Stackable.

    Axes: b = batch, i = input capsules, o = output capsules, x, y, z = rows and columns of poses,
    h = all values of an output pose.

    Args:
        in_capsules: number of input capsules.
        config: sizes and routing iterations of the layer.
    """

    def __init__(self, in_capsules: int, config: EMConfig) -> None:
        super().__init__()
        self.config = config
        pose, outputs = config.pose, config.capsules
        self.weight = nn.Parameter(torch.empty(in_capsules, outputs, pose, pose))
        nn.init.normal_(self.weight, std=pose**-0.5)
        self.cost_of_use = nn.Parameter(torch.zeros(outputs))  # beta_u
        self.cost_of_absence = nn.Parameter(torch.zeros(outputs))  # beta_a
        rounds = range(1, config.routing_iterations + 1)
        self.inverse_temperatures = [_INVERSE_TEMPERATURE * (1 - 0.95**r) for r in rounds]

    def forward(self, capsules: Tensor) -> Tensor:
        """``[batch, in_capsules, pose * pose + 1]`` to ``[batch, capsules, pose * pose + 1]``."""
        poses = rearrange(capsules[..., :-1], "b i (x y) -> b i x y", x=self.config.pose)
        votes = torch.einsum("bixy,ioyz->bioxz", poses, self.weight).flatten(3)
        activation = capsules[..., -1:]
        assignment = torch.full_like(votes[..., 0], 1 / self.config.capsules)  # r in the paper
        for number, inverse_temperature in enumerate(self.inverse_temperatures, start=1):
            assigned = assignment * activation
            mean, variance, logit = self._maximise(assigned, votes, inverse_temperature)
            if number < len(self.inverse_temperatures):
                distance = (votes - mean.unsqueeze(1)) ** 2 / variance.unsqueeze(1)
                log_likelihood = -(distance + variance.log().unsqueeze(1)).sum(-1) / 2
                assignment = torch.softmax(logsigmoid(logit).unsqueeze(1) + log_likelihood, dim=-1)
        return torch.cat((mean, torch.sigmoid(logit).unsqueeze(-1)), dim=-1)

    def _maximise(
        self, assigned: Tensor, votes: Tensor, inverse_temperature: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The M-step: mean and variance ``[batch, capsules, h]``, and the activation's logit."""
        total = assigned.sum(dim=1)
        share = assigned / (total.unsqueeze(1) + _SMALLEST)
        mean = torch.einsum("bio,bioh->boh", share, votes)
        deviations = (votes - mean.unsqueeze(1)) ** 2
        variance = torch.einsum("bio,bioh->boh", share, deviations) + _SMALLEST
        cost = (self.cost_of_use.unsqueeze(-1) + variance.log() / 2) * total.unsqueeze(-1)
        return mean, variance, inverse_temperature * (self.cost_of_absence - cost.sum(dim=-1))

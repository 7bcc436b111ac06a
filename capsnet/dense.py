"""Routing by agreement as dense matrix products: exact rewrites of ``routing.dynamic_routing``.

Trainer and exporter share them; the readable model does not, so it can judge both. They use that

- the first coupling is uniform, so the first iteration is one matrix product, without a softmax;
- the logits after r iterations are the agreement with ``v1 + ... + vr``: only that sum is carried;
- the agreement after the last iteration is never used.
"""

from collections.abc import Callable, Mapping

import torch
from einops import rearrange
from torch import Tensor

__all__ = ["ROUTINGS", "pack_weight", "projected_routing", "squash_along", "votes_routing"]

OnIteration = Callable[[Tensor, Tensor], None]


def _ignore(inputs: Tensor, outputs: Tensor) -> None:
    """Nobody watches the iterations."""


def pack_weight(weight: Tensor) -> Tensor:
    """A capsule layer's weight ``[i, d, o, h]``, laid out for dense routing: ``[o, (d i), h]``."""
    return rearrange(weight, "i d o h -> o (d i) h")


def squash_along(poses: Tensor, dim: int) -> Tensor:
    """``routing.squash`` (equation 1) for vectors that lie along another axis than the last."""
    length = torch.linalg.vector_norm(poses, dim=dim, keepdim=True)
    squashed: Tensor = poses * (length / (1 + length * length))
    return squashed


def projected_routing(
    capsules: Tensor, weight: Tensor, iterations: int, on_iteration: OnIteration = _ignore
) -> Tensor:
    """A capsule layer with dynamic routing that never forms the votes.

    With votes ``u = x W``, the agreement ``u . v`` is ``x . (W v)`` and the routed sum ``sum c u``
    is ``(c x) W``: products with the weights, which all images of a batch share.

    Args:
        capsules: ``[batch, in_dim, in_capsules]``.
        weight: ``[out_capsules, (in_dim in_capsules), out_dim]``, see :func:`pack_weight`.
        iterations: rounds of routing, at least 1.
        on_iteration: called in every round with the inputs of the output capsules (s in the paper)
            and the output capsules (v), both ``[out_capsules, batch, out_dim]``.

    Returns:
        Output capsules ``[batch, out_capsules, out_dim]``.
    """
    in_dim, out_capsules = capsules.shape[1], weight.shape[0]

    def agreement(total: Tensor) -> Tensor:
        projected = (total @ weight.mT).unflatten(2, (in_dim, -1))  # o b d i
        logits: Tensor = (projected * capsules).sum(2)
        return logits

    def routed_sum(coupling: Tensor) -> Tensor:
        return (coupling.unsqueeze(2) * capsules).flatten(2) @ weight

    uniform = (capsules.flatten(1) / out_capsules) @ weight
    return _route(uniform, agreement, routed_sum, iterations, on_iteration)


def votes_routing(
    capsules: Tensor, weight: Tensor, iterations: int, on_iteration: OnIteration = _ignore
) -> Tensor:
    """A capsule layer with dynamic routing over votes that lie ready for both of its products.

    Arguments and result are those of :func:`projected_routing`. The weights are read once and the
    votes in every iteration, which is less to read as long as the batch is small.
    """
    out_capsules, _, out_dim = weight.shape
    in_dim = capsules.shape[1]
    by_input = rearrange(weight, "o (d i) h -> i d (o h)", d=in_dim)
    votes = capsules.permute(2, 0, 1) @ by_input  # i b (o h)
    votes = votes.unflatten(2, (out_capsules, out_dim)).permute(2, 1, 3, 0)  # o b h i

    def agreement(total: Tensor) -> Tensor:
        logits: Tensor = (total.unsqueeze(2) @ votes).squeeze(2)
        return logits

    def routed_sum(coupling: Tensor) -> Tensor:
        inputs: Tensor = (votes @ coupling.unsqueeze(3)).squeeze(3)
        return inputs

    uniform = votes.sum(3) / out_capsules
    return _route(uniform, agreement, routed_sum, iterations, on_iteration)


def _route(
    uniform: Tensor,
    agreement: Callable[[Tensor], Tensor],
    routed_sum: Callable[[Tensor], Tensor],
    iterations: int,
    on_iteration: OnIteration,
) -> Tensor:
    """Procedure 1, given its two products.

    Args:
        uniform: the inputs under uniform coupling, ``[out_capsules, batch, out_dim]``.
        agreement: logits ``[out_capsules, batch, in_capsules]`` of a sum of output capsules.
        routed_sum: inputs under a coupling ``[out_capsules, batch, in_capsules]``.
        iterations: rounds of routing.
        on_iteration: called with inputs and output capsules.

    Returns:
        Output capsules ``[batch, out_capsules, out_dim]``.
    """
    outputs = squash_along(uniform, -1)
    on_iteration(uniform, outputs)
    total = outputs
    for _ in range(iterations - 1):
        logits = agreement(total)
        # Spelled out: inference engines transpose twice for a softmax over another axis than the
        # last. The maximum only keeps exp in range and cancels, so it needs no gradient.
        exponentials = torch.exp(logits - logits.detach().amax(0, keepdim=True))
        inputs = routed_sum(exponentials / exponentials.sum(0, keepdim=True))
        outputs = squash_along(inputs, -1)
        on_iteration(inputs, outputs)
        total = total + outputs
    return outputs.movedim(0, 1)


ROUTINGS: Mapping[str, Callable[..., Tensor]] = {
    "projected": projected_routing,
    "votes": votes_routing,
}
"""The forms by name: the same function, arguments and results."""

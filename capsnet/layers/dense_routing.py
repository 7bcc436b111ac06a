"""Dynamic routing as dense matrix products: exact rewrites of ``layers.dynamic``.

Trainer and exporter share them; the readable layer does not, so it can judge both. They use that

- the first coupling is uniform, so the first iteration is one matrix product, without a softmax:
  over L output capsules it is 1/L, or 1/(L + 1) where routing is leaky;
- the logits after r iterations are the agreement with ``v1 + ... + vr``: only that sum is carried;
- the agreement after the last iteration is never used.

Axes: b = batch, i = input capsules, o = output capsules, d = dim of an input capsule, h = dim of an
output capsule.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
from einops import rearrange
from torch import Tensor
from torch.utils.checkpoint import checkpoint

__all__ = ["ROUTINGS", "couple", "pack_weight", "projected_routing", "votes_routing"]

Squashing = Callable[[Tensor], Tensor]


def pack_weight(weight: Tensor) -> Tensor:
    """A capsule layer's weight ``[i, d, o, h]``, laid out for dense routing: ``[o, (d i), h]``."""
    return rearrange(weight, "i d o h -> o (d i) h")


def projected_routing(
    capsules: Tensor,
    weight: Tensor,
    iterations: Iterable[Squashing],
    bias: Tensor | None = None,
    leaky: bool = False,
) -> Tensor:
    """A capsule layer with dynamic routing that never forms the votes.

    With votes ``u = x W``, the agreement ``u . v`` is ``x . (W v)`` and the routed sum ``sum c u``
    is ``(c x) W``: products with the weights, which all images of a batch share.

    Args:
        capsules: ``[batch, in_dim, in_capsules]``.
        weight: ``[out_capsules, (in_dim in_capsules), out_dim]``, see :func:`pack_weight`.
        iterations: what squashes the inputs of the output capsules (s in the paper), laid out
            ``[out_capsules, batch, out_dim]``, in each round of routing; at least one.
        bias: ``[out_capsules, out_dim]``, added to what is squashed; None for none.
        leaky: whether one more output capsule, with logit zero, takes a share of every vote.

    Returns:
        Output capsules ``[batch, out_capsules, out_dim]``.
    """
    in_dim, out_capsules = capsules.shape[1], weight.shape[0]

    def route(total: Tensor) -> Tensor:
        projected = (total @ weight.mT).unflatten(2, (in_dim, -1))  # o b d i
        coupling = couple((projected * capsules).sum(2), 0, leaky)
        routed: Tensor = (coupling.unsqueeze(2) * capsules).flatten(2) @ weight
        return routed

    def route_again(total: Tensor) -> Tensor:
        # What an iteration keeps for its gradient is larger than all the rest of the network keeps.
        routed: Tensor = checkpoint(route, total, use_reentrant=False, preserve_rng_state=False)
        return routed

    # One product of matrices: engines pack its weights once, and some run no other with any batch.
    summed = capsules.flatten(1) @ rearrange(weight, "o k h -> k (o h)")
    uniform = rearrange(
        summed / (out_capsules + 1 if leaky else out_capsules), "b (o h) -> o b h", o=out_capsules
    )
    step = route_again if uniform.requires_grad else route
    bias = None if bias is None else bias.unsqueeze(1)
    return _unroll(uniform, step, iterations, bias).movedim(0, 1)


def votes_routing(
    capsules: Tensor,
    weight: Tensor,
    iterations: Iterable[Squashing],
    bias: Tensor | None = None,
    leaky: bool = False,
) -> Tensor:
    """A capsule layer with dynamic routing over votes: products of matrices with vectors.

    The weights are read once. Engines run the products on the votes as they lie.

    Arguments and result are those of :func:`projected_routing`, except that the inputs of the
    output capsules are laid out ``[batch, out_capsules, out_dim]``.
    """
    out_capsules, _, out_dim = weight.shape
    by_input = rearrange(weight, "o (d i) h -> i d (o h)", d=capsules.shape[1])
    votes = (capsules.permute(2, 0, 1) @ by_input).unflatten(2, (out_capsules, out_dim))
    votes = votes.permute(1, 2, 0, 3)  # b o i h

    def route(total: Tensor) -> Tensor:
        coupling = couple((votes @ total.unsqueeze(3)).squeeze(3), 1, leaky)
        routed: Tensor = (coupling.unsqueeze(2) @ votes).squeeze(2)
        return routed

    ones = votes.new_ones(1, 1, 1, votes.shape[2])
    uniform = (ones @ votes).squeeze(2) / (out_capsules + 1 if leaky else out_capsules)
    return _unroll(uniform, route, iterations, bias)


def couple(logits: Tensor, outputs: int, leaky: bool = False) -> Tensor:
    """Coupling: a softmax over the output capsules.

    Spelled out: inference engines transpose twice for a softmax over another axis than the last.
    The maximum only keeps exp in range and cancels, so it needs no gradient.

    Args:
        logits: any floating-point type and shape.
        outputs: the axis of the output capsules.
        leaky: whether there is one more logit, zero, whose coupling is left out.
    """
    largest = logits.detach().amax(outputs, keepdim=True)
    if leaky:
        largest = largest.clamp_min(0)
    exponentials = torch.exp(logits - largest)
    total = exponentials.sum(outputs, keepdim=True)
    return exponentials / (total + torch.exp(-largest) if leaky else total)


def _unroll(
    uniform: Tensor,
    route: Callable[[Tensor], Tensor],
    iterations: Iterable[Squashing],
    bias: Tensor | None,
) -> Tensor:
    """Procedure 1.

    Args:
        uniform: the inputs of the output capsules under uniform coupling, their vectors last.
        route: the inputs under the coupling that agrees with a sum of output capsules.
        iterations: the squashing of each round.
        bias: that is laid out like them; None for none.

    Returns:
        Output capsules, laid out like ``uniform``.
    """

    def biased(inputs: Tensor) -> Tensor:
        return inputs if bias is None else inputs + bias

    first, *others = iterations
    outputs = first(biased(uniform))
    total = outputs
    for squash in others:
        outputs = squash(biased(route(total)))
        total = total + outputs
    return outputs


Routing = Callable[[Tensor, Tensor, Iterable[Squashing], Tensor | None, bool], Tensor]

ROUTINGS: Mapping[str, Routing] = {
    "projected": projected_routing,
    "votes": votes_routing,
}
"""The forms by name: the same function, arguments and results."""

"""Routing by agreement (Sabour, Frosst, Hinton 2017, arXiv:1710.09829)."""

import torch
from torch import Tensor

__all__ = ["dynamic_routing", "squash"]


def squash(poses: Tensor) -> Tensor:
    """Shrink vectors to a length below 1, keeping their direction (equation 1).

    Written ``s * |s| / (1 + |s|^2)``: there is no division by the length, so a zero capsule stays
    zero, with a finite gradient, in every floating-point type.

    Args:
        poses: ``[..., dim]``, any floating-point type.

    Returns:
        Tensor of the shape and type of ``poses``.
    """
    length = torch.linalg.vector_norm(poses, dim=-1, keepdim=True)
    squashed: Tensor = poses * (length / (1 + length**2))
    return squashed


def dynamic_routing(votes: Tensor, iterations: int) -> Tensor:
    """Route votes to output capsules by agreement (procedure 1).

    Axes: b = batch, i = input capsules, o = output capsules, d = dim of an output capsule.

    Args:
        votes: the predictions u_hat, ``[batch, in_capsules, out_capsules, out_dim]``.
        iterations: rounds of routing, at least 1.

    Returns:
        Output capsules ``[batch, out_capsules, out_dim]``, each of length below 1.
    """
    logits = torch.zeros_like(votes[..., 0])
    capsules = torch.zeros_like(votes[:, 0])
    for _ in range(iterations):
        coupling = torch.softmax(logits, dim=-1)
        capsules = squash(torch.einsum("bio,biod->bod", coupling, votes))
        logits = logits + torch.einsum("biod,bod->bio", votes, capsules)
    return capsules

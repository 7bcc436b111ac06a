"""Squashing: lengths below 1 (Sabour, Frosst, Hinton 2017, arXiv:1710.09829, equation 1)."""

import torch
from torch import Tensor, nn

__all__ = ["Squash", "squash"]


def squash(poses: Tensor, dim: int = -1) -> Tensor:
    """Shrink vectors to a length below 1, keeping their direction (equation 1).

    Written ``s * |s| / (1 + |s|^2)``: there is no division by the length, so a zero capsule stays
    zero, with a finite gradient, in every floating-point type.

    Args:
        poses: any floating-point type; the vectors lie along ``dim``.
        dim: their axis.

    Returns:
        Tensor of the shape and type of ``poses``.
    """
    length = torch.linalg.vector_norm(poses, dim=dim, keepdim=True)
    squashed: Tensor = poses * (length / (1 + length * length))
    return squashed


class Squash(nn.Module):
    """:func:`squash` as a module: what it takes and gives are two stages of its network."""

    def forward(self, poses: Tensor) -> Tensor:
        """Vectors ``[..., dim]`` to vectors of lengths below 1."""
        return squash(poses)

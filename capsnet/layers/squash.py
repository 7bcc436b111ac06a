"""Squashing: the length of a pose vector becomes a probability, its direction stays."""

import torch
from torch import Tensor, nn

__all__ = ["ExponentialSquash", "Squash", "exponential_squash", "squash"]


def squash(poses: Tensor, dim: int = -1) -> Tensor:
    """Shrink vectors to a length below 1 (Sabour, Frosst, Hinton 2017, arXiv:1710.09829, eq. 1).

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


def exponential_squash(poses: Tensor, dim: int = -1) -> Tensor:
    """``(1 - exp(-|s|)) s / |s|`` (Mazzia, Salvetti, Chiaberge 2021, arXiv:2101.12491, equation 2).

    It is steeper than :func:`squash` near zero. A zero capsule stays zero, with a finite gradient.
    Arguments and result are those of :func:`squash`.
    """
    length = torch.linalg.vector_norm(poses, dim=dim, keepdim=True)
    smallest = torch.finfo(poses.dtype).tiny
    squashed: Tensor = poses * ((1 - torch.exp(-length)) / length.clamp_min(smallest))
    return squashed


class ExponentialSquash(Squash):
    """:func:`exponential_squash` as a module."""

    def forward(self, poses: Tensor) -> Tensor:
        """Vectors ``[..., dim]`` to vectors of lengths below 1."""
        return exponential_squash(poses)

"""Parts that several layouts have in common."""

from collections.abc import Sequence

import torch
from torch import Tensor

from capsnet.importers.weights import Weights
from capsnet.layers.decoder import DecoderConfig

__all__ = ["conv", "divided", "linear_decoder", "packed_units"]


def conv(weights: Weights, name: str, ours: str, axes: str) -> dict[str, Tensor]:
    """Weight and bias of a convolution ``out in kernel kernel``, by our name."""
    return {
        f"{ours}.weight": weights.take(f"{name}.weight", axes),
        f"{ours}.bias": weights.take(f"{name}.bias", axes.split()[0]),
    }


def packed_units(weights: Weights, prefix: str) -> dict[str, Tensor]:
    """Primary capsules made by a convolution for each of their values, as one convolution.

    The file has them as ``PREFIX.0.weight`` and so on, one for each of the ``dim`` values of a
    capsule; each gives that value of all ``groups`` capsules at a position.

    Args:
        weights: that know ``dim``.
        prefix: of the names.
    """
    units = [
        conv(weights, f"{prefix}.{unit}", "primary", "groups stem primary_kernel primary_kernel")
        for unit in range(weights.sizes["dim"])
    ]
    return {name: torch.stack([u[name] for u in units], dim=1).flatten(0, 1) for name in units[0]}


def linear_decoder(
    weights: Weights, names: Sequence[str]
) -> tuple[DecoderConfig | None, dict[str, Tensor], int | None]:
    """A decoder of torch's linear layers.

    Args:
        weights: that know ``classes`` and ``class_dim``.
        names: of the layers.

    Returns:
        Its configuration, its tensors by our names, and the number of values of an image; None,
        nothing and None where the file has no decoder.
    """
    first = weights.tensors.get(f"{names[0]}.weight")
    if first is None:
        return None, {}, None
    classes, dim = weights.sizes["classes"], weights.sizes["class_dim"]
    alone = first.shape[-1:] == (dim,)  # it sees one capsule, and not which one that is
    sizes = [dim if alone else classes * dim]
    tensors: dict[str, Tensor] = {}
    for number, name in enumerate(names):
        axes = f"decoder{number} {sizes[-1]}"
        tensors |= conv(weights, name, f"decoder.{2 * number + 1}", axes)
        sizes.append(weights.sizes[f"decoder{number}"])
    return DecoderConfig(tuple(sizes[1:-1]), alone), tensors, sizes[-1]


def divided(what: str, number: int, by: int) -> int:
    """A number divided by one that must divide it.

    Raises:
        ValueError: if it does not.
    """
    if number % by:
        raise ValueError(f"{what} must be a multiple of {by}, got {number}")
    return number // by

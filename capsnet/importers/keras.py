"""What Keras' networks of capsules have in common: an epsilon in roots, and channels last."""

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from capsnet.importers.parts import divided
from capsnet.importers.variants import LengthsVariant, PrimaryVariant, RoutedVariant
from capsnet.importers.weights import Weights
from capsnet.layers.decoder import DecoderConfig
from capsnet.layers.dynamic import DynamicCapsules, DynamicConfig
from capsnet.layers.primary import PrimaryCapsules
from capsnet.layers.squash import Squash

__all__ = [
    "KerasDynamic",
    "KerasDynamicConfig",
    "KerasLengths",
    "KerasLengthsConfig",
    "KerasPrimary",
    "KerasPrimaryConfig",
    "KerasSquash",
    "dense_decoder",
    "keras_conv",
    "keras_squash",
    "primary_sizes",
]

_EPSILON = 1e-7  # keras.backend.epsilon()


def keras_squash(poses: Tensor, dim: int = -1) -> Tensor:
    """Vectors of lengths below 1, with an epsilon under the root of the length.

    Arguments and result are those of :func:`capsnet.layers.squash.squash`.
    """
    square = (poses * poses).sum(dim, keepdim=True)
    return poses * (square / (1 + square) / torch.sqrt(square + _EPSILON))


class KerasSquash(Squash):
    """:func:`keras_squash` as a module."""

    def forward(self, poses: Tensor) -> Tensor:
        """Vectors ``[..., dim]`` to vectors of lengths below 1."""
        return keras_squash(poses)


class KerasPrimary(PrimaryCapsules):
    """Primary capsules that are squashed with the epsilon."""

    def activate(self, poses: Tensor) -> Tensor:
        """What the convolution gives, ``[batch, (groups dim), height, width]``, as capsules."""
        return keras_squash(self.to_capsules(poses))


@dataclass(frozen=True)
class KerasPrimaryConfig(PrimaryVariant, kind="keras-primary"):
    """Primary capsules, squashed with Keras' epsilon."""

    module = KerasPrimary


class KerasDynamic(DynamicCapsules):
    """Dynamic routing that squashes with the epsilon; arguments are those of the usual layer."""

    def __init__(self, in_capsules: int, in_dim: int, config: DynamicConfig) -> None:
        super().__init__(in_capsules, in_dim, config)
        self.iterations = nn.ModuleList(KerasSquash() for _ in self.iterations)


@dataclass(frozen=True)
class KerasDynamicConfig(RoutedVariant, kind="keras-dynamic"):
    """Dynamic routing, squashed with Keras' epsilon."""

    module = KerasDynamic


class KerasLengths(nn.Module):
    """Capsules ``[batch, capsules, dim]`` to ``[batch, capsules, dim + 1]``."""

    def forward(self, capsules: Tensor) -> Tensor:
        """The capsules as they are, each with its length behind it."""
        square = (capsules * capsules).sum(-1, keepdim=True)
        return torch.cat((capsules, torch.sqrt(square + _EPSILON)), dim=-1)


@dataclass(frozen=True)
class KerasLengthsConfig(LengthsVariant, kind="keras-lengths"):
    """Class capsules with an activation: their length, with Keras' epsilon under the root."""

    module = KerasLengths


def keras_conv(weights: Weights, name: str, ours: str, axes: str) -> dict[str, Tensor]:
    """A convolution ``rows columns in out``, by our name."""
    kernel = weights.take(f"{name}/kernel", axes)
    return {
        f"{ours}.weight": rearrange(kernel, "y x i o -> o i y x"),
        f"{ours}.bias": weights.take(f"{name}/bias", axes.split()[3]),
    }


def primary_sizes(weights: Weights, name: str) -> tuple[int, int]:
    """Groups of capsules, and the positions at which they stand.

    Args:
        weights: that know ``primary_channels``, ``dim`` and ``in_capsules``.
        name: of the convolution.
    """
    sizes = weights.sizes
    groups = divided(f"the channels of {name}", sizes["primary_channels"], sizes["dim"])
    return groups, divided("the input capsules", sizes["in_capsules"], groups)


def dense_decoder(
    weights: Weights,
) -> tuple[DecoderConfig | None, dict[str, Tensor], int | None]:
    """A decoder of Keras' dense layers, whose images have their channels last.

    Args:
        weights: that know ``classes``, ``class_dim`` and ``image_channels``.

    Returns:
        As :func:`capsnet.importers.parts.linear_decoder`.
    """
    names = [n.removesuffix("/kernel") for n in weights.tensors if n.endswith("/kernel")]
    if not names:
        return None, {}, None
    sizes = [weights.sizes["classes"] * weights.sizes["class_dim"]]
    tensors: dict[str, Tensor] = {}
    for number, name in enumerate(names):
        values = f"decoder{number}"
        kernel = weights.take(f"{name}/kernel", f"{sizes[-1]} {values}")
        bias = weights.take(f"{name}/bias", values)
        sizes.append(weights.sizes[values])
        if name == names[-1]:
            channels = weights.sizes["image_channels"]
            divided(f"the values of {name}", sizes[-1], channels)
            kernel, bias = (
                rearrange(t, "... (p c) -> ... (c p)", c=channels) for t in (kernel, bias)
            )
        place = f"decoder.{2 * number + 1}"
        tensors |= {f"{place}.weight": kernel.T, f"{place}.bias": bias}
    return DecoderConfig(tuple(sizes[1:-1])), tensors, sizes[-1]

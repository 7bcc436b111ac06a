"""Weights of gram-ai/capsule-networks: it couples by a softmax over the *input* capsules.

Its ``classes``, a softmax of the lengths of the class capsules, are the network's lengths here.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from capsnet.config import CapsNetConfig
from capsnet.importers.parts import conv, divided, linear_decoder, packed_units
from capsnet.importers.variants import LengthsVariant, RoutedVariant
from capsnet.importers.weights import Weights
from capsnet.layers.dynamic import DynamicCapsules
from capsnet.layers.primary import PrimaryConfig
from capsnet.layers.stem import ConvConfig

__all__ = [
    "InputCoupled",
    "InputCoupledConfig",
    "SoftmaxLengths",
    "SoftmaxLengthsConfig",
    "translate",
]

_STRIDE = 2
_ITERATIONS = 3


class InputCoupled(DynamicCapsules):
    """Dynamic routing in which input capsules compete for each output capsule."""

    def couple(self, logits: Tensor) -> Tensor:
        """Coupling coefficients of logits, both ``[batch, in_capsules, capsules]``."""
        return torch.softmax(logits, dim=1)


@dataclass(frozen=True)
class InputCoupledConfig(RoutedVariant, kind="input-coupled"):
    """Dynamic routing with a softmax over the input capsules."""

    module = InputCoupled


class SoftmaxLengths(nn.Module):
    """Capsules ``[batch, capsules, dim]`` to ``[batch, capsules, dim + 1]``."""

    def forward(self, capsules: Tensor) -> Tensor:
        """The capsules as they are, each with its share of the softmax behind it."""
        lengths = torch.linalg.vector_norm(capsules, dim=-1, keepdim=True)
        return torch.cat((capsules, torch.softmax(lengths, dim=1)), dim=-1)


@dataclass(frozen=True)
class SoftmaxLengthsConfig(LengthsVariant, kind="softmax-lengths"):
    """Class capsules with an activation: the softmax of their lengths."""

    module = SoftmaxLengths


def translate(weights: Weights) -> tuple[CapsNetConfig, dict[str, Tensor]]:
    """The network, with its decoder, which sees all classes or one capsule alone.

    Args:
        weights: a ``state_dict`` of its ``CapsuleNet``.

    Raises:
        ValueError, ConfigError: if a tensor is missing, not expected, or does not fit.
    """
    tensors = conv(weights, "conv1", "stem", "stem image_channels kernel kernel")
    matrix = weights.take("digit_capsules.route_weights", "classes in_capsules dim class_dim")
    tensors |= packed_units(weights, "primary_capsules.capsules")
    sizes = weights.sizes
    groups = sizes["groups"]
    positions = divided("the input capsules of digit_capsules", sizes["in_capsules"], groups)
    order = "o (g p) d h -> (p g) d o h"
    tensors["capsule_layers.0.weight"] = rearrange(matrix, order, g=groups)
    names = ("decoder.0", "decoder.2", "decoder.4")
    decoder, decoding, pixels = linear_decoder(weights, names)
    kernels = [(sizes["kernel"], 1), (sizes["primary_kernel"], _STRIDE)]
    iterations = weights.routing_iterations(_ITERATIONS)
    config = CapsNetConfig(
        weights.image_shape(sizes["image_channels"], positions, kernels, pixels),
        ConvConfig(sizes["stem"], sizes["kernel"]),
        PrimaryConfig(groups, sizes["dim"], sizes["primary_kernel"], _STRIDE, "squash"),
        (
            InputCoupledConfig(sizes["classes"], sizes["class_dim"], iterations),
            SoftmaxLengthsConfig(),
        ),
        decoder,
    )
    return config, tensors | decoding

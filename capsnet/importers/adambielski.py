"""Weights of adambielski/CapsNet-pytorch: its logits start from trained values.

Its n iterations are n + 1 of the paper's: it routes once before it counts.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from capsnet.config import CapsNetConfig
from capsnet.importers.parts import conv, divided, linear_decoder
from capsnet.importers.variants import RoutedVariant
from capsnet.importers.weights import Weights
from capsnet.layers.dynamic import DynamicCapsules, DynamicConfig
from capsnet.layers.primary import PrimaryConfig
from capsnet.layers.stem import ConvConfig

__all__ = ["TrainedLogits", "TrainedLogitsConfig", "translate"]

_STRIDE = 2
_ITERATIONS = 3


class TrainedLogits(DynamicCapsules):
    """Dynamic routing whose logits start from a parameter, the same for all images.

    Arguments are those of the usual layer.
    """

    def __init__(self, in_capsules: int, in_dim: int, config: DynamicConfig) -> None:
        super().__init__(in_capsules, in_dim, config)
        self.logits = nn.Parameter(torch.zeros(in_capsules, config.capsules))

    def initial_logits(self, votes: Tensor) -> Tensor:
        """``[batch, in_capsules, capsules]``."""
        return super().initial_logits(votes) + self.logits


@dataclass(frozen=True)
class TrainedLogitsConfig(RoutedVariant, kind="trained-logits"):
    """Dynamic routing with trained initial logits."""

    module = TrainedLogits


def translate(weights: Weights) -> tuple[CapsNetConfig, dict[str, Tensor]]:
    """The network, with its reconstruction network where the file has that.

    Args:
        weights: a ``state_dict`` of its ``CapsNet`` or ``CapsNetWithReconstruction``.

    Raises:
        ValueError, ConfigError: if a tensor is missing, not expected, or does not fit.
    """
    weights.drop_prefixes("capsnet.", "reconstruction_net.")
    tensors = conv(weights, "conv1", "stem", "stem image_channels kernel kernel")
    primary = "primary_channels stem primary_kernel primary_kernel"
    tensors |= conv(weights, "primaryCaps.conv", "primary", primary)
    logits = weights.take("digitCaps.routing_module.b", "in_capsules classes")
    matrix = weights.take("digitCaps.weights", "in_capsules dim class_values")
    sizes = weights.sizes
    groups = divided("the channels of primaryCaps.conv", sizes["primary_channels"], sizes["dim"])
    positions = divided("the input capsules of digitCaps", sizes["in_capsules"], groups)
    of_a_class = divided("the columns of digitCaps.weights", matrix.shape[2], sizes["classes"])
    sizes["class_dim"] = of_a_class
    tensors["capsule_layers.0.logits"] = rearrange(logits, "(g p) o -> (p g) o", g=groups)
    tensors["capsule_layers.0.weight"] = rearrange(
        matrix, "(g p) d (o h) -> (p g) d o h", g=groups, h=of_a_class
    )
    decoder, decoding, pixels = linear_decoder(weights, ("fc1", "fc2", "fc3"))
    kernels = [(sizes["kernel"], 1), (sizes["primary_kernel"], _STRIDE)]
    config = CapsNetConfig(
        weights.image_shape(sizes["image_channels"], positions, kernels, pixels),
        ConvConfig(sizes["stem"], sizes["kernel"]),
        PrimaryConfig(groups, sizes["dim"], sizes["primary_kernel"], _STRIDE, "squash"),
        (
            TrainedLogitsConfig(
                sizes["classes"], of_a_class, weights.routing_iterations(_ITERATIONS) + 1
            ),
        ),
        decoder,
    )
    return config, tensors | decoding

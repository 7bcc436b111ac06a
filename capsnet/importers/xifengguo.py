"""Weights of XifengGuo/CapsNet-Keras: it squashes, and measures lengths, with an epsilon."""

from einops import rearrange
from torch import Tensor

from capsnet.config import CapsNetConfig
from capsnet.importers.keras import (
    KerasDynamicConfig,
    KerasLengthsConfig,
    KerasPrimaryConfig,
    dense_decoder,
    keras_conv,
    primary_sizes,
)
from capsnet.importers.weights import Weights
from capsnet.layers.stem import ConvConfig

__all__ = ["translate"]

_STRIDE = 2
_ITERATIONS = 3
_PRIMARY = "primarycap_conv2d"


def translate(weights: Weights) -> tuple[CapsNetConfig, dict[str, Tensor]]:
    """The network, with its decoder where the file has one.

    Args:
        weights: of its ``model.save_weights``.

    Raises:
        ValueError, ConfigError: if a tensor is missing, not expected, or does not fit.
    """
    tensors = keras_conv(weights, "conv1", "stem", "kernel kernel image_channels stem")
    primary = "primary_kernel primary_kernel stem primary_channels"
    tensors |= keras_conv(weights, _PRIMARY, "primary", primary)
    matrix = weights.take("digitcaps/W", "classes in_capsules class_dim dim")
    tensors["capsule_layers.0.weight"] = rearrange(matrix, "o i h d -> i d o h")
    sizes = weights.sizes
    groups, positions = primary_sizes(weights, _PRIMARY)
    decoder, decoding, pixels = dense_decoder(weights)
    kernels = [(sizes["kernel"], 1), (sizes["primary_kernel"], _STRIDE)]
    iterations = weights.routing_iterations(_ITERATIONS)
    config = CapsNetConfig(
        weights.image_shape(sizes["image_channels"], positions, kernels, pixels),
        ConvConfig(sizes["stem"], sizes["kernel"]),
        KerasPrimaryConfig(groups, sizes["dim"], sizes["primary_kernel"], _STRIDE),
        (
            KerasDynamicConfig(sizes["classes"], sizes["class_dim"], iterations),
            KerasLengthsConfig(),
        ),
        decoder,
    )
    return config, tensors | decoding

"""Weights of EscVM/Efficient-CapsNet (Mazzia, Salvetti, Chiaberge 2021, arXiv:2101.12491).

Its layers are those of the preset ``efficient``; the lengths have an epsilon under their root.
"""

import torch
from einops import rearrange
from torch import Tensor

from capsnet.config import CapsNetConfig
from capsnet.importers.keras import KerasLengthsConfig, dense_decoder, keras_conv, primary_sizes
from capsnet.importers.weights import Weights
from capsnet.layers.attention import AttentionConfig
from capsnet.layers.convolutions import Convolution, ConvolutionsConfig
from capsnet.layers.depthwise import DepthwiseConfig

__all__ = ["translate"]

_STRIDE = 2  # of the last convolution; that of the others is 1
_NORMALISATION = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


def translate(weights: Weights) -> tuple[CapsNetConfig, dict[str, Tensor]]:
    """The network, with its generator, which decodes images, where the file has one.

    Args:
        weights: of its ``model.save_weights``: convolutions and normalisations by turns, then the
            depthwise convolution, as Keras numbered them.

    Raises:
        ValueError, ConfigError: if a tensor is missing, not expected, or does not fit.
    """
    *stem, primary = _layers(weights, "conv", "/kernel") or ["conv2d"]
    normalisations = _layers(weights, "", "/gamma")
    if len(normalisations) != len(stem):
        raise ValueError(
            f"there are {len(stem)} convolutions before the depthwise one, and "
            f"{len(normalisations)} normalisations, expected one behind each"
        )
    convolutions, tensors = _stem(weights, stem, normalisations)
    axes = "primary_kernel primary_kernel 1 primary_channels"
    tensors |= keras_conv(weights, primary, "primary.conv", axes)
    capsules, *_ = _layers(weights, "", "/W") or ["fc_caps"]
    matrix = weights.take(f"{capsules}/W", "classes in_capsules dim class_dim")
    prior = weights.take(f"{capsules}/b", "classes in_capsules 1")
    tensors["capsule_layers.0.weight"] = rearrange(matrix, "o i d h -> i d o h")
    tensors["capsule_layers.0.prior"] = rearrange(prior, "o i 1 -> i o")
    sizes = weights.sizes
    _, positions = primary_sizes(weights, primary)
    decoder, decoding, pixels = dense_decoder(weights)
    kernels = [(c.kernel, c.stride) for c in convolutions] + [(sizes["primary_kernel"], 1)]
    config = CapsNetConfig(
        weights.image_shape(sizes["image_channels"], positions, kernels, pixels),
        ConvolutionsConfig(tuple(convolutions)),
        DepthwiseConfig(sizes["dim"], sizes["primary_kernel"]),
        (AttentionConfig(sizes["classes"], sizes["class_dim"]), KerasLengthsConfig()),
        decoder,
    )
    return config, tensors | decoding


def _layers(weights: Weights, start: str, end: str) -> list[str]:
    """Names of the layers that start so and have a tensor of that name, in order."""
    names = (n for n in weights.tensors if n.startswith(start) and n.endswith(end))
    return [name.removesuffix(end) for name in names]


def _stem(
    weights: Weights, names: list[str], normalisations: list[str]
) -> tuple[list[Convolution], dict[str, Tensor]]:
    """The convolutions, each with a ReLU and a normalisation behind it."""
    found: list[Convolution] = []
    tensors: dict[str, Tensor] = {}
    before = "image_channels"
    for number, (name, normalisation) in enumerate(zip(names, normalisations, strict=True)):
        kernel, after = f"kernel{number}", f"channels{number}"
        place = f"stem.{3 * number}"
        tensors |= keras_conv(weights, name, place, f"{kernel} {kernel} {before} {after}")
        behind = f"stem.{3 * number + 2}"
        for ours, theirs in _NORMALISATION.items():
            tensors[f"{behind}.{ours}"] = weights.take(f"{normalisation}/{theirs}", after)
        tensors[f"{behind}.num_batches_tracked"] = torch.tensor(0)
        stride = _STRIDE if name == names[-1] else 1
        sizes = weights.sizes
        found.append(Convolution(sizes[after], sizes[kernel], stride, batch_norm=True))
        before = after
    weights.sizes["stem"] = weights.sizes[before]
    return found, tensors

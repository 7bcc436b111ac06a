"""Weights of readable_capsnet (A. Rogozhnikov), from its ``state_dict``."""

import dataclasses

import torch
from einops import rearrange
from torch import Tensor

from capsnet.config import CapsNetConfig
from capsnet.importers.parts import conv, divided
from capsnet.importers.weights import Weights
from capsnet.layers.decoder import DecoderConfig
from capsnet.layers.dynamic import DynamicConfig
from capsnet.layers.primary import PrimaryConfig
from capsnet.layers.stem import ConvConfig

__all__ = ["translate"]

_STRIDE = 2
_ITERATIONS = 3
_STEM, _PRIMARY = "image2primary_capsules.0", "image2primary_capsules.2"
_ROUTED = "input_caps2U.weight"
_FIRST = f"primary2digit_capsules.{_ROUTED}"


def translate(weights: Weights) -> tuple[CapsNetConfig, dict[str, Tensor]]:
    """The network; more capsule layers, under any names, follow each other as in the file.

    Sizes are inferred from the tensors. Its decoder has biases only in the middle.

    Args:
        weights: a ``state_dict`` of its ``Encoder``, or of it as ``encoder`` and its ``Decoder`` as
            ``decoder``.

    Raises:
        ValueError, ConfigError: if a tensor is missing, not expected, or does not fit.
    """
    weights.drop_prefixes("encoder.")
    tensors = conv(weights, _STEM, "stem", "stem image_channels kernel kernel")
    tensors |= conv(
        weights, _PRIMARY, "primary", "primary_channels stem primary_kernel primary_kernel"
    )
    sizes = weights.sizes
    others = [n for n in weights.tensors if n.endswith(_ROUTED) and n != _FIRST]
    for number, name in enumerate((_FIRST, *others)):
        axes = f"capsules{number} dim{number} capsules{number + 1} dim{number + 1}"
        tensors[f"capsule_layers.{number}.weight"] = weights.take(name, axes)
    groups = divided("the channels of primary capsules", sizes["primary_channels"], sizes["dim0"])
    positions = divided("the capsules of the first layer", sizes["capsules0"], groups)
    decoder, decoding = _decoder(weights, len(others) + 1)
    kernels = [(sizes["kernel"], 1), (sizes["primary_kernel"], _STRIDE)]
    shape = weights.image_shape(sizes["image_channels"], positions, kernels)
    iterations = weights.routing_iterations(_ITERATIONS)
    config = CapsNetConfig(
        shape,
        ConvConfig(sizes["stem"], sizes["kernel"]),
        PrimaryConfig(groups, sizes["dim0"], sizes["primary_kernel"], _STRIDE),
        tuple(
            DynamicConfig(sizes[f"capsules{number}"], sizes[f"dim{number}"], iterations)
            for number in range(1, len(others) + 2)
        ),
        decoder,
    )
    return config, tensors | decoding


def _decoder(weights: Weights, layers: int) -> tuple[DecoderConfig | None, dict[str, Tensor]]:
    """The decoder, where there is one; its last weight says how large the images are."""
    if not any(name.startswith("decoder.") for name in weights.tensors):
        return None, {}
    first = weights.take("decoder.0.weight", f"capsules{layers} dim{layers} hidden0")
    middle = weights.take("decoder.2.weight", "hidden1 hidden0")
    bias = weights.take("decoder.2.bias", "hidden1")
    last = weights.take("decoder.4.weight", "hidden1 image_channels height width")
    channels, height, width = last.shape[1:]
    shape = (channels, height, width)
    if weights.given.image_shape not in (None, shape):
        raise ValueError(f"decoder.4.weight gives images of {list(shape)}, another shape was given")
    weights.given = dataclasses.replace(weights.given, image_shape=shape)
    tensors = {
        "decoder.1.weight": rearrange(first, "caps dim hidden -> hidden (caps dim)"),
        "decoder.1.bias": torch.zeros(first.shape[-1]),
        "decoder.3.weight": middle,
        "decoder.3.bias": bias,
        "decoder.5.weight": rearrange(last, "hidden c h w -> (c h w) hidden"),
        "decoder.5.bias": torch.zeros(last[0].numel()),
    }
    return DecoderConfig((first.shape[-1], last.shape[0])), tensors

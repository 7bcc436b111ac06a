"""Weights of readable_capsnet (A. Rogozhnikov), from its ``state_dict``."""

from collections.abc import Mapping

import torch
from einops import rearrange
from torch import Tensor

from capsnet.config import CapsNetConfig
from capsnet.layers.decoder import DecoderConfig
from capsnet.layers.dynamic import DynamicConfig
from capsnet.layers.primary import PrimaryConfig
from capsnet.layers.stem import ConvConfig

__all__ = ["from_readable_capsnet"]

_ENCODER_NAMES = {
    "stem.weight": "image2primary_capsules.0.weight",
    "stem.bias": "image2primary_capsules.0.bias",
    "primary.weight": "image2primary_capsules.2.weight",
    "primary.bias": "image2primary_capsules.2.bias",
    "capsule_layers.0.weight": "primary2digit_capsules.input_caps2U.weight",
}
_DECODER_NAMES = {"0.weight", "2.weight", "2.bias", "4.weight"}


def from_readable_capsnet(
    encoder: Mapping[str, Tensor], decoder: Mapping[str, Tensor]
) -> tuple[CapsNetConfig, dict[str, Tensor]]:
    """A network of readable_capsnet as one of this toolkit.

    Sizes are inferred from the tensors, with 3 routing iterations and stride 2, which that project
    fixes. Its decoder has biases only in the middle.

    Args:
        encoder: ``state_dict`` of its ``Encoder``.
        decoder: of its ``Decoder``; empty for none.

    Returns:
        The configuration, and the tensors by the names of ``CapsNet``.

    Raises:
        KeyError: if a tensor is missing.
        ValueError: if one is not expected, or the shapes describe no network.
        ConfigError: likewise.
    """
    tensors = {ours: encoder[theirs] for ours, theirs in _ENCODER_NAMES.items()}
    strange = (encoder.keys() - _ENCODER_NAMES.values()) | (decoder.keys() - _DECODER_NAMES)
    if strange:
        raise ValueError(f"not expected: {', '.join(sorted(strange))}")
    stem_channels, channels, stem_kernel, _ = tensors["stem.weight"].shape
    primary_channels, _, primary_kernel, _ = tensors["primary.weight"].shape
    in_capsules, in_dim, classes, class_dim = tensors["capsule_layers.0.weight"].shape
    groups, stride = primary_channels // in_dim, 2
    if decoder:
        first, last = decoder["0.weight"], decoder["4.weight"]
        hidden = (first.shape[-1], last.shape[0])
        height, width = last.shape[-2:]
        tensors |= {
            "decoder.1.weight": rearrange(first, "caps dim hidden -> hidden (caps dim)"),
            "decoder.1.bias": torch.zeros(hidden[0]),
            "decoder.3.weight": decoder["2.weight"],
            "decoder.3.bias": decoder["2.bias"],
            "decoder.5.weight": rearrange(last, "hidden c h w -> (c h w) hidden"),
            "decoder.5.bias": torch.zeros(last[0].numel()),
        }
    else:
        # Square images; of the sizes that give this many capsules, the largest (28, not 27).
        side = round((in_capsules / groups) ** 0.5)
        height = width = stem_kernel + primary_kernel - 2 + stride * side
    config = CapsNetConfig(
        image_shape=(channels, height, width),
        stem=ConvConfig(stem_channels, stem_kernel),
        primary=PrimaryConfig(groups, in_dim, primary_kernel, stride),
        capsule_layers=(DynamicConfig(classes, class_dim),),
        decoder=DecoderConfig(hidden) if decoder else None,
    )
    return config, tensors

"""Small networks with lively weights, and images for them."""

import dataclasses
from typing import Any

import numpy as np
import torch
from torch.nn.functional import conv2d

from capsnet.config import CapsNetConfig, preset
from capsnet.layers.decoder import DecoderConfig
from capsnet.layers.dynamic import DynamicConfig
from capsnet.layers.primary import SCALE
from capsnet.model import CapsNet

TINY = preset("tiny")


def altered(config: CapsNetConfig, **changes: Any) -> CapsNetConfig:
    """The configuration with other values, named ``part_value``: ``primary_activation="squash"``.

    ``image_shape`` and ``capsule_layers`` are as they are; ``decoder_sizes`` may be None.
    """
    parts: dict[str, Any] = {}
    for name, value in changes.items():
        part, _, key = name.partition("_")
        if part in ("stem", "primary"):
            parts[part] = dataclasses.replace(
                parts.get(part, getattr(config, part)), **{key: value}
            )
        elif name == "decoder_sizes":
            parts["decoder"] = None if value is None else DecoderConfig(value)
        else:
            parts[name] = value
    return dataclasses.replace(config, **parts)


def network(**values: Any) -> CapsNetConfig:
    """The paper's network with other values, named as :func:`altered` takes them.

    What does not follow from defaults one by one, such as a small image, is set in one go.
    """
    return altered(CapsNetConfig(), **values)


SMALL = network(
    image_shape=(1, 12, 12),
    stem_channels=4,
    stem_kernel=5,
    primary_groups=2,
    primary_dim=4,
    primary_kernel=3,
    primary_stride=2,
    capsule_layers=(DynamicConfig(capsules=5, dim=6),),
    decoder_sizes=(8,),
)
"""The least network with all parts: its export takes a second."""


def with_layers(config: CapsNetConfig, *layers: tuple[int, int, int]) -> CapsNetConfig:
    """The configuration with other capsule layers: capsules, dim, routing iterations."""
    stack = tuple(DynamicConfig(*layer) for layer in layers)
    return dataclasses.replace(config, capsule_layers=stack)


def lively_model(config: CapsNetConfig, seed: int = 20171026) -> CapsNet:
    """A network whose capsules have lengths like those of a trained one, the same for a seed.

    Fresh weights give lengths near zero: there every coupling is uniform, and a routing iteration
    more or less changes nothing. So every layer is scaled until its uniformly coupled votes add up
    to vectors of length 1.
    """
    images = torch.from_numpy(random_images(config, 4))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = CapsNet(config)
        poses = model.primary.to_capsules(
            conv2d(
                model.stem(images), model.primary.weight, model.primary.bias, model.primary.stride
            )
        )
        factor = 1 / poses.norm(dim=-1).mean()
        if config.primary.activation == "scale":
            factor /= SCALE
        model.primary.weight *= factor
        model.primary.bias *= factor
        capsules = model.primary.activate(
            conv2d(
                model.stem(images), model.primary.weight, model.primary.bias, model.primary.stride
            )
        )
        for layer in model.capsule_layers:
            sums = torch.einsum("bid,idoh->boh", capsules, layer.weight) / layer.weight.shape[2]
            layer.weight /= sums.norm(dim=-1).mean()
            capsules = layer(capsules)
    return model.eval()


def random_images(config: CapsNetConfig, count: int, seed: int = 0) -> np.ndarray:
    """Images float32 ``[count, channels, height, width]``, values 0..1."""
    return np.random.default_rng(seed).random((count, *config.image_shape), np.float32)

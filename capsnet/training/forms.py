"""Layers in the form that trains fastest: the same functions of the same parameters.

A kind of layer that has none here trains as it is written.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from capsnet.layers.dense_routing import pack_weight, projected_routing
from capsnet.layers.dynamic import DynamicCapsules
from capsnet.layers.primary import PrimaryCapsules
from capsnet.layers.stem import ConvStem
from capsnet.model import CapsNet
from capsnet.training.frequency import frequency_conv2d

__all__ = ["encode", "training_form"]

Form = Callable[[Tensor], Tensor]

_ROUTED_IMAGES = 32  # at a time: what lies between the products then stays in a CPU's caches
_LARGEST_FREQUENCY_GRID = 256  # positions; beyond it the dense Fourier transform costs too much


def encode(model: CapsNet, images: Tensor) -> Tensor:
    """What the last layer of ``model`` gives, as in its forward pass up to rounding.

    Args:
        model: the network; gradients flow to its parameters.
        images: ``[batch, channels, height, width]``, values 0..1.

    Returns:
        Class capsules ``[batch, classes, dim]``, with their activation if they carry one.
    """
    values = images
    for layer in model.parts().values():
        values = training_form(layer)(values)
    return values


def training_form(layer: nn.Module) -> Form:
    """What computes the same as the layer, faster where there is a form for exactly its type."""
    form = _FORMS.get(type(layer))
    return layer if form is None else form(layer)


def _stem(layer: ConvStem) -> Form:
    # In place: no gradient needs what was there before.
    return lambda images: torch.nn.functional.conv2d(images, layer.weight, layer.bias).relu_()


def _primary(layer: PrimaryCapsules) -> Form:
    stride = layer.stride[0]

    def capsules(features: Tensor) -> Tensor:
        grid = math.prod(-(-size // stride) for size in features.shape[-2:])
        if features.device.type != "cpu" or grid > _LARGEST_FREQUENCY_GRID:
            result: Tensor = layer(features)
            return result
        assert layer.bias is not None
        poses = frequency_conv2d(features, layer.weight, stride)
        return layer.activate(poses + layer.bias[:, None, None])

    return capsules


def _dynamic(layer: DynamicCapsules) -> Form:
    def routed(capsules: Tensor) -> Tensor:
        weight = pack_weight(layer.weight)
        parts = capsules.split(_ROUTED_IMAGES) if capsules.device.type == "cpu" else [capsules]
        return torch.cat(
            [
                projected_routing(
                    part.mT.contiguous(), weight, layer.iterations, layer.bias, layer.leaky
                )
                for part in parts
            ]
        )

    return routed


_FORMS: dict[type[nn.Module], Callable[[Any], Form]] = {
    ConvStem: _stem,
    PrimaryCapsules: _primary,
    DynamicCapsules: _dynamic,
}

"""A small network of every kind of layer, with weights that make its routing matter."""

import dataclasses

import torch
from torch import nn

from capsnet.config import CapsNetConfig, preset
from capsnet.layers.activated import ActivatedConfig
from capsnet.layers.attention import AttentionConfig
from capsnet.layers.base import LayerConfig
from capsnet.layers.convolutional import ConvolutionalConfig
from capsnet.layers.convolutions import Convolution, ConvolutionsConfig
from capsnet.layers.decoder import DecoderConfig
from capsnet.layers.depthwise import DepthwiseConfig
from capsnet.layers.dynamic import DynamicCapsules, DynamicConfig
from capsnet.layers.em import EMConfig
from capsnet.layers.primary import PrimaryConfig
from capsnet.layers.self_routing import SelfRoutingConfig
from capsnet.layers.stem import ConvConfig
from capsnet.layers.transposed import TransposedConfig
from capsnet.model import CapsNet

_STEM = ConvConfig(8, 5)
_GRID = (3, 3)


def _network(
    primary: LayerConfig, *layers: LayerConfig, stem: LayerConfig = _STEM, size: int = 12
) -> CapsNetConfig:
    return CapsNetConfig((1, size, size), stem, primary, layers, None)


_EFFICIENT = _network(
    DepthwiseConfig(4, 3),
    AttentionConfig(5, 6),
    stem=ConvolutionsConfig(
        (Convolution(6, 3, batch_norm=True), Convolution(8, 3, 2, batch_norm=True))
    ),
)
FAMILY = {
    "dynamic": _network(PrimaryConfig(4, 6, 3, 2), DynamicConfig(5, 7), DynamicConfig(4, 8)),
    "paper": _network(
        PrimaryConfig(4, 6, 3, 2, activation="squash"),
        DynamicConfig(5, 7, 2, bias=True, leaky=True),
        DynamicConfig(4, 8, bias=True),
    ),
    "leaky": _network(PrimaryConfig(4, 6, 3, 2), DynamicConfig(4, 8, leaky=True)),
    "efficient": _EFFICIENT,
    "efficient, stacked": dataclasses.replace(
        _EFFICIENT, capsule_layers=(AttentionConfig(7, 5), DynamicConfig(3, 4))
    ),
    "padded convolutions": dataclasses.replace(
        _EFFICIENT,
        stem=ConvolutionsConfig(
            (
                Convolution(6, 3, 2, 1, True),
                Convolution(7, 3, 1, 1, True),
                Convolution(8, 1, padding=1),
            )
        ),
    ),
    "normalised in front of primary capsules": dataclasses.replace(
        _EFFICIENT, primary=PrimaryConfig(3, 4, 3, 1), decoder=DecoderConfig((8,), alone=True)
    ),
    "convolutional": _network(
        PrimaryConfig(4, 6, 3, 2),
        ConvolutionalConfig(_GRID, 2, DynamicConfig(5, 7)),
        DynamicConfig(4, 8),
    ),
    "convolutional, twice": _network(
        PrimaryConfig(4, 6, 3, 2),
        ConvolutionalConfig((5, 5), 3, DynamicConfig(5, 7), stride=2),
        ConvolutionalConfig((2, 2), 2, AttentionConfig(6, 5)),
        DynamicConfig(4, 8),
        size=16,
    ),
    "self-routing": dataclasses.replace(
        _network(
            ActivatedConfig(4, 6, 3, 2),
            ConvolutionalConfig(_GRID, 2, SelfRoutingConfig(5, 7)),
            SelfRoutingConfig(4, 8),
        ),
        decoder=TransposedConfig((6, 5, 4)),
    ),
    "self-routing, 32x32 in colour": preset("self-routing"),
    "em": _network(
        ActivatedConfig(4, 4, 3, 2),
        ConvolutionalConfig(_GRID, 2, EMConfig(5, 2)),
        EMConfig(4, 2),
    ),
}


def family_member(config: CapsNetConfig) -> CapsNet:
    """A network with lively weights, in evaluation mode; always the same."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(3)
        model = CapsNet(config)
        images = torch.rand(4, *config.image_shape)
        for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
            for values in (norm.running_mean, norm.bias):
                values.normal_()
            for values in (norm.running_var, norm.weight):
                values.uniform_(0.5, 2)
        for name, weight in model.named_parameters():
            if name.endswith(("prior", "routing", "cost_of_use", "cost_of_absence")):
                weight.normal_()
        for layer in model.capsule_layers:
            if isinstance(layer, DynamicCapsules) and layer.bias is not None:
                layer.bias.normal_(std=0.2)
        for layer in (model.eval().primary, *model.capsule_layers):
            for weight in (w for w in layer.parameters() if w.dim() > 2):
                values = _lengths(model, images, layer)
                weight.mul_((0.7 / values).clamp(0.1, 300))
    return model


def _lengths(model: CapsNet, images: torch.Tensor, until: nn.Module) -> torch.Tensor:
    values = images
    for layer in model.parts().values():
        values = layer(values)
        if layer is until:
            break
    return values.norm(dim=-1).mean()

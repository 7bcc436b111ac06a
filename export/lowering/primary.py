"""Primary capsules for inference: no transpose is left between the convolution and the routing."""

import torch
from einops import rearrange
from torch import Tensor, nn

from capsnet.errors import ConfigError
from capsnet.export.lowering.base import Given, Layout, LoweredLayer, Options, rewrites
from capsnet.export.lowering.winograd import WinogradConv2d, arithmetic_left, tile_rows
from capsnet.layers.primary import SCALE, PrimaryCapsules, PrimaryConfig
from capsnet.layers.squash import squash
from capsnet.layers.stem import positions

__all__ = ["LoweredPrimary", "lowered_primary"]

_WIDE = 128  # channels
_MOST_ARITHMETIC_LEFT = 0.65


class LoweredPrimary(LoweredLayer):
    """Features to capsules ``[batch, dim, (groups height width)]``.

    The channels are ordered ``(dim groups)`` and the scale is folded in, so that the output of the
    convolution, seen with other axes, holds the capsules.

    Args:
        layer: the readable layer; its weights are copied.
        given: features, and their height and width.
        winograd: whether to convolve by Winograd's filtering.
    """

    def __init__(self, layer: PrimaryCapsules, given: Given, winograd: bool) -> None:
        super().__init__()
        config = layer.config
        self.dim, self.squashes = config.dim, layer.squashes
        self.forms = {"convolution": "winograd" if winograd else "direct"}
        direct = given.layout.fold_into(_in_order(layer))
        self.conv = WinogradConv2d(direct, given.shape[1]) if winograd else direct
        grid = positions(given.shape, config.kernel, config.stride)
        count = config.groups * grid[0] * grid[1]
        places = rearrange(torch.arange(count), "(g hw) -> (hw g)", g=config.groups)
        self.layout = Layout(dim_first=True, places=places)

    def forward(self, features: Tensor) -> Tensor:
        capsules: Tensor = self.conv(features).unflatten(1, (self.dim, -1)).flatten(2)
        if not self.squashes:
            return capsules
        # The square of a short capsule vanishes in float16.
        return self.squash(capsules.float() if capsules.dtype == torch.float16 else capsules)

    def squash(self, capsules: Tensor) -> Tensor:
        """Capsules ``[batch, dim, capsules]`` of lengths below 1."""
        return squash(capsules, dim=1)

    def in_half(self) -> None:
        self.half()
        self.computes_in = torch.float16


@rewrites(PrimaryCapsules)
def _primary(layer: PrimaryCapsules, given: Given, options: Options) -> LoweredLayer:
    return lowered_primary(layer, given, options)


def lowered_primary(
    layer: PrimaryCapsules,
    given: Given,
    options: Options,
    kind: type[LoweredPrimary] = LoweredPrimary,
) -> LoweredPrimary:
    """Primary capsules for inference, with the convolution that is faster, or that was asked for.

    Args:
        layer: the readable layer.
        given: features, and their height and width.
        options: decide the form of the convolution.
        kind: what to make; another one squashes otherwise.

    Raises:
        ConfigError: if a form was asked for that does not fit the layer.
    """
    config, rows = layer.config, positions(given.shape, layer.config.kernel, layer.config.stride)[0]
    tile = tile_rows(rows, config.kernel, config.stride) if options.precision.float32 else None
    asked = options.forms.get("convolution")
    if asked == "winograd" and tile is None:
        raise ConfigError(
            f"Winograd's convolution is for fp32 and for rows that come in tiles; this network is "
            f"lowered to {options.precision.name}, and its primary convolution has {rows} rows, a "
            f"kernel of {config.kernel} and stride {config.stride}: use the direct convolution"
        )
    pays = tile is not None and _winograd_pays(given.shape[0], config, tile)
    return kind(layer, given, asked == "winograd" or (asked is None and pays))


def _winograd_pays(in_channels: int, config: PrimaryConfig, tile: int) -> bool:
    """Whether Winograd's convolution saves more than its transforms cost.

    Two cores with AVX-512, onnxruntime 1.31.1, torch 2.13.0: of the bundled network in onnxruntime,
    ms at batch 1, 8, 32, 128, direct 3.9, 20, 74, 321, Winograd's 3.3, 14, 47, 204 (``capsnet bench
    --candidate onnx --candidate onnx-direct``); in TorchScript 8.4, 24, 116, 401 and 6.7, 21, 84,
    279 (``capsnet bench FILE``, of ``--convolution direct``). With 128 channels onnxruntime is
    still 1.1 to 1.4 times as fast, with fewer it is slower on a single image.
    """
    left = arithmetic_left(tile, config.kernel, config.stride)
    channels = min(in_channels, config.groups * config.dim)
    return channels >= _WIDE and left <= _MOST_ARITHMETIC_LEFT


def _in_order(layer: PrimaryCapsules) -> nn.Conv2d:
    """The convolution with its channels in the order of the capsules, and the scale folded in."""
    config, scale = layer.config, 1.0 if layer.squashes else SCALE
    groups = config.groups
    conv = nn.Conv2d(layer.in_channels, layer.out_channels, config.kernel, config.stride)
    weight = rearrange(layer.weight.detach(), "(g d) c h w -> (d g) c h w", g=groups) * scale
    assert layer.bias is not None
    bias = rearrange(layer.bias.detach(), "(g d) -> (d g)", g=groups) * scale
    conv.weight, conv.bias = (nn.Parameter(t.clone(), requires_grad=False) for t in (weight, bias))
    return conv

"""Convolutional capsules for inference: windows are picked by index, then routed as one batch."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from capsnet.export.lowering.base import (
    Given,
    Layout,
    LoweredLayer,
    Options,
    rewrite,
    rewrites,
)
from capsnet.layers.convolutional import ConvolutionalCapsules
from capsnet.layers.stem import positions

__all__ = ["LoweredConvolutional"]


class LoweredConvolutional(LoweredLayer):
    """Capsules of a grid to ``[batch, capsules, dim]`` of a smaller grid.

    Args:
        layer: the readable layer.
        given: capsules of any layout.
        options: decide the form of the layer at each position.
    """

    def __init__(self, layer: ConvolutionalCapsules, given: Given, options: Options) -> None:
        super().__init__()
        self._dim_first = given.layout.dim_first
        windows = _windows(layer, given.shape[0])  # [windows, capsules of a window]
        if given.layout.places is not None:
            windows = given.layout.places[windows]
        self._count = len(windows)
        self.register_buffer("windows", windows, persistent=False)
        shape = (windows.shape[1], given.shape[1])
        self.inner = rewrite(layer.layer, Given(shape, Layout(self._dim_first)), options)
        self.forms, self.claims = self.inner.forms, self.inner.claims
        self.opaque = self.inner.opaque

    def forward(self, capsules: Tensor) -> Tensor:
        windows = self.get_buffer("windows")
        picked = capsules[..., windows] if self._dim_first else capsules[:, windows]
        if self._dim_first:
            picked = picked.movedim(2, 1)  # b w d i
        routed = self.inner.layout.to_readable(self.inner(picked.flatten(0, 1)))
        result: Tensor = routed.unflatten(0, (-1, self._count)).flatten(1, 2)
        return result

    def stages(self) -> Mapping[str, nn.Module]:
        return self.inner.stages()

    def to_readable(self, stage: Tensor) -> Tensor:
        return self.inner.to_readable(stage) if self.stages() else stage

    def in_half(self) -> None:
        self.inner.in_half()
        self.computes_in = self.inner.computes_in


def _windows(layer: ConvolutionalCapsules, capsules: int) -> Tensor:
    """Which capsules each window holds, int64 ``[windows, (rows columns types)]``."""
    config = layer.config
    rows, columns = positions((1, *config.grid), config.kernel, config.stride)
    grid = torch.arange(capsules).view(*config.grid, -1)
    places = grid.unfold(0, config.kernel, config.stride).unfold(1, config.kernel, config.stride)
    return places.permute(0, 1, 3, 4, 2).reshape(rows * columns, -1)


@rewrites(ConvolutionalCapsules)
def _convolutional(layer: ConvolutionalCapsules, given: Given, options: Options) -> LoweredLayer:
    return LoweredConvolutional(layer, given, options)

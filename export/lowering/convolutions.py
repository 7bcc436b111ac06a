"""Several convolutions for inference: each one takes over the normalisation before it."""

import torch
from torch import Tensor, nn

from capsnet.export.lowering.base import READABLE, Given, Layout, LoweredLayer, Options, rewrites
from capsnet.layers.convolutions import ConvolutionsStem

__all__ = ["LoweredConvolutions"]


class LoweredConvolutions(LoweredLayer):
    """Images to features; the last normalisation is left to the next layer.

    In evaluation mode the normalisation is a scale and a shift of each channel. It stands behind a
    ReLU, so it cannot be folded into the convolution before it. The one behind it takes it, unless
    it pads: what it pads with is zero, which the shift would not be.

    Args:
        layer: the readable layer; its weights are copied.
    """

    def __init__(self, layer: ConvolutionsStem) -> None:
        super().__init__()
        self.steps = nn.Sequential()
        for step in layer:
            if isinstance(step, nn.BatchNorm2d):
                self.layout = Layout(affine=_affine(step))
            elif isinstance(step, nn.Conv2d):
                if self.layout.affine is not None and step.padding != (0, 0):
                    self.steps.append(_Affine(self.layout))
                    self.layout = READABLE
                self.steps.append(self.layout.fold_into(step))
                self.layout = READABLE
            else:
                self.steps.append(nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.steps(images)
        return features

    def in_half(self) -> None:
        self.half()
        self.computes_in = torch.float16


class _Affine(nn.Module):
    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.register_buffer("affine", layout.affine)

    def forward(self, features: Tensor) -> Tensor:
        return Layout(affine=self.get_buffer("affine")).to_readable(features)


def _affine(norm: nn.BatchNorm2d) -> Tensor:
    """Scale and shift ``[2, channels]`` of a normalisation in evaluation mode."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.detach().double() / torch.sqrt(norm.running_var.double() + norm.eps)
    shift = norm.bias.detach().double() - norm.running_mean.double() * scale
    return torch.stack((scale, shift)).to(norm.weight)


@rewrites(ConvolutionsStem)
def _stem(layer: ConvolutionsStem, given: Given, options: Options) -> LoweredLayer:  # noqa: ARG001
    return LoweredConvolutions(layer)

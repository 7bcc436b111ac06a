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
        self.steps = nn.ModuleList()
        self._unfolded: set[int] = set()  # the convolutions that could not take a normalisation
        for step in layer:
            if isinstance(step, nn.BatchNorm2d):
                self.layout = Layout(affine=_affine(step))
            elif isinstance(step, nn.Conv2d):
                if self.layout.affine is not None and step.padding != (0, 0):
                    self._unfolded.add(len(self.steps))
                    self.register_buffer(f"affine{len(self.steps)}", self.layout.affine)
                    self.layout = READABLE
                self.steps.append(self.layout.fold_into(step))
                self.layout = READABLE

    def forward(self, images: Tensor) -> Tensor:
        features = images
        for number, conv in enumerate(self.steps):
            if number in self._unfolded:
                features = Layout(affine=self.get_buffer(f"affine{number}")).to_readable(features)
            features = torch.relu(conv(features))
        return features

    def in_half(self) -> None:
        self.half()
        self.computes_in = torch.float16


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

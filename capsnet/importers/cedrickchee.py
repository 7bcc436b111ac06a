"""Weights of cedrickchee/capsule-net-pytorch: it squashes across the primary capsules.

It also averages the agreement over the images of a batch, so that an image's capsules depend on the
others beside it. What is imported is what it computes for one image at a time, as the paper's
routing does. It normalises images outside of the network; here that is in the stem.
"""

from dataclasses import dataclass

from einops import rearrange
from torch import Tensor, nn

from capsnet.config import CapsNetConfig
from capsnet.importers.parts import conv, divided, linear_decoder, packed_units
from capsnet.importers.variants import PrimaryVariant
from capsnet.importers.weights import Weights
from capsnet.layers.base import LayerConfig, Shape
from capsnet.layers.dynamic import DynamicConfig
from capsnet.layers.primary import PrimaryCapsules
from capsnet.layers.squash import squash
from capsnet.layers.stem import ConvConfig, ConvStem

__all__ = [
    "AcrossCapsules",
    "AcrossCapsulesConfig",
    "NormalisedConfig",
    "NormalisedStem",
    "translate",
]

_STRIDE = 2
_ITERATIONS = 3
_NORMALISATION = {1: (0.1307, 0.3081), 3: (0.5, 0.5)}
"""Mean and deviation by the number of channels: those of its loaders of MNIST and CIFAR-10."""


@dataclass(frozen=True)
class NormalisedConfig(LayerConfig, kind="normalised"):
    """A convolution of images that are normalised first.

    Attributes:
        channels: of its output.
        kernel: rows and columns of its kernel, in pixels.
        mean: that is subtracted from every pixel, 0..1.
        deviation: that the difference is divided by.

    Raises:
        ConfigError: if a size is not a positive integer.
    """

    channels: int
    kernel: int
    mean: float
    deviation: float

    def __post_init__(self) -> None:
        self.usual()

    def usual(self) -> ConvConfig:
        """The same sizes of the usual stem."""
        return ConvConfig(self.channels, self.kernel)

    def output_shape(self, shape: Shape) -> Shape:
        return self.usual().output_shape(shape)

    def build(self, shape: Shape) -> nn.Module:
        return NormalisedStem(shape[0], self)


class NormalisedStem(ConvStem):
    """Images ``[batch, channels, height, width]``, values 0..1, to features, none negative.

    Args:
        in_channels: of the images.
        config: sizes and normalisation.
    """

    def __init__(self, in_channels: int, config: NormalisedConfig) -> None:
        super().__init__(in_channels, config.channels, config.kernel)
        self.mean, self.deviation = config.mean, config.deviation

    def forward(self, images: Tensor) -> Tensor:
        """The rectified convolution of normalised images."""
        return super().forward((images - self.mean) / self.deviation)


class AcrossCapsules(PrimaryCapsules):
    """Primary capsules squashed along the wrong axis: each value's vector over all capsules."""

    def activate(self, poses: Tensor) -> Tensor:
        """What the convolution gives, ``[batch, (groups dim), height, width]``, as capsules."""
        return squash(self.to_capsules(poses), dim=1)


@dataclass(frozen=True)
class AcrossCapsulesConfig(PrimaryVariant, kind="across-capsules"):
    """Primary capsules that are squashed across all capsules, one value at a time."""

    module = AcrossCapsules


def translate(weights: Weights) -> tuple[CapsNetConfig, dict[str, Tensor]]:
    """The network, with its decoder where the file has one.

    Args:
        weights: a ``state_dict`` of its ``Net``.

    Raises:
        ValueError, ConfigError: if a tensor is missing, not expected, or does not fit.
    """
    tensors = conv(weights, "conv1.conv0", "stem", "stem image_channels kernel kernel")
    matrix = weights.take("digits.weight", "1 in_capsules classes class_dim dim")
    tensors |= packed_units(weights, "primary.conv_units")
    sizes = weights.sizes
    groups, channels = sizes["groups"], sizes["image_channels"]
    positions = divided("the input capsules of digits", sizes["in_capsules"], groups)
    order = "1 (g p) o h d -> (p g) d o h"
    tensors["capsule_layers.0.weight"] = rearrange(matrix, order, g=groups)
    names = ("decoder.fc1", "decoder.fc2", "decoder.fc3")
    decoder, decoding, pixels = linear_decoder(weights, names)
    kernels = [(sizes["kernel"], 1), (sizes["primary_kernel"], _STRIDE)]
    if channels not in _NORMALISATION:
        raise ValueError(
            f"conv1.conv0.weight takes {channels} channels, and that project normalises images "
            "of 1 (MNIST) or 3 (CIFAR-10)"
        )
    mean, deviation = _NORMALISATION[channels]
    weights.assumed.append(f"images normalised by that project's ({mean}, {deviation})")
    weights.assumed.append("the routing of one image at a time, not of a batch")
    iterations = weights.routing_iterations(_ITERATIONS)
    config = CapsNetConfig(
        weights.image_shape(channels, positions, kernels, pixels),
        NormalisedConfig(sizes["stem"], sizes["kernel"], mean, deviation),
        AcrossCapsulesConfig(groups, sizes["dim"], sizes["primary_kernel"], _STRIDE),
        (DynamicConfig(sizes["classes"], sizes["class_dim"], iterations),),
        decoder,
    )
    return config, tensors | decoding

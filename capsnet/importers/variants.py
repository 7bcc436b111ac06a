"""Layers of other projects that differ from those of ``capsnet.layers`` in one way.

A kind of layer says in its importer's own module what that is; its sizes are as of the usual one.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from capsnet.layers.base import LayerConfig, Shape, require_capsules
from capsnet.layers.dynamic import DynamicCapsules, DynamicConfig
from capsnet.layers.primary import PrimaryCapsules, PrimaryConfig

__all__ = ["LengthsVariant", "PrimaryVariant", "RoutedVariant"]


@dataclass(frozen=True)
class RoutedVariant(LayerConfig):
    """Sizes of a layer that routes dynamically, but for what its module overrides.

    Attributes:
        module: what it builds.
        capsules: number of output capsules.
        dim: length of each one's pose vector.
        routing_iterations: rounds of routing, 1 to 100.

    Raises:
        ConfigError: if a value is not a positive integer, or too large.
    """

    module: ClassVar[type[DynamicCapsules]]

    capsules: int
    dim: int
    routing_iterations: int = 3

    def __post_init__(self) -> None:
        self.usual()

    def usual(self) -> DynamicConfig:
        """The same sizes of the usual layer."""
        return DynamicConfig(self.capsules, self.dim, self.routing_iterations)

    def output_shape(self, shape: Shape) -> Shape:
        return self.usual().output_shape(shape)

    def build(self, shape: Shape) -> nn.Module:
        in_capsules, in_dim = shape
        return self.module(in_capsules, in_dim, self.usual())


@dataclass(frozen=True)
class PrimaryVariant(LayerConfig):
    """Sizes of primary capsules, but for what their module overrides.

    Attributes:
        module: what it builds.
        groups: capsules at each position.
        dim: length of a capsule's pose vector.
        kernel: rows and columns of the kernel.
        stride: between its positions.

    Raises:
        ConfigError: if a value is not a positive integer.
    """

    module: ClassVar[type[PrimaryCapsules]]

    groups: int
    dim: int
    kernel: int = 9
    stride: int = 2

    def __post_init__(self) -> None:
        self.usual()

    def usual(self) -> PrimaryConfig:
        """The same sizes of the usual layer."""
        return PrimaryConfig(self.groups, self.dim, self.kernel, self.stride, "squash")

    def output_shape(self, shape: Shape) -> Shape:
        return self.usual().output_shape(shape)

    def build(self, shape: Shape) -> nn.Module:
        return self.module(shape[0], self.usual())


@dataclass(frozen=True)
class LengthsVariant(LayerConfig):
    """Class capsules with an activation, where that is not their length.

    Attributes:
        module: what it builds; it puts the activation behind each capsule.
    """

    module: ClassVar[type[nn.Module]]
    activated = True

    def output_shape(self, shape: Shape) -> Shape:
        require_capsules(shape)
        return shape[0], shape[1] + 1

    def build(self, shape: Shape) -> nn.Module:  # noqa: ARG002
        return self.module()

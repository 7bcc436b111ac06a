"""Lowering of a user's own network: its parts that are known are rewritten, the rest stays."""

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from capsnet.errors import ConfigError
from capsnet.export.lower import NO_FORMS, LoweredNetwork, cast
from capsnet.export.lowering import load_rewrites
from capsnet.export.lowering.base import (
    READABLE,
    AsWritten,
    Given,
    LoweredLayer,
    Options,
    rewrite,
)
from capsnet.forms import check_forms
from capsnet.layers.base import Shape
from capsnet.own import OwnNetwork
from capsnet.precision import Precision, find_precision

__all__ = ["LoweredOwn", "lower_own"]


class _InPlace(nn.Module):
    """A lowered layer where the readable one was: it takes and gives what that did.

    Args:
        layer: lowered for the readable layout.
    """

    def __init__(self, layer: LoweredLayer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, values: Tensor) -> Tensor:
        result = self.layer(cast(values, self.layer.computes_in))
        return cast(self.layer.layout.to_readable(result), values.dtype)

    def stages(self) -> Mapping[str, nn.Module]:
        return self.layer.stages()


class LoweredOwn(LoweredNetwork):
    """A user's own network ready for export; made by :func:`lower_own`.

    Args:
        network: the network, with the lowered layers in the places of the readable ones.
        identity: of the network that it was made of.
        precision: of weights and arithmetic.
    """

    opaque = True  # what is not known may hold any operator

    def __init__(
        self, network: OwnNetwork, identity: Mapping[str, Any], precision: Precision
    ) -> None:
        super().__init__()
        self.decision = network.decision
        self.input_shapes = network.input_shapes
        self.identity = identity
        self.precision = precision
        self.network = network
        self.output_names = tuple(network.output_shapes)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What the network takes to what it gives, in order."""
        return self.network(*inputs)  # type: ignore[no-any-return]

    @property
    def lowered_layers(self) -> Mapping[str, LoweredLayer]:
        """The layers that were rewritten, by their names in the module."""
        return {n: part.layer for n, part in self.parts().items() if isinstance(part, _InPlace)}

    def parts(self) -> Mapping[str, nn.Module]:
        """Its innermost parts, by their names in the module."""
        return self.network.parts()

    def to_readable(self, stage: str, values: Tensor) -> Tensor:
        """A stage of this network: between its layers, everything is as the readable ones give."""
        for name, layer in self.lowered_layers.items():
            if stage.startswith(f"{name}."):
                return layer.to_readable(values)
        return values

    def in_half(self) -> None:
        """Let the layers that were rewritten take on float16."""
        if not self.lowered_layers:
            raise ConfigError(
                "fp16 is for layers of this toolkit, which know where they keep their accuracy, "
                "and this network has none: export it in fp32"
            )
        super().in_half()

    def _output_shapes(self) -> tuple[Shape, ...]:
        return tuple(self.network.output_shapes.values())


def lower_own(
    network: OwnNetwork,
    *,
    precision: str = "fp32",
    forms: Mapping[str, str] = NO_FORMS,
    preferred: Mapping[str, str] = NO_FORMS,
) -> LoweredOwn:
    """Rewrite what is known of a user's own network for export.

    Args:
        network: it is left as it is.
        precision: a row of ``capsnet.precision``.
        forms: as of :func:`capsnet.export.lower.lower`.
        preferred: as well.

    Returns:
        A module in evaluation mode, without gradients.

    Raises:
        ConfigError: if a form or precision is unknown or does not fit the network.
    """
    check_forms(forms)
    load_rewrites()
    options = Options(find_precision(precision), forms, preferred)
    network = copy.deepcopy(network)
    identity = network.identity
    for name, shape in network.units.items():
        layer = rewrite(network.module.get_submodule(name), Given(shape, READABLE), options)
        if not isinstance(layer, AsWritten):
            network.module.set_submodule(name, _InPlace(layer))
    lowered = LoweredOwn(network, identity, options.precision)
    converted: LoweredOwn = options.precision.convert(lowered.requires_grad_(False).eval())
    return converted

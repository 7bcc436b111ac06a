"""Keras' capsule layers for inference: the usual forms, squashed with the epsilon."""

from torch import Tensor

from capsnet.export.lowering.base import Given, LoweredLayer, Options, rewrites
from capsnet.export.lowering.dynamic import DEFAULT_ROUTING, LoweredDynamic
from capsnet.export.lowering.primary import LoweredPrimary, lowered_primary
from capsnet.importers.keras import KerasDynamic, KerasPrimary, keras_squash

__all__ = ["LoweredKerasPrimary"]


class LoweredKerasPrimary(LoweredPrimary):
    """Features to capsules ``[batch, dim, (groups height width)]``."""

    def squash(self, capsules: Tensor) -> Tensor:
        return keras_squash(capsules, dim=1)


@rewrites(KerasPrimary)
def _primary(layer: KerasPrimary, given: Given, options: Options) -> LoweredLayer:
    return lowered_primary(layer, given, options, LoweredKerasPrimary)


@rewrites(KerasDynamic)
def _dynamic(layer: KerasDynamic, given: Given, options: Options) -> LoweredLayer:
    return LoweredDynamic(layer, given, options.forms.get("routing", DEFAULT_ROUTING))

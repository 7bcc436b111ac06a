"""Primary capsules that are squashed across all capsules, for inference: the usual convolution."""

from torch import Tensor

from capsnet.export.lowering.base import Given, LoweredLayer, Options, rewrites
from capsnet.export.lowering.primary import LoweredPrimary, lowered_primary
from capsnet.importers.cedrickchee import AcrossCapsules
from capsnet.layers.squash import squash

__all__ = ["LoweredAcrossCapsules"]


class LoweredAcrossCapsules(LoweredPrimary):
    """Features to capsules ``[batch, dim, (groups height width)]``."""

    def squash(self, capsules: Tensor) -> Tensor:
        return squash(capsules, dim=2)


@rewrites(AcrossCapsules)
def _primary(layer: AcrossCapsules, given: Given, options: Options) -> LoweredLayer:
    return lowered_primary(layer, given, options, LoweredAcrossCapsules)

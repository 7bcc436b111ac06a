"""What a network was trained on, described for those who will run it."""

import numpy as np
import numpy.typing as npt

from capsnet.about import Spread, TrainingInputs, colour_of
from capsnet.data.statistics import ImageStatistics, Values

__all__ = ["describe_inputs"]

_MOST = 10_000  # images, spread evenly; more change no digit that matters
_BATCH = 256
_PERCENT = (1, 5, 25, 50, 75, 95, 99)
_EVEN = 0.1  # difference between border and mean below which the polarity is neither


def describe_inputs(
    images: npt.NDArray[np.uint8], longest: npt.NDArray[np.floating]
) -> TrainingInputs:
    """Describe training images.

    Args:
        images: uint8 ``[n, channels, height, width]``, values 0..255.
        longest: length of the longest capsule of each of some images, ``[m]``.
    """
    chosen = images[np.linspace(0, len(images) - 1, min(len(images), _MOST)).astype(int)]
    batches = np.split(chosen, range(_BATCH, len(chosen), _BATCH))
    found = ImageStatistics.joined(
        [ImageStatistics.of(batch.astype(np.float32) / np.float32(255)) for batch in batches]
    )
    mean, border = _spread(found.mean), _spread(found.border)
    return TrainingInputs(
        images=len(chosen),
        colour=colour_of(images.shape[1]),
        value_range=(0.0, 1.0),
        polarity=_polarity(mean.mean, border.mean),
        mean=mean,
        deviation=_spread(found.deviation),
        border=border,
        channels=tuple(_short(value) for value in found.channels.mean(0)),
        longest={str(p): _short(np.percentile(longest, p)) for p in _PERCENT},
    )


def _polarity(mean: float, border: float) -> str:
    if abs(mean - border) < _EVEN:
        return "mixed"
    return "bright on dark" if border < mean else "dark on bright"


def _spread(values: Values) -> Spread:
    return Spread(_short(values.mean()), _short(values.std()))


def _short(value: float) -> float:
    """Six digits: the last ones differ from machine to machine, and mean nothing."""
    return float(f"{value:.6g}")

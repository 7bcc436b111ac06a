"""Pictures of what is shown, uint8 ``[height, width, 3]``: the page and PNG files share them."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from capsnet.runtime.markup import Rgb, to_rgb
from capsnet.runtime.show.results import Array, Couplings, Places, Shown

__all__ = ["coupling_pictures", "strip"]

_SCALE = 8  # pixels of a heat map for each of its image
_MORE, _LESS = (255, 60, 50), (60, 150, 255)  # coupled more, and less, than at the start
_DIMMED = 0.55  # of the image's brightness, under the colours


def strip(images: Sequence[Array] | Array) -> Rgb:
    """Images ``[channels, height, width]`` side by side, one pixel between them."""
    pictures = [to_rgb(image) for image in images]
    gap = np.full((pictures[0].shape[0], 1, 3), 96, np.uint8)
    parts = [part for picture in pictures for part in (gap, picture)][1:]
    return np.concatenate(parts, axis=1)


def coupling_pictures(shown: Shown, couplings: Couplings) -> list[Rgb]:
    """A heat map over the image for each iteration: red above the uniform coupling, blue below.

    Each position of the grid colours the pixels around the middle of what it sees. The colour is
    full where a coupling is farthest from uniform, in any iteration of this image.
    """
    assert shown.places is not None
    deviation = couplings.maps - 1 / len(shown.names)
    largest = max(float(np.abs(deviation).max()), 1e-12)
    base = to_rgb(couplings.example.image).repeat(_SCALE, axis=0).repeat(_SCALE, axis=1)
    return [_over(base, own / largest, shown.places) for own in deviation]


def _over(base: Rgb, heat: Array, places: Places) -> Rgb:
    rows = _cells(places.rows, base.shape[0])
    columns = _cells(places.columns, base.shape[1])
    picture = base * _DIMMED
    for row, top in enumerate(rows):
        for column, left in enumerate(columns):
            value = float(heat[row, column])
            colour = np.array(_MORE if value > 0 else _LESS, np.float64)
            share = 0.9 * min(abs(value), 1.0)
            picture[top, left] += share * (colour - picture[top, left])
    drawn: npt.NDArray[np.uint8] = picture.round().astype(np.uint8)
    return drawn


def _cells(middles: Sequence[float], size: int) -> list[slice]:
    """What each position colours: up to half the way to its neighbours."""
    step = middles[1] - middles[0] if len(middles) > 1 else size / _SCALE
    edges = [(middle + 0.5 - step / 2, middle + 0.5 + step / 2) for middle in middles]
    return [
        slice(max(0, round(low * _SCALE)), min(size, round(high * _SCALE))) for low, high in edges
    ]

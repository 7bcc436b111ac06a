"""The pictures of what is shown as matplotlib figures, for notebooks: needs the extra ``plot``."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from capsnet.runtime.bench.plot import check_plot
from capsnet.runtime.show.results import Shown
from capsnet.runtime.show.sheets import sheets

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["figures"]

_DPI = 100


def figures(shown: Shown) -> "Mapping[str, Figure]":
    """A figure for each part that is there, by its name, as large as its picture.

    Args:
        shown: what :func:`capsnet.runtime.show.files.shown_of` collected.

    Raises:
        DeviceError: if matplotlib is not installed.
    """
    check_plot()
    from matplotlib.figure import Figure

    found = {}
    for part, picture in sheets(shown).items():
        height, width = picture.shape[:2]
        figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
        figure.figimage(picture)
        found[part] = figure
    return found

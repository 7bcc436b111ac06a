"""Rows of several inputs, handled as the images of a network with one input are."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Array", "Batch", "Rows", "combined", "named", "plain"]

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of a network's inputs.

    Attributes:
        arrays: one for each input by name, float32 ``[rows, ...]``, of equally many rows.
    """

    arrays: Mapping[str, Array]

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, rows: Any) -> "Batch":
        """The rows that an index, a slice or a mask of numpy chooses."""
        return Batch({name: array[rows] for name, array in self.arrays.items()})


Rows = Array | Batch
"""Images of a network with one input, or rows of one with several."""


def plain(rows: Rows) -> Array | Mapping[str, Array]:
    """Rows as a session takes them."""
    return rows.arrays if isinstance(rows, Batch) else rows


def named(rows: Rows) -> Mapping[str, Array]:
    """Rows by the name of their input; images have none."""
    return rows.arrays if isinstance(rows, Batch) else {"": rows}


def combined(function: Callable[..., Array], *parts: Rows) -> Any:
    """A function of numpy arrays, applied to each input.

    Args:
        function: of as many arrays as there are parts.
        *parts: rows of the same inputs.

    Returns:
        Rows of the same kind.
    """
    if not isinstance(parts[0], Batch):
        return function(*parts)
    each = [part.arrays for part in parts if isinstance(part, Batch)]
    return Batch({name: function(*(arrays[name] for arrays in each)) for name in each[0]})

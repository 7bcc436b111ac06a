"""What images look like, in a few numbers for each: the same for training and for prediction."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

__all__ = ["ImageStatistics"]

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ImageStatistics:
    """Statistics of images, float64, one value (or row) for each.

    Attributes:
        mean: of its values ``[n]``.
        deviation: of its values from their mean ``[n]``.
        border: mean of its outermost pixels ``[n]``.
        channels: mean of each channel ``[n, channels]``.
    """

    mean: Values
    deviation: Values
    border: Values
    channels: Values

    @classmethod
    def of(cls, images: npt.NDArray[np.float32]) -> Self:
        """The statistics of images ``[n, channels, height, width]``."""
        values = images.astype(np.float64)
        flat = values.reshape(len(values), -1)
        edge = np.ones(values.shape[2:], bool)
        edge[1:-1, 1:-1] = False
        return cls(
            flat.mean(1),
            flat.std(1),
            values[:, :, edge].mean((1, 2)),
            values.mean((2, 3)),
        )

    @classmethod
    def joined(cls, parts: list[Self]) -> Self:
        """The statistics of several batches of images."""
        fields = ("mean", "deviation", "border", "channels")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in fields))

"""What is shown of a network, as types. Needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Array", "Confusion", "Couplings", "Example", "Shown", "Tweaks"]

Array = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Example:
    """One image, and what the network makes of it.

    Attributes:
        index: of the image in its source.
        image: ``[channels, height, width]``, values 0..1.
        label: the true class, where that is known.
        predicted: the class with the longest capsule.
        lengths: of the class capsules, ``[classes]``.
        reconstruction: of the longest capsule, like the image; None without a decoder.
    """

    index: int
    image: Array
    label: int | None
    predicted: int
    lengths: Array
    reconstruction: Array | None


@dataclass(frozen=True)
class Confusion:
    """Images of one class that the network takes for another one.

    Attributes:
        label: the true class.
        predicted: the other one.
        count: of such images.
        indices: of the first of them in their source.
    """

    label: int
    predicted: int
    count: int
    indices: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Tweaks:
    """A class capsule, decoded after one of its values was changed (arXiv:1710.09829, figure 4).

    Attributes:
        example: whose longest capsule it is.
        images: ``[dim, steps, channels, height, width]``: a row for each value of the capsule.
    """

    example: Example
    images: Array


@dataclass(frozen=True, eq=False)
class Couplings:
    """How strongly each position of an image is coupled to its class capsule.

    Attributes:
        example: the image.
        maps: ``[iterations, rows, columns]``: the mean over the capsules of a position.
    """

    example: Example
    maps: Array


@dataclass(frozen=True, eq=False)
class Shown:
    """What is shown of a network.

    Attributes:
        network: what it is: a file's name, and its kind.
        source: where the images are from.
        images: how many were classified.
        total: how many there are.
        names: of the classes.
        examples: images of each class that was found, in the order of classes.
        steps: what is added to a value of a capsule in each column of the tweaks.
        tweaks: one for each class that has an example.
        couplings: likewise.
        places: where the positions of the couplings see the image: the middle of each row's and
            column's field, and its height and width, in pixels; None without couplings.
        counts: images by true class and predicted class, ``[classes, classes]``; None without
            labels.
        confusions: the most frequent first.
        mistakes: the images that are wrong by most: the longest capsule against the right one.
        missing: why a part is not there, in words, by the part's name.
    """

    network: str
    source: str
    images: int
    total: int
    names: tuple[str, ...]
    examples: tuple[Example, ...]
    steps: tuple[float, ...]
    tweaks: tuple[Tweaks, ...]
    couplings: tuple[Couplings, ...]
    places: "Places | None"
    counts: npt.NDArray[np.int64] | None
    confusions: tuple[Confusion, ...]
    mistakes: tuple[Example, ...]
    missing: Mapping[str, str]

    @property
    def right(self) -> int | None:
        """How many images were classified right; None without labels."""
        return None if self.counts is None else int(np.trace(self.counts))


@dataclass(frozen=True)
class Places:
    """Where the positions of a grid of capsules see the image, in pixels.

    Attributes:
        rows: the middle of what each row of the grid sees.
        columns: likewise.
        field: height and width of what one position sees.
    """

    rows: tuple[float, ...]
    columns: tuple[float, ...]
    field: tuple[int, int]

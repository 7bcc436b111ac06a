"""Training images that are held out to choose the epoch."""

import numpy as np

from capsnet.data.idx import LabelledImages
from capsnet.errors import DataError

__all__ = ["split_validation"]

_FEWEST = 10


def split_validation(
    images: LabelledImages, share: float, seed: int, limit: int | None = None
) -> tuple[LabelledImages, LabelledImages]:
    """Split images into those to learn from and those to choose the epoch with.

    The choice is a function of the seed. Every class gives its share, rounded, but keeps at least
    one image to learn from; at least one image is held out.

    Args:
        images: all of them.
        share: of each class to hold out, between 0 and 1.
        seed: of the choice.
        limit: most images of both parts together; None takes all.

    Raises:
        DataError: if there are too few images.
    """
    random = np.random.default_rng(seed)
    if limit is not None and limit < len(images.labels):
        chosen = np.sort(random.permutation(len(images.labels))[:limit])
        images = LabelledImages(images.images[chosen], images.labels[chosen])
    labels = images.labels
    if len(labels) < _FEWEST:
        raise DataError(f"there are {len(labels)} images, training takes at least {_FEWEST}")
    held_out = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        held_out[members[: min(round(share * len(members)), len(members) - 1)]] = True
    if not held_out.any():
        held_out[random.integers(len(labels))] = True
    return tuple(  # type: ignore[return-value]  # two of them
        LabelledImages(images.images[part], labels[part]) for part in (~held_out, held_out)
    )

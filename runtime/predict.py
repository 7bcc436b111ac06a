"""Predictions for a stream of images."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from capsnet.data.stream import Sample, stream_images
from capsnet.errors import ArtifactError, ResultError
from capsnet.runtime.guard import Guard
from capsnet.runtime.sessions.base import Session

__all__ = ["BATCH_SIZE", "Prediction", "predict"]

BATCH_SIZE = 64
"""Images that are read ahead of their predictions."""


@dataclass(frozen=True)
class Prediction:
    """What a network says of one image.

    Attributes:
        source: the image's name.
        label: the class with the longest capsule (of equals, the first).
        lengths: the length of each class capsule, float32 values: the probability that the class is
            present.
        truth: the class that the image is known to be of.
        name: of the class, where the classes have names.
    """

    source: str
    label: int
    lengths: tuple[float, ...]
    truth: int | None = None
    name: str | None = None


def predict(
    session: Session,
    images: str | Path | Iterable[Sample | tuple[str, npt.NDArray[np.float32]]],
    batch_size: int = BATCH_SIZE,
    *,
    guard: Guard | None = None,
) -> Iterator[Prediction]:
    """Classify images; no more than one batch of them is held at a time.

    Args:
        session: an opened artifact of a network that classifies.
        images: a file or folder of images; or names and images float32 ``[c, h, w]``, and perhaps
            labels, as :mod:`capsnet.data.stream` yields them.
        batch_size: images per run; the last run may have fewer.
        guard: sees every batch, to say in the end whether it looks like the training images.

    Yields:
        One prediction per image, in their order.

    Raises:
        ValueError: (while iterating) if ``batch_size`` is not positive.
        ArtifactError: (while iterating) if the network classifies nothing.
        DataError: (while iterating) if the images cannot be read, or do not fit the network.
        ResultError: (while iterating) if a length is NaN or infinite: it has no longest capsule.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be positive, got {batch_size}")
    decision = session.metadata.decision
    if decision is None:
        raise ArtifactError(
            "the network classifies nothing, expected one with an output that names the class; "
            "run its session instead"
        )
    names = session.metadata.class_names
    if isinstance(images, str | Path):
        images = stream_images(images, session.metadata.image_shape)
    remaining = iter(images)
    while batch := list(itertools.islice(remaining, batch_size)):
        stacked = np.stack([item[1] for item in batch])
        lengths = session.run(stacked)[decision]
        if guard is not None:
            guard.see(stacked, lengths)
        for item, row in zip(batch, lengths, strict=True):
            source, truth = item[0], item.label if isinstance(item, Sample) else None
            if not np.isfinite(row).all():
                raise ResultError(
                    f"the network computes NaN or infinity for {source}, expected lengths 0..1; "
                    "check the artifact with `capsnet verify`"
                )
            label = int(row.argmax())
            yield Prediction(
                source, label, tuple(row.tolist()), truth, names[label] if names else None
            )

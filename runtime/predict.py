"""Predictions for a stream of images, and their CSV and JSON Lines files."""

import csv
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
import numpy.typing as npt

from capsnet.data.stream import Sample, stream_images
from capsnet.errors import ArtifactError, ResultError
from capsnet.runtime.sessions.base import Session

__all__ = ["BATCH_SIZE", "Prediction", "predict", "write_csv", "write_jsonl"]

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
    """

    source: str
    label: int
    lengths: tuple[float, ...]
    truth: int | None = None


def predict(
    session: Session,
    images: str | Path | Iterable[Sample | tuple[str, npt.NDArray[np.float32]]],
    batch_size: int = BATCH_SIZE,
) -> Iterator[Prediction]:
    """Classify images; no more than one batch of them is held at a time.

    Args:
        session: an opened artifact of a network that classifies.
        images: a file or folder of images; or names and images float32 ``[c, h, w]``, and perhaps
            labels, as :mod:`capsnet.data.stream` yields them.
        batch_size: images per run; the last run may have fewer.

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
    if isinstance(images, str | Path):
        images = stream_images(images, session.metadata.image_shape)
    remaining = iter(images)
    while batch := list(itertools.islice(remaining, batch_size)):
        lengths = session.run(np.stack([item[1] for item in batch]))[decision]
        for item, row in zip(batch, lengths, strict=True):
            source, truth = item[0], item.label if isinstance(item, Sample) else None
            if not np.isfinite(row).all():
                raise ResultError(
                    f"the network computes NaN or infinity for {source}, expected lengths 0..1; "
                    "check the artifact with `capsnet verify`"
                )
            yield Prediction(source, int(row.argmax()), tuple(row.tolist()), truth)


def write_csv(predictions: Iterable[Prediction], file: TextIO, *, header: bool = True) -> int:
    """Write predictions as CSV: ``source,label,length_0,length_1,...``, one line each.

    Lengths have the fewest digits that give the same float32 back. The number of columns comes from
    the first prediction; without one nothing is written, not even a header.

    Args:
        predictions: written as they come.
        file: open for text with ``newline=""``.
        header: whether the names of the columns come first; not where rows are there already.

    Returns:
        The number of predictions written.

    Raises:
        OSError: if the file cannot be written.
    """
    writer = csv.writer(file, lineterminator="\n")
    count = 0
    for prediction in predictions:
        if header and count == 0:
            columns = (f"length_{i}" for i in range(len(prediction.lengths)))
            writer.writerow(["source", "label", *columns])
        writer.writerow([prediction.source, prediction.label, *_shortest(prediction.lengths)])
        count += 1
    return count


def write_jsonl(predictions: Iterable[Prediction], file: TextIO) -> int:
    """Write predictions as JSON Lines: ``{"source": ..., "label": ..., "lengths": [...]}`` each.

    Lengths have the fewest digits that give the same float32 back.

    Args:
        predictions: written as they come.
        file: open for text.

    Returns:
        The number of predictions written.

    Raises:
        OSError: if the file cannot be written.
    """
    count = 0
    for prediction in predictions:
        lengths = _shortest(prediction.lengths)
        row = {"source": prediction.source, "label": prediction.label, "lengths": lengths}
        file.write(json.dumps(row) + "\n")
        count += 1
    return count


def _shortest(lengths: Iterable[float]) -> list[float]:
    """Floats whose decimal text is as short as float32 allows: 0.1, not 0.10000000149011612."""
    return [float(str(np.float32(length))) for length in lengths]

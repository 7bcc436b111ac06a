"""What the HTML page draws: error histograms, and the worst images with both runs' outputs."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from capsnet.artifact import ArtifactMetadata
from capsnet.data.batch import Rows, named
from capsnet.runtime.proof.collect import Array, Collected
from capsnet.runtime.proof.measure import malformed
from capsnet.runtime.proof.results import Details, Histogram, Pixels, WorstImage

__all__ = ["details_of"]

_WORST = 8
_IMAGES = 4  # axes of an array of images
_EDGES = np.arange(-12.0, 0.5, 0.5)  # powers of ten


def details_of(
    collected: Collected,
    metadata: ArtifactMetadata,
    images: Rows,
    labels: npt.NDArray[np.int64] | None = None,
) -> Details | None:
    """The details of a comparison, at the largest batch size that ran all images, well formed.

    Args:
        collected: the results of all runs.
        metadata: of the artifact.
        images: float32 ``[n, channels, height, width]``, those that were run, or the rows of other
            inputs; the first of them is drawn where it is of images.
        labels: their true classes ``[n]``, where they are known.

    Returns:
        The details; None if there is no such batch size.
    """
    valid = [
        run.outputs
        for run in collected.runs
        if run.error is None
        and len(run.images) == collected.images
        and not malformed(metadata, run.outputs, collected.golden)
    ]
    if not valid:
        return None
    golden, plain, found = collected.golden, collected.baseline[0], valid[-1]
    histograms = {
        name: Histogram(
            edges=tuple(_EDGES.tolist()),
            baseline=_counts(plain[name] - golden[name]),
            artifact=_counts(found[name] - golden[name]),
        )
        for name in golden
    }
    pictured = next(iter(named(images).values()))
    decisive = metadata.decision or metadata.outputs[0].name
    error = np.abs(found[decisive] - golden[decisive]).reshape(collected.images, -1).max(axis=1)
    return Details(
        histograms,
        tuple(
            WorstImage(
                index=int(index),
                label=None if labels is None else int(labels[index]),
                error=float(error[index]),
                pixels=_pixels(pictured[index]) if pictured.ndim == _IMAGES else (),
                golden=_scores(golden, metadata.decision, int(index)),
                artifact=_scores(found, metadata.decision, int(index)),
                pictures={
                    name: _pixels(values[index])
                    for name, values in found.items()
                    if values.ndim == _IMAGES and values.shape == pictured.shape
                },
            )
            for index in np.argsort(-error, kind="stable")[:_WORST]
        ),
    )


def _counts(error: Array) -> tuple[int, ...]:
    exponents = np.log10(np.maximum(np.abs(error), 10 ** _EDGES[0]))
    counts, _ = np.histogram(np.minimum(exponents, _EDGES[-1]), bins=_EDGES)
    return tuple(int(count) for count in counts)


def _scores(outputs: Mapping[str, Array], decision: str | None, index: int) -> tuple[float, ...]:
    return () if decision is None else tuple(outputs[decision][index].ravel().tolist())


def _pixels(image: Array) -> Pixels:
    return tuple(tuple(tuple(row) for row in channel) for channel in image.round(4).tolist())

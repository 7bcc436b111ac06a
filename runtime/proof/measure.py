"""Measuring outputs against golden ones: their form, their classes, their errors."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from capsnet.artifact import ArtifactMetadata
from capsnet.runtime.proof.collect import Array
from capsnet.runtime.proof.results import Errors

__all__ = [
    "BASELINE_LIMIT",
    "FOLLOW_DECISION",
    "classes_of",
    "comparable",
    "errors_of",
    "malformed",
    "measure",
]

BASELINE_LIMIT = 0.2
"""Relative RMS error beyond which the baseline measures nothing."""

FOLLOW_DECISION = frozenset({"reconstruction"})
"""Outputs that are computed from the class: for another class they are something else."""


def measure(
    golden: Mapping[str, Array],
    found: Sequence[Mapping[str, Array]],
    decision: str | None = None,
) -> dict[str, Errors]:
    """Errors of every golden output, over all images and all of one or more runs.

    Args:
        golden: the golden outputs, with the one that decides among them.
        found: runs on the same images.
        decision: the output that decides the class; None to compare every output on all images.

    Returns:
        The errors by output. A run that gives an image another class is not charged for what
        follows the decision there.
    """
    images = len(next(iter(golden.values())))
    same = np.ones(images * len(found), np.bool_)
    if decision is not None:
        classes = classes_of(golden[decision])
        same = np.concatenate([classes_of(run[decision]) == classes for run in found])
    pooled = {
        name: errors_of(
            np.concatenate([values] * len(found)),
            np.concatenate([run[name] for run in found]),
            comparable(name, same),
        )
        for name, values in golden.items()
    }
    return {
        name: dataclasses.replace(errors, worst_image=errors.worst_image % images)
        for name, errors in pooled.items()
    }


def classes_of(scores: Array) -> npt.NDArray[np.int64]:
    """The class of each image: the index of its largest value."""
    classes: npt.NDArray[np.int64] = scores.reshape(len(scores), -1).argmax(-1)
    return classes


def comparable(name: str, same: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Images to compare an output on: where it follows the decision, those of the same class."""
    return same if name in FOLLOW_DECISION else np.ones_like(same)


def errors_of(golden: Array, found: Array, images: npt.NDArray[np.bool_]) -> Errors:
    """Errors of one output on the chosen images.

    Args:
        golden: the golden values ``[n, ...]``.
        found: of the same shape.
        images: which to compare, ``[n]``.

    Returns:
        The errors; zeros where no image is chosen.
    """
    indices = np.flatnonzero(images)
    if len(indices) == 0:
        return Errors(0.0, 0.0, 0.0, 0.0, 1.0, 0)
    expected = golden[indices].reshape(len(indices), -1).astype(np.float64)
    values = found[indices].reshape(len(indices), -1).astype(np.float64)
    error = np.abs(values - expected)
    rms = float(np.sqrt(np.mean(error**2)))
    scale = float(np.sqrt(np.mean(expected**2)))
    norms = np.linalg.norm(expected, axis=1) * np.linalg.norm(values, axis=1)
    products = np.sum(expected * values, axis=1)
    # A zero has no direction; two of them agree, one of them does not.
    cosine = (np.abs(expected).max(1) == np.abs(values).max(1)).astype(np.float64)
    np.divide(products, norms, out=cosine, where=norms > 0)
    return Errors(
        max=float(error.max()),
        p99=float(np.percentile(error, 99)),
        rms=rms,
        relative_rms=rms / scale if scale else rms,
        cosine=float(cosine.min()),
        worst_image=int(indices[error.max(axis=1).argmax()]),
    )


def malformed(
    metadata: ArtifactMetadata,
    found: Mapping[str, Array],
    golden: Mapping[str, Array],
    indices: npt.NDArray[np.int64] | None = None,
) -> list[str]:
    """What is wrong with outputs before their values matter: names, dtypes, shapes, NaN, infinity.

    Args:
        metadata: of the artifact.
        found: its outputs.
        golden: what was expected for the same images, of all or some of its outputs.
        indices: of these images, where they are some of more.

    Returns:
        The problems in words, none when the outputs are well formed.
    """
    problems = []
    images = len(next(iter(golden.values())))
    for spec in metadata.outputs:
        shape = golden[spec.name].shape if spec.name in golden else (images, *spec.shape[1:])
        if spec.name not in found:
            problems.append(f"output {spec.name} is missing, there are {', '.join(found)}")
            continue
        values = found[spec.name]
        if values.dtype != spec.dtype:
            problems.append(f"{spec.name} is {values.dtype}, expected {spec.dtype}")
        elif values.shape != shape:
            problems.append(f"{spec.name} has shape {list(values.shape)}, expected {list(shape)}")
        elif not np.isfinite(values).all():
            bad = ~np.isfinite(values).reshape(images, -1).all(axis=1)
            first = int(bad.argmax()) if indices is None else int(indices[bad.argmax()])
            problems.append(
                f"{spec.name} holds NaN or infinity for {int(bad.sum())} of {images} images, "
                f"first image {first}"
            )
    return problems

"""Parity: does an artifact compute the same numbers as the model it was exported from?

Three runs are compared. *Golden* is the readable model in float64. *Baseline* is the same model in
float32, as a user would run it eagerly. The *candidate* is the artifact. What float32 costs the
baseline is what the candidate may be charged, times a small factor: an error budget that comes from
the model and the images, not from a tolerance that somebody chose.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from capsnet.artifact import ArtifactMetadata
from capsnet.errors import CapsNetError
from capsnet.precision import Budget, find_precision

__all__ = [
    "BASELINE_LIMIT",
    "BATCH_SIZES",
    "LARGE_BATCH",
    "ORDERS",
    "Candidate",
    "Check",
    "Errors",
    "ParityReport",
    "Reference",
    "Tolerance",
    "compare",
    "malformed",
    "measure",
    "orders_for",
]

Array = npt.NDArray[np.floating]

BATCH_SIZES = (1, 2, 3, 7, 64)
"""Batch sizes that every image is run at; all at once, or a thousand, come on top."""

LARGE_BATCH = 1000
"""The largest batch that an artifact is run at."""


ORDERS = 8
"""How often the baseline runs where there are few images, each time summing in another order."""

_ENOUGH_IMAGES = 32
_LOST_ACCURACY = 0.001  # share of the images whose class may become wrong, or
_LOST_IMAGES = 2  # so many of a few
BASELINE_LIMIT = 0.2
"""Relative RMS error beyond which the baseline measures nothing."""


@dataclass(frozen=True)
class Tolerance:
    """A user's own limit: ``atol + rtol * |golden|max``, for max, p99 and RMS alike.

    Below the budget it tightens it. Above, it overrides it, which the report records.
    """

    atol: float = 0.0
    rtol: float = 0.0


class Candidate(Protocol):
    """What is judged: an artifact's session."""

    metadata: ArtifactMetadata

    def run(self, images: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
        """Outputs by name."""
        ...


class Reference(Protocol):
    """What it is judged by: the readable model in some precision."""

    def run(
        self, images: npt.NDArray[np.float32], outputs: tuple[str, ...], order: int = 0
    ) -> dict[str, npt.NDArray[np.floating]]:
        """The named outputs; other orders are the same function, rounded otherwise."""
        ...


@dataclass(frozen=True)
class Errors:
    """Error of one output against the golden results.

    Attributes:
        max: largest absolute error of an element.
        p99: 99th percentile of the absolute errors.
        rms: root of the mean squared error.
        relative_rms: the same over the root of the golden mean square.
        cosine: smallest cosine similarity of an image's output with its golden output.
        worst_image: index of the image with the largest error.
    """

    max: float
    p99: float
    rms: float
    relative_rms: float
    cosine: float
    worst_image: int


@dataclass(frozen=True)
class Check:
    """One output at one batch size: measured errors against what the budget allows."""

    output: str
    batch_size: int
    errors: Errors
    allowed: Mapping[str, float]
    overridden: bool
    passed: bool


@dataclass(frozen=True)
class ParityReport:
    """What a comparison found.

    Attributes:
        images: number of images compared.
        budget: the tolerances that were applied.
        tolerance: the user's own limit, if there was one.
        overridden: whether that limit was looser than the budget anywhere.
        baseline: errors of the eager float32 model, by output.
        checks: the candidate's errors, by output and batch size.
        agreement: share of images whose class is the golden one, over all batch sizes.
        flips: images whose class is another one, with the golden gap between the two longest
            capsules; only a gap below the measured error excuses a flip.
        accuracy: share of correct classes of golden, baseline and candidate; None without labels.
        failures: what is wrong, in words; empty when the artifact passes.
    """

    images: int
    budget: Budget
    tolerance: Tolerance | None
    overridden: bool
    baseline: Mapping[str, Errors]
    checks: tuple[Check, ...]
    agreement: float
    flips: Mapping[int, float]
    accuracy: Mapping[str, float] | None
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether the artifact computes the same numbers."""
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {**dataclasses.asdict(self), "passed": self.passed}


def compare(
    golden: Reference,
    baseline: Reference,
    candidate: Candidate,
    images: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64] | None = None,
    tolerance: Tolerance | None = None,
    batch_sizes: Sequence[int] | None = None,
) -> ParityReport:
    """Judge an artifact on images.

    Args:
        golden: the readable model in float64.
        baseline: the readable model in float32.
        candidate: the artifact.
        images: float32 ``[n, channels, height, width]``, values 0..1, at least one.
        labels: the true classes ``[n]``, where they are known.
        tolerance: a limit of the user's own.
        batch_sizes: sizes to run all images at; None for :data:`BATCH_SIZES` and all at once, up to
            :data:`LARGE_BATCH`.

    Returns:
        The report; a wrong artifact is a report with failures, not an exception.
    """
    names = tuple(spec.name for spec in candidate.metadata.outputs)
    budget = find_precision(candidate.metadata.precision).budget
    expected = golden.run(images, names)
    plain = [baseline.run(images, names, order) for order in range(orders_for(len(images)))]
    own = measure(expected, *plain)
    checks: list[Check] = []
    failures = [
        f"{name}: the float32 model itself is off by {errors.relative_rms:.2g} of the float64 one, "
        "so nothing can be judged by it; look for values that overflow or cancel in the network"
        for name, errors in own.items()
        if not errors.relative_rms <= BASELINE_LIMIT
    ]
    flips: dict[int, float] = {}
    predicted: npt.NDArray[np.int64] | None = None
    for batch_size in _batch_sizes(candidate.metadata, len(images), batch_sizes):
        where = f"batch {batch_size}"
        try:
            found = _run(candidate, images, batch_size)
        except CapsNetError as error:
            failures.append(f"{where}: {error}")
            continue
        problems = malformed(candidate.metadata, found, len(images))
        if problems:
            failures += [f"{where}: {problem}" for problem in problems]
            continue
        predicted = found["lengths"].argmax(-1)
        same = predicted == expected["lengths"].argmax(-1)
        for name in names:
            if not _comparable(name, same).any():
                failures.append(f"{where}: {name}: no image keeps its class, so none compares")
                continue
            errors = _errors(expected[name], found[name], _comparable(name, same))
            check = _judge(name, batch_size, errors, own[name], budget, expected[name], tolerance)
            checks.append(check)
            failures += _excesses(check)
        limit = _errors(expected["lengths"], found["lengths"], np.ones_like(same)).max
        for image, gap in _flips(expected["lengths"], same).items():
            flips[image] = gap
            if gap >= limit:
                failures.append(
                    f"{where}: image {image} changes its class, although the golden gap between "
                    f"its two longest capsules, {gap:.3g}, is not below the error, {limit:.3g}"
                )
    accuracy = None
    if labels is not None and predicted is not None:
        classes = {
            "golden": expected["lengths"].argmax(-1),
            "baseline": plain[0]["lengths"].argmax(-1),
            "candidate": predicted,
        }
        accuracy = {who: float((found == labels).mean()) for who, found in classes.items()}
        lost = round((accuracy["golden"] - accuracy["candidate"]) * len(images))
        if lost > max(_LOST_IMAGES, _LOST_ACCURACY * len(images)):
            failures.append(
                f"accuracy falls from {accuracy['golden']:.2%} to {accuracy['candidate']:.2%}: at "
                f"most {_LOST_ACCURACY:.2%}, or {_LOST_IMAGES} of a few images, may be lost"
            )
    overridden = any(check.overridden for check in checks)
    agreement = 0.0 if predicted is None else 1 - len(flips) / len(images)
    return ParityReport(
        images=len(images),
        budget=budget,
        tolerance=tolerance,
        overridden=overridden,
        baseline=own,
        checks=tuple(checks),
        agreement=agreement,
        flips=flips,
        accuracy=accuracy,
        failures=tuple(failures),
    )


def measure(golden: Mapping[str, Array], *found: Mapping[str, Array]) -> dict[str, Errors]:
    """Errors of every golden output, over all images and all of one or more runs.

    Args:
        golden: the golden outputs, with ``lengths`` among them.
        found: runs on the same images.

    Returns:
        The errors by output. A run that gives an image another class is not charged for its
        reconstruction, which is that of another capsule.
    """
    classes = golden["lengths"].argmax(-1)
    same = np.concatenate([run["lengths"].argmax(-1) == classes for run in found])
    pooled = {
        name: _errors(
            np.concatenate([values] * len(found)),
            np.concatenate([run[name] for run in found]),
            _comparable(name, same),
        )
        for name, values in golden.items()
    }
    return {
        name: dataclasses.replace(errors, worst_image=errors.worst_image % len(classes))
        for name, errors in pooled.items()
    }


def orders_for(images: int) -> int:
    """How often to run the baseline on so many images.

    The largest error on a few images is a matter of luck: one order of summation may happen to be
    almost exact where every other is not.
    """
    return 1 if images >= _ENOUGH_IMAGES else ORDERS


def _batch_sizes(
    metadata: ArtifactMetadata, images: int, chosen: Sequence[int] | None
) -> Sequence[int]:
    fixed = metadata.inputs[0].shape[0]
    if isinstance(fixed, int):
        return (fixed,)
    if chosen is not None:
        return chosen
    largest = min(images, LARGE_BATCH)
    return (*(size for size in BATCH_SIZES if size < largest), largest)


def _run(
    candidate: Candidate, images: npt.NDArray[np.float32], batch_size: int
) -> dict[str, npt.NDArray[np.float32]]:
    parts = [
        candidate.run(images[start : start + batch_size])
        for start in range(0, len(images), batch_size)
    ]
    common = [name for name in parts[0] if all(name in part for part in parts)]
    joined = {}
    for name in common:
        arrays = [part[name] for part in parts]
        odd = [array for array in arrays if array.shape[1:] != arrays[0].shape[1:]]
        # Batches of different shapes do not join: the odd one is judged, and fails.
        joined[name] = odd[0] if odd else np.concatenate(arrays)
    return joined


def malformed(
    metadata: ArtifactMetadata, found: Mapping[str, npt.NDArray[Any]], images: int
) -> list[str]:
    """What is wrong with outputs before their values matter: names, dtypes, shapes, NaN, infinity.

    Args:
        metadata: of the artifact.
        found: its outputs, for ``images`` images.
        images: how many images it was given.

    Returns:
        The problems in words, none when the outputs are well formed.
    """
    problems = []
    for spec in metadata.outputs:
        shape = (images, *spec.shape[1:])
        if spec.name not in found:
            problems.append(f"output {spec.name} is missing, there are {', '.join(found)}")
        elif found[spec.name].dtype != spec.dtype:
            problems.append(f"{spec.name} is {found[spec.name].dtype}, expected {spec.dtype}")
        elif found[spec.name].shape != shape:
            problems.append(
                f"{spec.name} has shape {list(found[spec.name].shape)}, expected {list(shape)}"
            )
        elif not np.isfinite(found[spec.name]).all():
            bad = ~np.isfinite(found[spec.name]).reshape(images, -1).all(axis=1)
            problems.append(
                f"{spec.name} holds NaN or infinity for {int(bad.sum())} of {images} images, "
                f"first image {int(bad.argmax())}"
            )
    return problems


def _comparable(name: str, same: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Images to compare: another class decodes another capsule, which the flip accounts for."""
    return same if name == "reconstruction" else np.ones_like(same)


def _errors(golden: Array, found: Array, comparable: npt.NDArray[np.bool_]) -> Errors:
    indices = np.flatnonzero(comparable)
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


def _judge(
    name: str,
    batch_size: int,
    errors: Errors,
    own: Errors,
    budget: Budget,
    golden: Array,
    tolerance: Tolerance | None,
) -> Check:
    largest = float(np.abs(golden).max())
    allowed = budget.allows(dataclasses.asdict(own), largest)
    overridden = False
    if tolerance is not None:
        limit = tolerance.atol + tolerance.rtol * largest
        overridden = limit > allowed["max"]
        allowed = {key: limit if overridden else min(limit, allowed[key]) for key in allowed}
    passed = all(getattr(errors, key) <= limit for key, limit in allowed.items())
    return Check(name, batch_size, errors, allowed, overridden, passed)


def _excesses(check: Check) -> list[str]:
    return [
        f"batch {check.batch_size}: {check.output}: {key} error {getattr(check.errors, key):.3g} "
        f"is above the budget of {limit:.3g} (worst image {check.errors.worst_image})"
        for key, limit in check.allowed.items()
        if not getattr(check.errors, key) <= limit
    ]


def _flips(golden_lengths: Array, same: npt.NDArray[np.bool_]) -> dict[int, float]:
    """Images of another class, with the golden gap between their two longest capsules."""
    second, first = np.sort(golden_lengths[~same], axis=1)[:, -2:].T
    gaps = dict(zip(np.flatnonzero(~same).tolist(), (first - second).tolist(), strict=True))
    return {int(image): float(gap) for image, gap in gaps.items()}

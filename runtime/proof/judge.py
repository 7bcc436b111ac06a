"""Judging: what was collected, against the error budget. Nothing is run here."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from capsnet.artifact import ArtifactMetadata
from capsnet.precision import Budget, find_precision
from capsnet.runtime.proof.collect import Array, Collected, Run
from capsnet.runtime.proof.measure import (
    BASELINE_LIMIT,
    classes_of,
    comparable,
    errors_of,
    malformed,
    measure,
)
from capsnet.runtime.proof.results import Accuracy, Check, Errors, ParityResult, Tolerance

__all__ = ["judge"]

_LOST_ACCURACY = 0.001  # share of the images whose class may become wrong, or
_LOST_IMAGES = 2  # so many of a few


@dataclass(frozen=True)
class _JudgedRun:
    """One run of the artifact.

    Attributes:
        failures: what is wrong, in words.
        checks: errors of its outputs.
        flips: images of another class, with their golden gaps.
        outputs: those of the run; None where they are not well formed.
    """

    failures: tuple[str, ...]
    checks: tuple[Check, ...] = ()
    flips: Mapping[int, float] = dataclasses.field(default_factory=dict)
    outputs: Mapping[str, Array] | None = None


def judge(
    collected: Collected,
    metadata: ArtifactMetadata,
    labels: npt.NDArray[np.int64] | None = None,
    tolerance: Tolerance | None = None,
) -> ParityResult:
    """Judge an artifact by what was collected of it.

    Args:
        collected: the results of all runs.
        metadata: of the artifact: its precision decides the budget, its ``decision`` the class.
        labels: the true classes ``[images]``, where they are known.
        tolerance: a limit of the user's own.

    Returns:
        The result; a wrong artifact is a result with failures, not an exception.
    """
    own = measure(collected.golden, collected.baseline, metadata.decision)
    rules = _Rules(
        metadata, collected.golden, own, find_precision(metadata.precision).budget, tolerance
    )
    runs = [rules.judge(run) for run in collected.runs]
    flips = {image: gap for run in runs for image, gap in run.flips.items()}
    checks = tuple(check for run in runs for check in run.checks)
    failures = [*_baseline_failures(own), *(failure for run in runs for failure in run.failures)]
    valid = [run.outputs for run in runs if run.outputs is not None]
    agreement, accuracy = None, None
    if metadata.decision is not None:
        agreement = 1 - len(flips) / collected.images if valid else 0.0
        if labels is not None and valid:
            three = (collected.golden, collected.baseline[0], valid[-1])
            classes = [classes_of(outputs[metadata.decision]) for outputs in three]
            accuracy = Accuracy(*(float((found == labels).mean()) for found in classes))
            failures += _accuracy_failures(accuracy, collected.images)
    return ParityResult(
        images=collected.images,
        budget=rules.budget,
        tolerance=tolerance,
        overridden=any(check.overridden for check in checks),
        baseline=own,
        checks=checks,
        agreement=agreement,
        flips=flips,
        accuracy=accuracy,
        failures=tuple(failures),
        passed=not failures,
    )


@dataclass(frozen=True)
class _Rules:
    """What every run of an artifact is judged by."""

    metadata: ArtifactMetadata
    golden: Mapping[str, Array]
    own: Mapping[str, Errors]
    budget: Budget
    tolerance: Tolerance | None

    def judge(self, run: Run) -> _JudgedRun:
        where = f"batch {run.batch_size}"
        if run.error is not None:
            return _JudgedRun((f"{where}: {run.error}",))
        problems = malformed(self.metadata, run.outputs, self.golden)
        if problems:
            return _JudgedRun(tuple(f"{where}: {problem}" for problem in problems))
        same = np.ones(len(next(iter(self.golden.values()))), np.bool_)
        flips, failures = {}, []
        decision = self.metadata.decision
        if decision is not None:
            expected, found = self.golden[decision], run.outputs[decision]
            same = classes_of(found) == classes_of(expected)
            flips = _gaps(expected, same)
            limit = errors_of(expected, found, np.ones_like(same)).max
            failures = [
                f"{where}: image {image} changes its class, although the golden gap between "
                f"its two largest {decision}, {gap:.3g}, is not below the error, {limit:.3g}"
                for image, gap in flips.items()
                if gap >= limit
            ]
        checks, excesses = [], []
        for name in self.golden:
            chosen = comparable(name, same)
            if not chosen.any():
                excesses.append(f"{where}: {name}: no image keeps its class, so none compares")
                continue
            errors = errors_of(self.golden[name], run.outputs[name], chosen)
            checks.append(self._check(name, run.batch_size, errors))
            excesses += _excesses(checks[-1])
        return _JudgedRun((*excesses, *failures), tuple(checks), flips, run.outputs)

    def _check(self, name: str, batch_size: int, errors: Errors) -> Check:
        largest = float(np.abs(self.golden[name]).max())
        allowed = self.budget.allows(dataclasses.asdict(self.own[name]), largest)
        overridden = False
        if self.tolerance is not None:
            limit = self.tolerance.atol + self.tolerance.rtol * largest
            overridden = limit > allowed["max"]
            allowed = {key: limit if overridden else min(limit, allowed[key]) for key in allowed}
        passed = all(getattr(errors, key) <= limit for key, limit in allowed.items())
        return Check(name, batch_size, errors, allowed, overridden, passed)


def _baseline_failures(own: Mapping[str, Errors]) -> Iterator[str]:
    for name, errors in own.items():
        if not errors.relative_rms <= BASELINE_LIMIT:
            yield (
                f"{name}: the float32 model itself is off by {errors.relative_rms:.2g} of the "
                "float64 one, so nothing can be judged by it; look for values that overflow or "
                "cancel in the network"
            )


def _excesses(check: Check) -> Sequence[str]:
    return [
        f"batch {check.batch_size}: {check.output}: {key} error {getattr(check.errors, key):.3g} "
        f"is above the budget of {limit:.3g} (worst image {check.errors.worst_image})"
        for key, limit in check.allowed.items()
        if not getattr(check.errors, key) <= limit
    ]


def _accuracy_failures(accuracy: Accuracy, images: int) -> Sequence[str]:
    lost = round((accuracy.golden - accuracy.candidate) * images)
    if lost <= max(_LOST_IMAGES, _LOST_ACCURACY * images):
        return []
    return [
        f"accuracy falls from {accuracy.golden:.2%} to {accuracy.candidate:.2%}: at most "
        f"{_LOST_ACCURACY:.2%}, or {_LOST_IMAGES} of a few images, may be lost"
    ]


def _gaps(golden: Array, same: npt.NDArray[np.bool_]) -> dict[int, float]:
    """Images of another class, with the golden gap between their two largest values."""
    flipped = np.flatnonzero(~same)
    if len(flipped) == 0:
        return {}
    ordered = np.sort(golden[flipped].reshape(len(flipped), -1), axis=1)
    gaps = ordered[:, -1] - ordered[:, -2]
    return {int(image): float(gap) for image, gap in zip(flipped, gaps, strict=True)}

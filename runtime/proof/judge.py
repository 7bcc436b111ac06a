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

_FEW = 2  # images whose class may change or be lost, where the share of the budget is less
_ENOUGH_IMAGES = 500  # to judge by classes alone


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
    rules = _Rules(metadata, collected, own, find_precision(metadata.precision).budget, tolerance)
    runs = [rules.judge(run) for run in collected.runs]
    flips = {image: gap for run in runs for image, gap in run.flips.items()}
    checks = tuple(check for run in runs for check in run.checks)
    failures = [*_baseline_failures(own), *(failure for run in runs for failure in run.failures)]
    valid = [
        judged.outputs
        for run, judged in zip(collected.runs, runs, strict=True)
        if judged.outputs is not None and len(run.images) == collected.images
    ]
    agreement, accuracy = None, None
    if metadata.decision is not None:
        agreement = 1 - len(flips) / collected.images if valid else 0.0
        failures += _flip_failures(flips, rules.budget.flips, collected.images)
        if labels is not None and valid:
            three = (collected.golden, collected.baseline[0], valid[-1])
            classes = [classes_of(outputs[metadata.decision]) for outputs in three]
            accuracy = Accuracy(*(float((found == labels).mean()) for found in classes))
            failures += _accuracy_failures(accuracy, rules.budget.lost, collected.images)
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
        not_judged=(*_skipped(collected), *_unjudged(rules.budget, collected.images, labels)),
        passed=not failures,
    )


@dataclass(frozen=True)
class _Rules:
    """What every run of an artifact is judged by."""

    metadata: ArtifactMetadata
    collected: Collected
    own: Mapping[str, Errors]
    budget: Budget
    tolerance: Tolerance | None

    def judge(self, run: Run) -> _JudgedRun:
        where = f"batch {run.batch_size}"
        if run.error is not None:
            return _JudgedRun((f"{where}: {run.error}",))
        golden, own = self._expected(run)
        problems = malformed(self.metadata, run.outputs, golden, run.images)
        if problems:
            return _JudgedRun(tuple(f"{where}: {problem}" for problem in problems))
        same = np.ones(len(run.images), np.bool_)
        flips, failures = {}, []
        decision = self.metadata.decision
        if decision is not None:
            expected, found = golden[decision], run.outputs[decision]
            same = classes_of(found) == classes_of(expected)
            flips = _gaps(expected, same, run.images)
            limit = errors_of(expected, found, np.ones_like(same)).max
            failures = [
                f"{where}: image {image} changes its class, although the golden gap between "
                f"its two largest {decision}, {gap:.3g}, is not below the error, {limit:.3g}"
                for image, gap in flips.items()
                if gap >= limit and self.budget.flips is None
            ]
        checks, excesses = [], []
        for name in golden:
            chosen = comparable(name, same)
            if not chosen.any():
                excesses.append(f"{where}: {name}: no image keeps its class, so none compares")
                continue
            errors = errors_of(golden[name], run.outputs[name], chosen)
            largest = float(np.abs(golden[name]).max())
            checks.append(self._check(name, run, errors, own[name], largest))
            excesses += _excesses(checks[-1])
        return _JudgedRun((*excesses, *failures), tuple(checks), flips, run.outputs)

    def _expected(self, run: Run) -> tuple[Mapping[str, Array], Mapping[str, Errors]]:
        """Golden outputs and the baseline's errors on the images of a run."""
        if len(run.images) == self.collected.images:
            return self.collected.golden, self.own
        golden, *baseline = (
            {name: values[run.images] for name, values in outputs.items()}
            for outputs in (self.collected.golden, *self.collected.baseline)
        )
        return golden, measure(golden, baseline, self.metadata.decision)

    def _check(self, name: str, run: Run, errors: Errors, own: Errors, largest: float) -> Check:
        errors = dataclasses.replace(errors, worst_image=int(run.images[errors.worst_image]))
        allowed = self.budget.allows(dataclasses.asdict(own), largest)
        overridden = False
        if self.tolerance is not None:
            limit = self.tolerance.atol + self.tolerance.rtol * largest
            overridden = limit > allowed["max"]
            allowed = {key: limit if overridden else min(limit, allowed[key]) for key in allowed}
        passed = all(getattr(errors, key) <= limit for key, limit in allowed.items())
        count = len(run.images)
        return Check(name, run.batch_size, count, errors, allowed, overridden, passed)


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


def _flip_failures(flips: Mapping[int, float], share: float | None, images: int) -> Sequence[str]:
    if share is None or len(flips) <= max(_FEW, share * images):
        return []
    return [
        f"{len(flips)} of {images} images change their class: at most {share:.2%}, or {_FEW} of a "
        "few images, may"
    ]


def _accuracy_failures(accuracy: Accuracy, share: float, images: int) -> Sequence[str]:
    lost = round((accuracy.golden - accuracy.candidate) * images)
    if lost <= max(_FEW, share * images):
        return []
    return [
        f"accuracy falls from {accuracy.golden:.2%} to {accuracy.candidate:.2%}: at most "
        f"{share:.2%}, or {_FEW} of a few images, may be lost"
    ]


def _skipped(collected: Collected) -> Iterator[str]:
    """The batch sizes that did not run every image."""
    some = [run for run in collected.runs if len(run.images) < collected.images]
    if some:
        sizes = ", ".join(str(run.batch_size) for run in some)
        yield (
            f"batch sizes {sizes} ran {len(some[0].images)} of {collected.images} images, "
            "spread evenly"
        )


def _unjudged(budget: Budget, images: int, labels: npt.NDArray[np.int64] | None) -> Iterator[str]:
    """What decides on artifacts of this budget, where it could not be judged."""
    if budget.flips is None:
        return
    if images < _ENOUGH_IMAGES:
        yield f"accuracy was not judged: it takes {_ENOUGH_IMAGES} images or more, not {images}"
    elif labels is None:
        yield "accuracy was not judged: the classes of these images are not known"


def _gaps(
    golden: Array, same: npt.NDArray[np.bool_], images: npt.NDArray[np.int64]
) -> dict[int, float]:
    """Images of another class, with the golden gap between their two largest values."""
    flipped = np.flatnonzero(~same)
    if len(flipped) == 0:
        return {}
    ordered = np.sort(golden[flipped].reshape(len(flipped), -1), axis=1)
    gaps = ordered[:, -1] - ordered[:, -2]
    return {int(image): float(gap) for image, gap in zip(images[flipped], gaps, strict=True)}

"""Inputs that break networks which are right on nice images: a named suite for every artifact.

Values outside 0..1 are outside the artifact's contract. In fp32 and fp16 they are computed like any
others, without clamping, and must still agree with the readable model; int8 clips what leaves the
range that it was calibrated for, and must give finite results.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from capsnet.errors import CapsNetError
from capsnet.precision import find_precision
from capsnet.runtime.proof.parity import (
    BASELINE_LIMIT,
    LARGE_BATCH,
    ORDERS,
    Candidate,
    Errors,
    Reference,
    malformed,
    measure,
    orders_for,
)

__all__ = ["HardInput", "HardInputs", "near_ties"]

Images = npt.NDArray[np.float32]

_REAL = 32  # real images to start from: the golden results are the slow part
_HOPELESS = "the float32 model itself is far off the float64 one, so nothing can be judged by it"
_PAIRS = 2  # near-ties looked for
_BISECTIONS = 20  # leaves a gap of about 1e-6 between the two longest capsules


@dataclass(frozen=True)
class HardInput:
    """How an artifact did on one of the suite's inputs.

    Attributes:
        name: of the input.
        images: how many it holds.
        max_error: largest absolute error of ``lengths`` and ``capsules``; None if it could not run,
            or only had to be finite.
        allowed: what the error budget allows.
        failures: what is wrong; empty when it passes.
    """

    name: str
    images: int
    max_error: float | None
    allowed: float | None
    failures: tuple[str, ...]


class HardInputs:
    """The suite, with its reference results.

    Args:
        golden: the readable model in float64.
        baseline: the readable model in float32.
        images: float32 ``[n, channels, height, width]``, real images to start from, at least one.
    """

    def __init__(self, golden: Reference, baseline: Reference, images: Images) -> None:
        images = images[:_REAL]
        self._inputs = dict(_inputs(golden, images))
        # One run for all of them; what float32 costs is then measured on each.
        together = np.concatenate(list(self._inputs.values()))
        expected, plain = _runs(golden, together, 1)[0], _runs(baseline, together, ORDERS)
        self._expected, self._own = {}, {}
        self._hopeless: set[str] = set()  # nothing can be judged by a baseline that is far off
        start = 0
        for name, batch in self._inputs.items():
            own = slice(start, start + len(batch))
            self._expected[name] = {key: values[own] for key, values in expected.items()}
            draws = [{key: values[own] for key, values in draw.items()} for draw in plain]
            here = measure(self._expected[name], *draws) if len(batch) else {}
            self._own[name] = here
            self._hopeless |= {
                name for errors in here.values() if not errors.relative_rms <= BASELINE_LIMIT
            }
            start += len(batch)
        real = _runs(golden, images, 1)[0]
        self._largest = {key: float(np.abs(values).max()) for key, values in real.items()}
        cost = measure(real, *_runs(baseline, images, orders_for(len(images))))
        for name, here in self._own.items():
            self._own[name] = {
                key: max(cost[key], here.get(key, cost[key]), key=lambda e: e.max) for key in cost
            }
        # The golden results of a large batch are those of the images that it repeats.
        repeats = np.arange(LARGE_BATCH) % len(images)
        name = f"batch of {LARGE_BATCH}"
        self._inputs[name], self._own[name] = images[repeats], cost
        self._expected[name] = {key: values[repeats] for key, values in real.items()}

    def check(self, candidate: Candidate) -> tuple[HardInput, ...]:
        """Run the suite on a candidate.

        Args:
            candidate: the artifact.

        Returns:
            One result an input.
        """
        return tuple(
            HardInput(name, len(batch), None, None, (f"{name}: {_HOPELESS}",))
            if name in self._hopeless
            else _check(
                name, candidate, batch, self._expected[name], self._own[name], self._largest
            )
            for name, batch in self._inputs.items()
        )


def near_ties(golden: Reference, images: Images) -> Images:
    """Images between two classes, found by bisection on the line between two real images.

    Args:
        golden: the readable model in float64.
        images: float32 ``[n, channels, height, width]``.

    Returns:
        Up to 2 images on which the two longest capsules are almost equally long; none where all
        images are of one class.
    """

    def classes(batch: Images) -> npt.NDArray[np.int64]:
        found: npt.NDArray[np.int64] = golden.run(batch, ("lengths",))["lengths"].argmax(-1)
        return found

    kinds = classes(images)
    others = np.flatnonzero(kinds != kinds[0])[:_PAIRS]
    if len(others) == 0:
        return images[:0]
    near, far = np.repeat(images[:1], len(others), axis=0), images[others]
    for _ in range(_BISECTIONS):
        middle: Images = (near + far) * np.float32(0.5)
        same = (classes(middle) == kinds[0])[:, None, None, None]
        near, far = np.where(same, middle, near), np.where(same, far, middle)
    return near


def _inputs(golden: Reference, images: Images) -> Mapping[str, Images]:
    zeros = np.zeros_like(images[:1])
    bright = zeros.copy()
    bright[..., bright.shape[-2] // 2, bright.shape[-1] // 2] = 1
    noise = np.random.default_rng(0).random((8, *images.shape[1:]), np.float32)
    return {
        "all zeros": zeros,
        "all ones": np.ones_like(zeros),
        "one bright pixel": bright,
        "uniform noise": noise,
        "near-ties between two classes": near_ties(golden, images),
        "values from -1 to 2": images[:8] * 3 - 1,
        "batch of one": images[:1],
        "empty batch": images[:0],
    }


def _runs(
    reference: Reference, images: Images, orders: int
) -> list[dict[str, npt.NDArray[np.floating]]]:
    return [reference.run(images, ("lengths", "capsules"), order) for order in range(orders)]


def _check(
    name: str,
    candidate: Candidate,
    batch: Images,
    expected: Mapping[str, npt.NDArray[np.floating]],
    own: Mapping[str, Errors],
    largest: Mapping[str, float],
) -> HardInput:
    try:
        found = candidate.run(batch)
    except CapsNetError as error:
        return HardInput(name, len(batch), None, None, (f"{name}: {error}",))
    problems = malformed(candidate.metadata, found, len(batch))
    budget = find_precision(candidate.metadata.precision).budget
    clipped = budget.clips and bool(((batch < 0) | (batch > 1)).any())
    if problems or clipped or len(batch) == 0:
        malformations = tuple(f"{name}: {problem}" for problem in problems)
        return HardInput(name, len(batch), None, None, malformations)
    errors = measure(expected, found)
    failures: list[str] = []
    worst = (0.0, 0.0)
    for output, measured in errors.items():
        scale = max(largest[output], float(np.abs(expected[output]).max()))
        limit = budget.allows(dataclasses.asdict(own[output]), scale)["max"]
        if not measured.max <= limit:
            failures.append(
                f"{name}: {output}: max error {measured.max:.3g} is above the budget of {limit:.3g}"
            )
        worst = max(worst, (measured.max, limit), key=lambda pair: pair[0] / max(pair[1], 1e-300))
    return HardInput(name, len(batch), *worst, tuple(failures))

"""Inputs that break networks which are right on ordinary images: a named suite for every artifact.

Values outside 0..1 are outside the artifact's contract. In fp32 and fp16 they are computed like any
others, without clamping, and must still agree with the readable model; int8 clips what leaves the
range that it was calibrated for, and must give finite results.
"""

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from capsnet.artifact import ArtifactMetadata
from capsnet.data.batch import Batch, Rows, combined, named, plain
from capsnet.errors import CapsNetError
from capsnet.precision import find_precision
from capsnet.runtime.proof.collect import (
    LARGE_BATCH,
    ORDERS,
    Array,
    Artifact,
    Reference,
    orders_for,
)
from capsnet.runtime.proof.measure import (
    BASELINE_LIMIT,
    FOLLOW_DECISION,
    classes_of,
    malformed,
    measure,
)
from capsnet.runtime.proof.results import Errors, HardInput

__all__ = ["HardInputs", "near_ties"]

_BASELINE_OFF = (
    "the float32 model itself is far off the float64 one, so nothing can be judged by it"
)
_PAIRS = 2  # near-ties looked for
_BISECTIONS = 20  # leaves a gap of about 1e-6 between the two largest values


@dataclass(frozen=True)
class _Input:
    """One input of the suite with its reference results.

    Attributes:
        name: of the input.
        images: float32 ``[n, channels, height, width]``.
        golden: the golden outputs.
        own: what float32 costs the baseline here, or on real images where that is more.
        baseline_off: whether the baseline is so far off that nothing can be judged by it.
    """

    name: str
    images: Rows
    golden: Mapping[str, Array]
    own: Mapping[str, Errors]
    baseline_off: bool = False


class HardInputs:
    """The suite, with its reference results.

    Args:
        golden: the readable model in float64.
        baseline: the readable model in float32.
        images: float32 ``[n, channels, height, width]``, real images to start from, at least one;
            or the rows of other inputs.
        decision: the output that decides the class; None where none does.
    """

    def __init__(
        self, golden: Reference, baseline: Reference, images: Rows, decision: str | None
    ) -> None:
        everything = golden.run(images)
        real = {name: v for name, v in everything.items() if name not in FOLLOW_DECISION}
        names = tuple(real)
        plain = [baseline.run(images, names, order) for order in range(orders_for(len(images)))]
        cost = measure(real, plain)
        self._largest = {name: float(np.abs(values).max()) for name, values in real.items()}
        self._inputs = []
        batches = _batches(golden, images, decision)
        # One run for all of them; what float32 costs is then measured on each.
        together = combined(lambda *parts: np.concatenate(parts), *batches.values())
        expected = golden.run(together, names)
        draws = [baseline.run(together, names, order) for order in range(ORDERS)]
        start = 0
        for name, batch in batches.items():
            part = slice(start, start + len(batch))
            start += len(batch)
            here = {key: values[part] for key, values in expected.items()}
            if isinstance(batch, Batch) and not all(np.isfinite(v).all() for v in here.values()):
                continue  # outside of what the user's own network is defined for
            found = [{key: values[part] for key, values in draw.items()} for draw in draws]
            own = measure(here, found) if len(batch) else {}
            off = any(not errors.relative_rms <= BASELINE_LIMIT for errors in own.values())
            most = {key: max(cost[key], own.get(key, cost[key]), key=_largest) for key in cost}
            self._inputs.append(_Input(name, batch, here, most, off))
        # The golden results of a large batch are those of the images that it repeats.
        repeats = np.arange(LARGE_BATCH) % len(images)
        repeated = {key: values[repeats] for key, values in real.items()}
        self._inputs.append(_Input(f"batch of {LARGE_BATCH}", images[repeats], repeated, cost))

    def check(self, artifact: Artifact) -> tuple[HardInput, ...]:
        """Run the suite on an artifact.

        Args:
            artifact: its session.

        Returns:
            One result an input.
        """
        return tuple(self._check(given, artifact) for given in self._inputs)

    def _check(self, given: _Input, artifact: Artifact) -> HardInput:
        if given.baseline_off:
            return _unmeasured(given, _BASELINE_OFF)
        try:
            found = artifact.run(plain(given.images), any_range=True)
        except CapsNetError as error:
            return _unmeasured(given, str(error))
        problems = malformed(artifact.metadata, found, given.golden)
        if problems or len(given.images) == 0 or _may_clip(artifact.metadata, given.images):
            return _unmeasured(given, *problems)
        budget = find_precision(artifact.metadata.precision).budget
        failures: list[str] = []
        worst = (0.0, 0.0)
        golden = {name: v for name, v in given.golden.items() if name in found}
        for output, measured in measure(golden, [found]).items():
            scale = max(self._largest[output], float(np.abs(given.golden[output]).max()))
            limit = budget.allows(dataclasses.asdict(given.own[output]), scale)["max"]
            if not measured.max <= limit:
                failures.append(
                    f"{given.name}: {output}: max error {measured.max:.3g} is above the budget of "
                    f"{limit:.3g}"
                )
            worst = max(
                worst, (measured.max, limit), key=lambda pair: pair[0] / max(pair[1], 1e-300)
            )
        return HardInput(given.name, len(given.images), *worst, tuple(failures))


def near_ties(golden: Reference, images: Rows, decision: str) -> Rows:
    """Images between two classes, found by bisection on the line between two real images.

    Args:
        golden: the readable model in float64.
        images: float32 ``[n, channels, height, width]``.
        decision: the output that decides the class.

    Returns:
        Up to 2 images on which the two largest values are almost equal; none where all images are
        of one class.
    """

    def classes(batch: Rows) -> npt.NDArray[np.int64]:
        return classes_of(golden.run(batch, (decision,))[decision])

    kinds = classes(images)
    others = np.flatnonzero(kinds != kinds[0])[:_PAIRS]
    if len(others) == 0:
        return images[:0]
    near, far = images[np.zeros_like(others)], images[others]
    for _ in range(_BISECTIONS):
        middle = combined(lambda a, b: (a + b) * np.float32(0.5), near, far)
        same = classes(middle) == kinds[0]
        near = combined(functools.partial(_chosen, same), middle, near)
        far = combined(functools.partial(_chosen, ~same), middle, far)
    return near


def _chosen(
    rows: npt.NDArray[np.bool_], where: npt.NDArray[np.float32], elsewhere: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    mask = rows.reshape(-1, *[1] * (where.ndim - 1))
    return np.where(mask, where, elsewhere)


def _batches(golden: Reference, images: Rows, decision: str | None) -> Mapping[str, Rows]:
    """The suite. Of inputs that are no images, 0 and 1 are their own lowest and highest values."""
    low, high = _range(images)
    generator = np.random.default_rng(0)
    one = images[:1]
    ties = {}
    if decision is not None:
        ties["near-ties between two classes"] = near_ties(golden, images, decision)

    def noise(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return low + (high - low) * generator.random((8, *rows.shape[1:]), np.float32)

    return {
        "all zeros": combined(np.zeros_like, one),
        "all ones": combined(lambda rows: np.full_like(rows, high), one),
        "one bright pixel": combined(lambda rows: _bright(rows, high), one),
        "uniform noise": combined(noise, images),
        **ties,
        "values from -1 to 2": combined(
            lambda rows: (rows - low) * 3 + (2 * low - high), images[:8]
        ),
        "batch of one": one,
        "empty batch": images[:0],
    }


def _range(images: Rows) -> tuple[np.float32, np.float32]:
    """The lowest and the highest value of inputs."""
    if not isinstance(images, Batch):
        return np.float32(0), np.float32(1)
    arrays = images.arrays.values()
    return min(rows.min() for rows in arrays), max(rows.max() for rows in arrays)


def _bright(rows: npt.NDArray[np.float32], high: np.float32) -> npt.NDArray[np.float32]:
    """Zeros, and one value in the middle of the last two axes."""
    bright = np.zeros_like(rows)
    bright[(..., *(size // 2 for size in rows.shape[1:][-2:]))] = high
    return bright


def _largest(errors: Errors) -> float:
    return errors.max


def _may_clip(metadata: ArtifactMetadata, images: Rows) -> bool:
    clips = find_precision(metadata.precision).budget.clips
    return clips and any(bool(((rows < 0) | (rows > 1)).any()) for rows in named(images).values())


def _unmeasured(given: _Input, *problems: str) -> HardInput:
    """The result where no errors were measured."""
    failures = tuple(f"{given.name}: {problem}" for problem in problems)
    return HardInput(given.name, len(given.images), None, None, failures)

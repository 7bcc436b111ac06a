"""Inputs that break networks which are right on ordinary images: a named suite for every artifact.

Values outside 0..1 are outside the artifact's contract. In fp32 and fp16 they are computed like any
others, without clamping, and must still agree with the readable model; int8 clips what leaves the
range that it was calibrated for, and must give finite results.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from capsnet.artifact import ArtifactMetadata
from capsnet.errors import CapsNetError
from capsnet.precision import find_precision
from capsnet.runtime.proof.collect import (
    LARGE_BATCH,
    ORDERS,
    Array,
    Artifact,
    Images,
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
    images: Images
    golden: Mapping[str, Array]
    own: Mapping[str, Errors]
    baseline_off: bool = False


class HardInputs:
    """The suite, with its reference results.

    Args:
        golden: the readable model in float64.
        baseline: the readable model in float32.
        images: float32 ``[n, channels, height, width]``, real images to start from, at least one.
        decision: the output that decides the class; None where none does.
    """

    def __init__(
        self, golden: Reference, baseline: Reference, images: Images, decision: str | None
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
        together = np.concatenate(list(batches.values()))
        expected = golden.run(together, names)
        draws = [baseline.run(together, names, order) for order in range(ORDERS)]
        start = 0
        for name, batch in batches.items():
            part = slice(start, start + len(batch))
            start += len(batch)
            here = {key: values[part] for key, values in expected.items()}
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
            found = artifact.run(given.images, any_range=True)
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


def near_ties(golden: Reference, images: Images, decision: str) -> Images:
    """Images between two classes, found by bisection on the line between two real images.

    Args:
        golden: the readable model in float64.
        images: float32 ``[n, channels, height, width]``.
        decision: the output that decides the class.

    Returns:
        Up to 2 images on which the two largest values are almost equal; none where all images are
        of one class.
    """

    def classes(batch: Images) -> npt.NDArray[np.int64]:
        return classes_of(golden.run(batch, (decision,))[decision])

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


def _batches(golden: Reference, images: Images, decision: str | None) -> Mapping[str, Images]:
    zeros = np.zeros_like(images[:1])
    bright = zeros.copy()
    bright[..., bright.shape[-2] // 2, bright.shape[-1] // 2] = 1
    noise = np.random.default_rng(0).random((8, *images.shape[1:]), np.float32)
    ties = {}
    if decision is not None:
        ties["near-ties between two classes"] = near_ties(golden, images, decision)
    return {
        "all zeros": zeros,
        "all ones": np.ones_like(zeros),
        "one bright pixel": bright,
        "uniform noise": noise,
        **ties,
        "values from -1 to 2": images[:8] * 3 - 1,
        "batch of one": images[:1],
        "empty batch": images[:0],
    }


def _largest(errors: Errors) -> float:
    return errors.max


def _may_clip(metadata: ArtifactMetadata, images: Images) -> bool:
    clips = find_precision(metadata.precision).budget.clips
    return clips and bool(((images < 0) | (images > 1)).any())


def _unmeasured(given: _Input, *problems: str) -> HardInput:
    """The result where no errors were measured."""
    failures = tuple(f"{given.name}: {problem}" for problem in problems)
    return HardInput(given.name, len(given.images), None, None, failures)

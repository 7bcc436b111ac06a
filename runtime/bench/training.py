"""The speed of a step of training, proven by its losses."""

from collections.abc import Sequence

import numpy as np

from capsnet.errors import ResultError
from capsnet.runtime.bench.candidates import Candidate, TrainingStep
from capsnet.runtime.bench.harness import Proven, Result, Settings, Start, measure
from capsnet.runtime.sessions.base import Images

__all__ = ["benchmark_training"]

_STEPS = 3
# Relative, in the first steps of training, before rounding has grown; CUDA trains in bfloat16.
_SAME_LOSS = {"cpu": 1e-4, "cuda": 2e-2}


def benchmark_training(
    candidates: Sequence[TrainingStep], images: Images, settings: Settings
) -> tuple[Result, ...]:
    """Compare the first losses of every candidate with those of the first one, then time it.

    Args:
        candidates: what to compare.
        images: float32 ``[n, channels, height, width]``, real images, at least one.
        settings: how to measure.

    Returns:
        A result for each batch size and candidate.

    Raises:
        ConfigError: if two candidates have one name.
        DataError: if there are no images.
    """
    expected: list[float] = []

    def prove(candidate: Candidate, start: Start) -> Proven:
        worker = start(candidate)
        losses = [worker.run(images)["loss"].item() for _ in range(_STEPS)]
        expected.extend(losses if not expected else [])
        if not np.allclose(losses, expected, rtol=_SAME_LOSS[worker.about.device]):
            raise ResultError(f"losses {losses}, expected {expected}")
        return Proven(worker, images)

    return measure(candidates, images, settings, prove)

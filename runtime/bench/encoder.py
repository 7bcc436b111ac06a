"""The speed of whole encoders: images in, class capsules out."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from capsnet.artifact import OUTPUT_NAMES
from capsnet.runtime.bench.candidates import Candidate
from capsnet.runtime.bench.harness import Proven, Result, Settings, Start, Worker, measure
from capsnet.runtime.bench.parity import Reference, require_parity
from capsnet.runtime.sessions.base import Images

__all__ = ["benchmark_encoder"]

_SCORED_AT_ONCE = 32

Labelled = tuple[Images, npt.NDArray[np.int64]]


def benchmark_encoder(
    candidates: Sequence[Candidate],
    golden: Reference,
    baseline: Reference,
    images: Images,
    settings: Settings,
    *,
    scored: Labelled | None = None,
) -> tuple[Result, ...]:
    """Prove the outputs of every candidate, then time it.

    Args:
        candidates: what to compare.
        golden: the readable model in float64.
        baseline: the readable model in float32.
        images: float32 ``[n, channels, height, width]``, real images, at least one.
        settings: how to measure.
        scored: images and labels to count each candidate's right classes on.

    Returns:
        A result for each batch size and candidate.

    Raises:
        ConfigError: if two candidates have one name.
        DataError: if there are no images.
    """

    def prove(candidate: Candidate, start: Start) -> Proven:
        worker = start(candidate)
        require_parity(candidate, worker, golden, baseline, images, settings.batches)
        return Proven(worker, images, None if scored is None else _accuracy(worker, *scored))

    return measure(candidates, images, settings, prove)


def _accuracy(worker: Worker, images: Images, labels: npt.NDArray[np.int64]) -> float:
    """Share of right classes; few images at a time, or they would decide the peak memory."""
    metadata = worker.about.metadata
    decision = (metadata and metadata.decision) or OUTPUT_NAMES[0]
    classes = [
        worker.run(images[start : start + _SCORED_AT_ONCE])[decision].argmax(-1)
        for start in range(0, len(images), _SCORED_AT_ONCE)
    ]
    return float((np.concatenate(classes) == labels).mean())

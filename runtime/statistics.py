"""Statistics of timings: percentiles, and ratios with an interval that says what is noise."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Ratio", "Summary", "is_stable", "ratio", "summarise"]

_RESAMPLES = 4000
_LEVEL = 0.99
_STABLE = 0.05  # change of the median from one burst to the next


@dataclass(frozen=True)
class Summary:
    """Latencies of one candidate, in seconds a call."""

    p50: float
    p90: float
    p99: float


@dataclass(frozen=True)
class Ratio:
    """How many times faster than the baseline, with its 99 % bootstrap interval.

    Attributes:
        estimate: median over the rounds of the baseline's median latency by the candidate's.
        low: lower end of the interval.
        high: upper end of the interval.
    """

    estimate: float
    low: float
    high: float

    @property
    def significant(self) -> bool:
        """Whether the interval excludes equal speed."""
        return not self.low <= 1.0 <= self.high


def summarise(rounds: Sequence[Sequence[float]]) -> Summary:
    """Percentiles over all calls of all rounds."""
    p50, p90, p99 = np.percentile(np.concatenate([np.asarray(r) for r in rounds]), (50, 90, 99))
    return Summary(float(p50), float(p90), float(p99))


def ratio(baseline: Sequence[Sequence[float]], candidate: Sequence[Sequence[float]]) -> Ratio:
    """Compare two candidates that ran in the same rounds.

    The rounds are what is resampled: calls within a round share the machine's mood, and are no
    independent evidence. The pairs of a round share it too, so their ratio is freer of it.

    Args:
        baseline: seconds a call, for each round.
        candidate: the same, with the same rounds in the same order.

    Returns:
        The ratio; above 1, the candidate is faster.
    """
    ratios = np.array(
        [np.median(b) / np.median(c) for b, c in zip(baseline, candidate, strict=True)]
    )
    drawn = np.random.default_rng(0).choice(ratios, (_RESAMPLES, len(ratios)))
    tail = (1 - _LEVEL) / 2
    low, high = np.quantile(np.median(drawn, axis=1), (tail, 1 - tail))
    return Ratio(float(np.median(ratios)), float(low), float(high))


def is_stable(bursts: Sequence[Sequence[float]]) -> bool:
    """Whether the last two bursts of a warm-up agree, so that timing may begin."""
    if len(bursts) < 2:
        return False
    before, last = np.median(bursts[-2]), np.median(bursts[-1])
    return bool(abs(last - before) <= _STABLE * before)

"""Statistics of timings: percentiles, and ratios with an interval that says what is noise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Ratio", "Summary", "is_stable", "noise", "ratio", "summarise"]

_RESAMPLES = 2000
_LARGEST_LOG = 20.0
_LEVEL = 0.99
_STABLE = 0.05  # change of the median from one burst to the next
_LONG_TAIL = 10.0  # times the median: a machine that does something else while it is timed
_WIDEST = 2.0  # upper end of a ratio's interval by its lower one: beyond it nothing is decided


@dataclass(frozen=True)
class Summary:
    """Latencies of one candidate, in seconds a call.

    Attributes:
        p50: median of all calls.
        p90: what one call in ten exceeds.
        p99: what one call in a hundred exceeds.
        fastest: smallest median of a round.
        slowest: largest median of a round.
    """

    p50: float
    p90: float
    p99: float
    fastest: float
    slowest: float


@dataclass(frozen=True)
class Ratio:
    """How many times faster than the baseline, with its 99 % bootstrap-t interval.

    Attributes:
        estimate: geometric mean over the rounds of the baseline's median latency by the
            candidate's.
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
    """Percentiles over all calls of all rounds, and the range of the rounds."""
    p50, p90, p99 = np.percentile(np.concatenate([np.asarray(r) for r in rounds]), (50, 90, 99))
    medians = [np.median(r) for r in rounds]
    return Summary(float(p50), float(p90), float(p99), float(min(medians)), float(max(medians)))


def noise(latency: Summary, ratios: Mapping[str, Ratio]) -> str | None:
    """Why these timings are no ground for a verdict, in words; None where they are.

    Args:
        latency: of a candidate.
        ratios: of it to others, by their names.
    """
    found = []
    if latency.p99 >= _LONG_TAIL * latency.p50:
        found.append(f"p99 is {latency.p99 / latency.p50:.0f} times p50")
    for name, ratio in ratios.items():
        if ratio.high > _WIDEST * ratio.low:
            found.append(
                f"the ratio to {name} is anywhere from {ratio.low:.2g} to {ratio.high:.2g}"
            )
    return ", ".join(found) or None


def ratio(baseline: Sequence[Sequence[float]], candidate: Sequence[Sequence[float]]) -> Ratio:
    """Compare two candidates that ran in the same rounds.

    The rounds are what is resampled: calls within a round run under the same load of the machine,
    so they are not independent. Both candidates of a round run under it, so it cancels from their
    ratio. The bootstrap is studentised (Efron and Tibshirani 1993, section 12.5): for so few rounds
    the intervals of the plain one are too narrow.

    Args:
        baseline: seconds a call, for each round.
        candidate: the same, with the same rounds in the same order.

    Returns:
        The ratio; above 1, the candidate is faster.
    """
    logs = np.log([np.median(b) / np.median(c) for b, c in zip(baseline, candidate, strict=True)])
    mean, spread = logs.mean(), logs.std(ddof=1)
    drawn = np.random.default_rng(0).choice(logs, (_RESAMPLES, len(logs)))
    spreads = drawn.std(axis=1, ddof=1)
    varied = spreads > 0  # a sample of one and the same round has no spread to divide by
    deviations = (drawn.mean(axis=1)[varied] - mean) / spreads[varied] if varied.any() else [0.0]
    tail = (1 - _LEVEL) / 2
    below, above = np.quantile(deviations, (tail, 1 - tail)) * spread
    # A few rounds that differ widely can give an end that no float holds.
    ends = np.clip([mean - above, mean, mean - below], -_LARGEST_LOG, _LARGEST_LOG)
    low, estimate, high = np.exp(ends)
    return Ratio(float(estimate), float(low), float(high))


def is_stable(bursts: Sequence[Sequence[float]]) -> bool:
    """Whether the last two bursts of a warm-up agree, so that timing may begin."""
    if len(bursts) < 2:
        return False
    before, last = np.median(bursts[-2]), np.median(bursts[-1])
    return bool(abs(last - before) <= _STABLE * before)

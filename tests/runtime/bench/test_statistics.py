"""The statistics of timings: they see what is there, and nothing else."""

import numpy as np
import pytest

from capsnet.runtime.bench.statistics import Ratio, Summary, is_stable, noise, ratio, summarise

ROUNDS, CALLS = 9, 20


def timings(seconds, noise, drift, seed):
    """Rounds of calls of two candidates on a machine that drifts, with outliers above."""
    random = np.random.default_rng(seed)
    load = np.exp(drift * np.cumsum(random.normal(size=ROUNDS)))

    def candidate(slowdown):
        calls = (
            seconds * slowdown * load[:, None] * np.exp(noise * random.normal(size=(ROUNDS, CALLS)))
        )
        calls[random.random(calls.shape) < 0.03] *= 3
        return calls.tolist()

    return candidate


@pytest.mark.parametrize("noise", [0.01, 0.03, 0.06])
def test_two_copies_of_one_artifact_are_not_called_different(noise):
    wrong = 0
    for seed in range(100):
        candidate = timings(0.01, noise, drift=0.1, seed=seed)
        wrong += ratio(candidate(1.0), candidate(1.0)).significant
    assert wrong <= 4  # 1 % is promised


@pytest.mark.parametrize("noise", [0.01, 0.03, 0.06])
@pytest.mark.parametrize("slowdown", [1.1, 1 / 1.1])
def test_a_planted_slowdown_of_ten_percent_is_found(noise, slowdown):
    found = 0
    for seed in range(100):
        candidate = timings(0.01, noise, drift=0.1, seed=seed)
        result = ratio(candidate(1.0), candidate(slowdown))
        found += result.significant and (result.estimate < 1) == (slowdown > 1)
        assert result.estimate == pytest.approx(1 / slowdown, rel=0.1)
    assert found >= 96


def test_the_ratio_is_that_of_the_medians_of_each_round():
    baseline = [[2.0, 2.0, 9.0], [4.0, 4.0, 4.0], [6.0, 6.0, 6.0]]
    candidate = [[1.0, 1.0, 1.0], [2.0, 2.0, 50.0], [3.0, 3.0, 3.0]]
    result = ratio(baseline, candidate)
    assert (result.estimate, result.low, result.high) == pytest.approx((2.0, 2.0, 2.0))
    assert result.significant


def test_percentiles_are_over_all_calls():
    summary = summarise([[1.0] * 50 + [2.0] * 40, [3.0] * 10])
    assert summary.p50 == pytest.approx(1.5)
    assert summary.p90 == pytest.approx(2.1)
    assert summary.p99 == 3.0
    assert (summary.fastest, summary.slowest) == (1.0, 3.0)


@pytest.mark.parametrize(
    ("p99", "interval", "expected"),
    [
        (9.9, (0.75, 1.45), None),
        (12.0, (0.75, 1.45), "p99 is 12 times p50"),
        (1.0, (0.7, 1.5), "the ratio to eager is anywhere from 0.7 to 1.5"),
        (30.0, (0.5, 2.0), "p99 is 30 times p50, the ratio to eager is anywhere from 0.5 to 2"),
    ],
)
def test_what_is_too_noisy_for_a_verdict_is_said(p99, interval, expected):
    latency = Summary(1.0, 1.0, p99, 1.0, 1.0)
    assert noise(latency, {"eager": Ratio(1.0, *interval)}) == expected


@pytest.mark.parametrize(
    ("bursts", "stable"),
    [
        ([], False),
        ([[1.0]], False),
        ([[1.0], [1.04]], True),
        ([[1.0], [0.94]], False),
        ([[5.0], [1.0], [1.0, 1.0, 9.0]], True),
    ],
)
def test_a_warm_up_is_over_when_the_median_stays(bursts, stable):
    assert is_stable(bursts) is stable

"""The histogram draws the range of the data, and every limit."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from capsnet.runtime.proof.histogram import draw
from capsnet.runtime.proof.results import Histogram

EDGES = tuple(np.arange(-12, 0.5, 0.5).tolist())


def histogram(**counts):
    """Counts by the lower edge of their bin."""
    both = {}
    for name in ("baseline", "artifact"):
        values = [0] * (len(EDGES) - 1)
        for edge, count in counts.get(name, {}).items():
            values[EDGES.index(edge)] = count
        both[name] = tuple(values)
    return Histogram(EDGES, **both)


def drawn(svg):
    """Heights of the bars by name, x of the limits by name, and all words."""
    root = ET.fromstring(svg)  # what is no valid XML raises
    bars = {}
    for bar in root.iter("rect"):
        name, _, count = bar.find("title").text.partition(": ")
        bars.setdefault(name, []).append((count, float(bar.get("height"))))
    limits = {
        group.find("text").text.split()[0]: float(re.match(r"M([\d.]+)", group[0].get("d"))[1])
        for group in root.iter("g")
        if group.get("fill")
    }
    return bars, limits, [text.text for text in root.iter("text")]


def test_range_is_that_of_the_data_and_the_limits():
    svg = draw(
        histogram(baseline={-8.0: 900, -7.0: 9}, artifact={-7.5: 99}), {"max": 2e-6, "p99": 5e-7}
    )
    bars, limits, words = drawn(svg)
    assert [count for count, _ in bars["eager"]] == ["900", "0", "9", "0", "0"]
    assert [count for count, _ in bars["artifact"]] == ["0", "99", "0", "0", "0"]
    heights = [height for _, height in bars["eager"]]
    assert heights[0] > 2 * heights[2] > heights[1] == 0
    assert limits["p99"] < limits["max"]
    assert {"1e-8", "1e-7", "1e-6", "1", "10", "100"} <= set(words)
    assert "absolute error of an element" in words
    assert "elements" in words


def test_exact_elements_are_not_drawn():
    bars, limits, _ = drawn(draw(histogram(artifact={-12.0: 50, -6.0: 3}), {}))
    assert sum(int(count) for count, _ in bars["artifact"]) == 3
    assert limits == {}


@pytest.mark.parametrize("allowed", [{}, {"max": 0.0, "p99": 0.0}, {"max": 5.0, "p99": 1e-20}])
def test_nothing_to_draw_and_limits_outside_are_drawn_all_the_same(allowed):
    bars, limits, _ = drawn(draw(histogram(baseline={-12.0: 50}, artifact={-12.0: 50}), allowed))
    assert all(height == 0 for _, height in bars["artifact"])
    assert all(0 < x < 480 for x in limits.values())

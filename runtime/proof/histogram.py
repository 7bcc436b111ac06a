"""The errors of one output as an SVG image: how many elements have an error of which size."""

from collections.abc import Callable, Iterable, Mapping
from math import ceil, floor, log10

from capsnet.runtime.proof.results import Histogram

__all__ = ["draw"]

_WIDTH, _HEIGHT = 480, 230
_LEFT, _RIGHT, _TOP, _BASE = 66, 462, 34, 180  # of the bars
_FONT = 12.5


def draw(histogram: Histogram, allowed: Mapping[str, float]) -> str:
    """Bars of the artifact's errors beside those of the eager float32 model.

    The first bin holds what is exact, or almost: it is not drawn.

    Args:
        histogram: of the errors; its edges are powers of ten.
        allowed: the limits of the largest and the 99th-percentile error, by ``max`` and ``p99``.

    Returns:
        SVG; colours are the page's.
    """
    limits = {key: log10(allowed[key]) for key in ("max", "p99") if allowed.get(key, 0) > 0}
    first, last = _shown(histogram, limits.values())
    low, high = histogram.edges[first], histogram.edges[last]
    highest = max(*histogram.baseline[first:last], *histogram.artifact[first:last], 1)
    unit = (_RIGHT - _LEFT) / (high - low)

    def across(exponent: float) -> float:
        return _LEFT + (min(max(exponent, low), high) - low) * unit

    def height(count: int) -> float:
        return (_BASE - _TOP) * log10(count + 1) / log10(highest + 1)

    parts = [_scale(highest, height)]
    for number, (name, counts, colour) in enumerate(
        (("eager", histogram.baseline, "--own"), ("artifact", histogram.artifact, "--artifact"))
    ):
        for index in range(first, last):
            start, end = across(histogram.edges[index]), across(histogram.edges[index + 1])
            width, bar = 0.46 * (end - start), height(counts[index])
            parts.append(
                f'<rect x="{start + (0.03 + number * 0.48) * (end - start):.1f}" '
                f'y="{_BASE - bar:.1f}" width="{width:.1f}" height="{bar:.1f}" '
                f'fill="var({colour})"><title>{name}: {counts[index]:,}</title></rect>'
            )
    for row, (key, limit) in enumerate(limits.items()):
        parts.append(_limit(across(limit), row, f"{key} allowed {10**limit:.1e}"))
    parts += [
        _text(across(power), _BASE + 17, f"1e{power}", "middle") for power in _powers(low, high)
    ]
    parts.append(f'<path d="M{_LEFT} {_BASE}H{_RIGHT}" stroke="currentColor"/>')
    parts.append(_text((_LEFT + _RIGHT) / 2, _BASE + 38, "absolute error of an element", "middle"))
    label = "absolute errors; grey: eager float32 model, blue: artifact"
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}" '
        f'font-size="{_FONT}" fill="currentColor">{"".join(parts)}</svg>'
    )


def _shown(histogram: Histogram, limits: Iterable[float]) -> tuple[int, int]:
    """The first bin to draw, and the one behind the last: all that hold a count or a limit."""
    pairs = zip(histogram.baseline, histogram.artifact, strict=True)
    filled = [index for index, pair in enumerate(pairs) if any(pair) and index > 0]
    bins = len(histogram.baseline)
    for limit in limits:
        below = [index for index in range(1, bins) if histogram.edges[index] <= limit]
        filled.append(max(below, default=1))
    if not filled:
        return 1, bins
    first, last = min(filled), max(filled) + 1
    return max(1, min(first, last - 4)), last


def _powers(low: float, high: float) -> list[int]:
    """Powers of ten between two, as many as have room for their labels."""
    powers = list(range(ceil(low), floor(high) + 1))
    return powers[:: ceil(len(powers) / 8)]


def _scale(highest: int, height: Callable[[int], float]) -> str:
    """Lines at 1, 10, 100, ... elements, with their labels."""
    powers = range(floor(log10(highest)) + 1)
    lines = []
    for power in powers[:: ceil(len(powers) / 5)]:
        y = _BASE - height(10**power)
        lines.append(f'<path d="M{_LEFT} {y:.1f}H{_RIGHT}" stroke="var(--line)"/>')
        lines.append(_text(_LEFT - 5, y + 4, f"{10**power:,}", "end"))
    middle = (_TOP + _BASE) / 2
    name = _text(0, 0, "elements", "middle")
    return f'{"".join(lines)}<g transform="translate(11 {middle}) rotate(-90)">{name}</g>'


def _limit(x: float, row: int, name: str) -> str:
    """A line where a budget ends, with its name on the side that has room."""
    y, room = 12 + row * 14, 130
    left = x > _RIGHT - room if row == 0 else x > _LEFT + room  # away from the other's line
    anchor, offset = ("end", -4) if left else ("start", 4)
    dash = ' stroke-dasharray="4 3"' if row else ""
    return (
        f'<g fill="var(--bad)"><path d="M{x:.1f} {y - 10}V{_BASE}" stroke="var(--bad)"{dash}/>'
        f"{_text(x + offset, y, name, anchor)}</g>"
    )


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{words}</text>'

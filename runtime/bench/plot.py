"""Benchmark results as a picture."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from capsnet.errors import DeviceError
from capsnet.runtime.bench.harness import Result
from capsnet.runtime.bench.statistics import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["check_plot", "draw_plot"]

_WIDTH, _HEIGHT, _BAR = 11.0, 5.0, 0.45  # inches
_CAP = 3  # points, of an error bar


@dataclass(frozen=True)
class _Quantity:
    """What a half of the picture shows, computed from a batch size and the seconds of a call."""

    title: str
    of: Callable[[int, float], float]

    def values(self, results: Sequence[Result]) -> tuple[list[float], list[list[float]]]:
        """At the medians, and how far the rounds reach below and above."""
        values, below, above = [], [], []
        for result in results:
            latency = _latency(result)
            value = self.of(result.batch, latency.p50)
            ends = [self.of(result.batch, end) for end in (latency.fastest, latency.slowest)]
            values.append(value)
            below.append(max(0.0, value - min(ends)))
            above.append(max(0.0, max(ends) - value))
        return values, [below, above]


_QUANTITIES = (
    _Quantity("images a second", lambda batch, seconds: batch / seconds),
    _Quantity("milliseconds a call (median)", lambda _, seconds: 1e3 * seconds),
)


def check_plot() -> None:
    """Raise DeviceError where there is nothing to draw a plot with."""
    if importlib.util.find_spec("matplotlib") is None:
        raise DeviceError(
            "a plot is drawn with matplotlib, which is not installed: "
            'pip install "capsnet-export[plot]"'
        )


def draw_plot(results: Sequence[Result], machine: Mapping[str, str], path: Path) -> None:
    """Draw images a second and milliseconds a call: over the batch sizes, or as bars for one.

    Error bars reach from the slowest to the fastest round. What is too noisy for a verdict is
    hollow, and the picture says so.

    Args:
        results: of a benchmark.
        machine: what it ran on, see :func:`capsnet.runtime.bench.machine.describe_machine`.
        path: the PNG file to write.

    Raises:
        DeviceError: if matplotlib is not installed.
    """
    check_plot()
    from matplotlib.figure import Figure

    timed = [result for result in results if result.latency is not None]
    by_name: dict[str, list[Result]] = {result.candidate: [] for result in timed}
    for result in timed:
        by_name[result.candidate].append(result)
    one = len({result.batch for result in timed}) == 1
    height = 2 + _BAR * len(by_name) if one else _HEIGHT
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    for axes, quantity in zip(figure.subplots(1, 2, sharey=one), _QUANTITIES, strict=True):
        (_bars if one else _lines)(axes, by_name, quantity)
        axes.set_title(quantity.title + (f", batch {timed[0].batch}" if one else ""))
        axes.grid(alpha=0.3, axis="x" if one else "both")
    if not one:
        figure.axes[0].set_ylim(bottom=0)
        figure.legend(
            *figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4
        )
        figure.axes[1].set_yscale("log")
    notes = "error bars: slowest to fastest round; " + "; ".join(
        f"{name} {value}" for name, value in machine.items()
    )
    if any(result.noise for result in timed):
        notes = "hollow: TOO NOISY for a verdict; " + notes
    figure.supxlabel(notes, fontsize=7, wrap=True)
    figure.savefig(path, format="png", dpi=120)


def _bars(axes: "Axes", by_name: Mapping[str, Sequence[Result]], quantity: _Quantity) -> None:
    """A bar for each candidate, the first one on top."""
    for index, (name, results) in enumerate(by_name.items()):
        values, errors = quantity.values(results)
        color = f"C{index}"
        axes.barh(
            name,
            values,
            xerr=errors,
            capsize=_CAP,
            edgecolor=color,
            facecolor="none" if results[0].noise else color,
        )
    if not axes.yaxis_inverted():
        axes.invert_yaxis()


def _lines(axes: "Axes", by_name: Mapping[str, Sequence[Result]], quantity: _Quantity) -> None:
    """A line for each candidate over the batch size."""
    for index, (name, results) in enumerate(by_name.items()):
        values, errors = quantity.values(results)
        sizes, color = [result.batch for result in results], f"C{index}"
        axes.errorbar(sizes, values, errors, color=color, capsize=_CAP, label=name)
        faces = ["white" if result.noise else color for result in results]
        axes.scatter(sizes, values, c=faces, edgecolors=color, zorder=3)
    sizes = sorted({result.batch for results in by_name.values() for result in results})
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_xlabel("batch size")


def _latency(result: Result) -> Summary:
    assert result.latency is not None
    return result.latency

"""Benchmark results as a table for a terminal, as CSV, and as a picture."""

import csv
import importlib.util
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from capsnet.errors import DeviceError
from capsnet.runtime.bench.harness import Result
from capsnet.runtime.bench.statistics import Ratio

__all__ = ["bench_table", "check_plot", "draw_plot", "tables_as_markdown", "write_csv"]

_PAGE_WIDTH = 200  # columns


def bench_table(results: Sequence[Result]) -> Table:
    """One row for every candidate and batch size.

    Where the interval of a ratio holds 1, it says that there is no (significant) difference.
    """
    baselines = _baselines(results)
    table = Table(box=None, header_style="bold", pad_edge=False)
    scored = any(result.accuracy is not None for result in results)
    on_gpu = any(result.device_bytes for result in results)
    for heading in (
        *("batch", "candidate", "device"),
        *(["accuracy"] if scored else []),
        *("p50 ms", "p90", "p99", "images/s"),
        *(f"x {name} (99 %)" for name in baselines),
        *("open s", "idle MB", "peak MB"),
        *(["GPU MB"] if on_gpu else []),
    ):
        table.add_column(heading, justify="left" if heading in ("candidate", "device") else "right")
    for result in results:
        first = (str(result.batch), result.candidate, result.device or "")
        if result.latency is None or result.images_per_second is None:
            table.add_row(*first, f"[red]{escape(result.failure or '')}[/]")
            continue
        latency = result.latency
        table.add_row(
            *first,
            *([_share(result.accuracy)] if scored else []),
            *(f"{1e3 * seconds:.2f}" for seconds in (latency.p50, latency.p90, latency.p99)),
            f"{result.images_per_second:.0f}",
            *(_ratio(result.ratios.get(name)) for name in baselines),
            f"{result.open_seconds:.2f}",
            *(f"{(size or 0) / 1e6:.0f}" for size in (result.idle_bytes, result.peak_bytes)),
            *([f"{(result.device_bytes or 0) / 1e6:.0f}"] if on_gpu else []),
        )
    return table


def tables_as_markdown(titled: Mapping[str, Sequence[Result]]) -> str:
    """The tables of several benchmarks, each under its title, as a block of Markdown."""
    console = Console(width=_PAGE_WIDTH, file=io.StringIO(), record=True)
    for title, results in titled.items():
        console.print(f"{title}\n", bench_table(results), "")
    return "".join(f"    {line}".rstrip() + "\n" for line in console.export_text().splitlines())


def _share(accuracy: float | None) -> str:
    return "" if accuracy is None else f"{accuracy:.2%}"


def _baselines(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(name for result in results for name in result.ratios))


def _ratio(ratio: Ratio | None) -> str:
    if ratio is None:
        return ""
    if not ratio.significant:
        return "no significant difference"
    return f"{ratio.estimate:.2f} ({ratio.low:.2f}-{ratio.high:.2f})"


def write_csv(results: Sequence[Result], path: Path) -> None:
    """One line for every candidate and batch size, with seconds and bytes.

    Args:
        results: of a benchmark.
        path: the file to write.
    """
    baselines = _baselines(results)
    rows = [_flat(result, baselines) for result in results]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def check_plot() -> None:
    """Raise DeviceError where there is nothing to draw a plot with."""
    if importlib.util.find_spec("matplotlib") is None:
        raise DeviceError(
            "a plot is drawn with matplotlib, which is not installed: "
            'pip install "capsnet-export[plot]"'
        )


def draw_plot(results: Sequence[Result], path: Path) -> None:
    """Draw images a second and milliseconds an image over the batch size.

    Args:
        results: of a benchmark.
        path: the PNG file to write.

    Raises:
        DeviceError: if matplotlib is not installed.
    """
    check_plot()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    throughput, latency = figure.subplots(1, 2)
    timed = [result for result in results if result.latency is not None]
    sizes = sorted({result.batch for result in timed})
    for name in dict.fromkeys(result.candidate for result in timed):
        own = [result for result in timed if result.candidate == name]
        batches = [result.batch for result in own]
        speeds = [result.images_per_second or 0.0 for result in own]
        calls = [1e3 * result.latency.p50 for result in own if result.latency is not None]
        throughput.plot(batches, speeds, marker="o", label=name)
        latency.plot(batches, calls, marker="o", label=name)
    for axes, title in ((throughput, "images a second"), (latency, "milliseconds a call (median)")):
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.set_xlabel("batch size")
        axes.set_title(title)
        axes.grid(alpha=0.3)
    latency.set_yscale("log")
    throughput.set_ylim(bottom=0)
    throughput.legend()
    figure.savefig(path, format="png", dpi=120)


def _flat(result: Result, baselines: Sequence[str]) -> dict[str, object]:
    latency = result.latency
    row: dict[str, object] = {
        "candidate": result.candidate,
        "batch": result.batch,
        "device": result.device,
        "failure": result.failure,
        "p50_s": latency and latency.p50,
        "p90_s": latency and latency.p90,
        "p99_s": latency and latency.p99,
        "images_per_s": result.images_per_second,
        "accuracy": result.accuracy,
        "open_s": result.open_seconds,
        "idle_bytes": result.idle_bytes,
        "peak_bytes": result.peak_bytes,
        "device_bytes": result.device_bytes,
    }
    for name in baselines:
        ratio = result.ratios.get(name)
        row |= {
            f"ratio_to_{name}": ratio and ratio.estimate,
            f"ratio_to_{name}_low": ratio and ratio.low,
            f"ratio_to_{name}_high": ratio and ratio.high,
        }
    return row

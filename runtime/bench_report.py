"""Benchmark results as a table for a terminal, as CSV, and as a picture."""

import csv
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from capsnet.errors import DeviceError
from capsnet.runtime.benchmark import BASELINE, Result

__all__ = ["bench_table", "draw_plot", "write_csv"]


def bench_table(results: Sequence[Result]) -> Table:
    """One row for every candidate and batch size."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    heads = ("batch", "candidate", "p50 ms", "p90", "p99", "images/s", f"x {BASELINE}", "99 %")
    for heading in (*heads, "open s", "peak MB"):
        table.add_column(heading, justify="left" if heading == "candidate" else "right")
    for result in results:
        first = (str(result.batch), result.candidate)
        if result.latency is None or result.images_per_second is None:
            table.add_row(*first, f"[red]{result.failure}[/]")
            continue
        latency, ratio = result.latency, result.ratio
        interval = "" if ratio is None else f"{ratio.low:.2f}-{ratio.high:.2f}"
        if ratio is not None and not ratio.significant and result.candidate != BASELINE:
            interval = "no significant difference"
        table.add_row(
            *first,
            *(f"{1e3 * seconds:.2f}" for seconds in (latency.p50, latency.p90, latency.p99)),
            f"{result.images_per_second:.0f}",
            "" if ratio is None else f"{ratio.estimate:.2f}",
            interval,
            f"{result.open_seconds:.2f}",
            f"{(result.peak_bytes or 0) / 1e6:.0f}",
        )
    return table


def write_csv(results: Sequence[Result], path: Path) -> None:
    """One line for every candidate and batch size, with seconds and bytes.

    Args:
        results: of a benchmark.
        path: the file to write.
    """
    rows = [_flat(result) for result in results]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def draw_plot(results: Sequence[Result], path: Path) -> None:
    """Draw images a second and milliseconds an image over the batch size.

    Args:
        results: of a benchmark.
        path: the PNG file to write.

    Raises:
        DeviceError: if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DeviceError(
            'the plot is drawn with matplotlib: pip install "capsnet-export[plot]"'
        ) from error
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    throughput, latency = figure.subplots(1, 2)
    for name in dict.fromkeys(result.candidate for result in results):
        timed = [r for r in results if r.candidate == name and r.latency is not None]
        batches = [r.batch for r in timed]
        speeds = [r.images_per_second or 0.0 for r in timed]
        calls = [1e3 * r.latency.p50 for r in timed if r.latency is not None]
        throughput.plot(batches, speeds, marker="o", label=name)
        latency.plot(batches, calls, marker="o", label=name)
    for axes, title in ((throughput, "images a second"), (latency, "milliseconds a call (median)")):
        axes.set_xscale("log", base=2)
        axes.set_xlabel("batch size")
        axes.set_title(title)
        axes.grid(alpha=0.3)
    latency.set_yscale("log")
    throughput.set_ylim(bottom=0)
    throughput.legend()
    figure.savefig(path, format="png", dpi=120)


def _flat(result: Result) -> dict[str, object]:
    latency, ratio = result.latency, result.ratio
    return {
        "candidate": result.candidate,
        "batch": result.batch,
        "device": result.device,
        "failure": result.failure,
        "p50_s": latency and latency.p50,
        "p90_s": latency and latency.p90,
        "p99_s": latency and latency.p99,
        "images_per_s": result.images_per_second,
        "ratio": ratio and ratio.estimate,
        "ratio_low": ratio and ratio.low,
        "ratio_high": ratio and ratio.high,
        "significant": ratio and ratio.significant,
        "open_s": result.open_seconds,
        "idle_bytes": result.idle_bytes,
        "peak_bytes": result.peak_bytes,
    }

"""Benchmark results as a table for a terminal, and as CSV."""

import csv
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from capsnet.runtime.bench.harness import Result

__all__ = ["bench_table", "noise_notes", "write_csv"]


def bench_table(results: Sequence[Result]) -> Table:
    """One row for every candidate and batch size.

    Where the interval of a ratio holds 1, it says that there is no (significant) difference; where
    the timings are no ground for a verdict, that they are too noisy.
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
            *(_ratio(result, name) for name in baselines),
            f"{result.open_seconds:.2f}",
            *(f"{(size or 0) / 1e6:.0f}" for size in (result.idle_bytes, result.peak_bytes)),
            *([f"{(result.device_bytes or 0) / 1e6:.0f}"] if on_gpu else []),
        )
    return table


def noise_notes(results: Sequence[Result]) -> list[str]:
    """A line that says where the machine was too noisy for a verdict; none where it was not."""
    noisy = [r for r in results if r.noise is not None]
    if not noisy:
        return []
    where = "; ".join(f"{r.candidate} at batch {r.batch}: {r.noise}" for r in noisy)
    return [
        f"The machine was too noisy for a verdict ({where}): measure again while nothing else "
        "runs, or with more --rounds"
    ]


def _share(accuracy: float | None) -> str:
    return "" if accuracy is None else f"{accuracy:.2%}"


def _baselines(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(name for result in results for name in result.ratios))


def _ratio(result: Result, baseline: str) -> str:
    ratio = result.ratios.get(baseline)
    if ratio is None:
        return ""
    if result.noise is not None:
        return f"too noisy ({ratio.low:.2f}-{ratio.high:.2f})"
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


def _flat(result: Result, baselines: Sequence[str]) -> dict[str, object]:
    latency = result.latency
    row: dict[str, object] = {
        "candidate": result.candidate,
        "batch": result.batch,
        "device": result.device,
        "failure": result.failure,
        "noise": result.noise,
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

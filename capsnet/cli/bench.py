"""``capsnet bench``: compare speeds, of what is proven."""

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from capsnet.cli.options import (
    FILE,
    Counts,
    Output,
    calibrate_option,
    calibration_images,
    checkpoint_option,
    checkpoint_or_default,
    device_option,
    with_output,
)
from capsnet.errors import ResultError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from capsnet.model import CapsNet
    from capsnet.runtime.bench.harness import Candidate, Part, Result
    from capsnet.runtime.sessions.base import Device

__all__ = ["bench_command"]

_PART_CANDIDATES = {  # what each part is first compared with, and the rest
    "encoder": (
        *("eager", "compile", "torchscript"),
        *("onnx-naive", "onnx-votes", "onnx-direct", "onnx"),
    ),
    "routing": ("onnx-naive", "onnx-votes", "onnx"),
    "training": ("literal", "trainer"),
}
_SCORED_IMAGES = 1000  # that accuracies are counted on
_BENCH_IMAGES = 32  # real images that candidates are proven on, and that batches repeat


@click.command("bench")
@click.argument("artifacts", type=FILE, nargs=-1)
@click.option(
    "--candidate",
    "candidates",
    type=click.Choice(sorted({name for names in _PART_CANDIDATES.values() for name in names})),
    multiple=True,
    help="Built-in candidate; can be repeated.  [default: all of the part]",
)
@checkpoint_option
@click.option(
    "--part",
    type=click.Choice(list(_PART_CANDIDATES)),
    default="encoder",
    show_default=True,
    help="The whole encoder, the routing alone (of ONNX files), or a step of training.",
)
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(["fp16", "int8"]),
    multiple=True,
    help="Add the ONNX artifact in this precision, and show all accuracies; can be repeated.",
)
@click.option("--images", type=FILE, help="Images to run.  [default: MNIST test set]")
@calibrate_option
@click.option(
    "--batch",
    "batches",
    type=Counts(),
    default="1,8,32,128",
    show_default=True,
    help="Batch sizes.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=7),  # with fewer, the bootstrap interval has no useful end
    default=9,
    show_default=True,
    help="How often each candidate is timed.",
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="Of each candidate.  [default: the CPUs that this process may use]",
)
@device_option
@click.option("--csv", "csv_file", type=FILE, help="Write the results as comma-separated values.")
@click.option("--plot", "plot_file", type=FILE, help="Draw throughput and latency (needs [plot]).")
@click.option("--profile", is_flag=True, help="Time the operators of ONNX artifacts, by stage.")
@with_output
def bench_command(
    out: Output,
    artifacts: tuple[Path, ...],
    candidates: tuple[str, ...],
    checkpoint: Path | None,
    part: "Part",
    precisions: tuple[str, ...],
    images: Path | None,
    calibrate: Path | None,
    batches: tuple[int, ...],
    rounds: int,
    threads: int | None,
    device: "Device",
    csv_file: Path | None,
    plot_file: Path | None,
    profile: bool,
) -> None:
    """Compare the speed of artifacts and of everything that could be run instead.

    Every candidate is proven first, and runs in a process of its own. One that computes wrong
    numbers gets no speed. Ratios are to the readable model as it is: in torch ("eager"), and
    exported without lowering and opened in plain onnxruntime ("onnx-naive").
    """

    import torch

    from capsnet.checkpoint import load_checkpoint
    from capsnet.files import atomic_path, file_sha256
    from capsnet.runtime.bench.harness import Candidate, benchmark
    from capsnet.runtime.bench.profile import profile_onnx, profile_table
    from capsnet.runtime.bench.report import bench_table, draw_plot, write_csv
    from capsnet.runtime.certificate import environment
    from capsnet.runtime.proof.reference import EagerModel
    from capsnet.runtime.proof.verification import Request, load_images
    from capsnet.runtime.sessions.opening import artifact_format
    from capsnet.runtime.sessions.threads import usable_cpus

    built_in = _PART_CANDIDATES[part]
    unknown = sorted(set(candidates) - set(built_in))
    if unknown or (artifacts and part == "training"):
        what = ", ".join([*unknown, *map(str, artifacts)])
        raise click.UsageError(f"{what} does not go with --part {part}: use {', '.join(built_in)}")
    if precisions and part != "encoder":
        raise click.UsageError("--precision goes with --part encoder")
    for path in artifacts:
        artifact_format(path)  # raises, before any work is done
    source = checkpoint_or_default(checkpoint)
    model = load_checkpoint(source)
    calibration = calibration_images(calibrate, model.config) if "int8" in precisions else None
    _, few, _ = load_images(Request(source, images, _BENCH_IMAGES), model.config, "")
    scored = None
    if precisions:
        asked = Request(source, images, _SCORED_IMAGES)
        _, many, labels = load_images(asked, model.config, file_sha256(source))
        scored = None if labels is None else (many, labels)
        if scored is None:
            click.echo("note: no labels are known for these images, so no accuracies", err=True)
    with tempfile.TemporaryDirectory() as folder, out.console.status("exporting") as status:
        compared = [
            _built_in(name, model, source, Path(folder))
            for name in built_in
            if name in (candidates or built_in) or name == built_in[0]
        ]
        compared += [
            _built_in(f"onnx-{precision}", model, source, Path(folder), calibration)
            for precision in precisions
        ]
        compared += [Candidate(str(path), "artifact", path) for path in artifacts]
        results = benchmark(
            compared,
            EagerModel(model, torch.float64),
            EagerModel(model, torch.float32),
            model.config,
            few,
            batches=batches,
            rounds=rounds,
            part=part,
            scored=scored,
            device=device,
            threads=threads,
            on_progress=status.update,
        )
        proven = {result.candidate for result in results if result.failure is None}
        profiles = [
            profile_onnx(candidate.name, candidate.path, few, batch, threads)
            for candidate in compared
            if profile and candidate.kind == "artifact" and candidate.name in proven
            if artifact_format(candidate.path) == "onnx"
            for batch in batches
        ]
    out.console.print(bench_table(results))
    for item in profiles:
        out.console.print(profile_table(item))
    if csv_file is not None:
        with atomic_path(csv_file) as temporary:
            write_csv(results, temporary)
    if plot_file is not None:
        with atomic_path(plot_file) as temporary:
            draw_plot(results, temporary)
    out.write_json(
        {
            "results": [dataclasses.asdict(result) for result in results],
            "profiles": [dataclasses.asdict(item) for item in profiles],
            "part": part,
            "rounds": rounds,
            "threads": threads or usable_cpus(),
            "environment": environment(),
        }
    )
    _raise_if_wrong(results)


def _built_in(
    name: str,
    model: "CapsNet",
    checkpoint: Path,
    folder: Path,
    calibration: "npt.NDArray[np.float32] | None" = None,
) -> "Candidate":
    """A built-in candidate of the benchmark; artifacts are exported into the folder."""
    from capsnet.export.formats.onnx import to_naive_onnx, to_onnx
    from capsnet.export.formats.torchscript import to_torchscript
    from capsnet.export.lower import lower
    from capsnet.runtime.bench.harness import Candidate

    path = folder / name
    match name:
        case "onnx":
            to_onnx(lower(model), path)
        case "onnx-naive":
            to_naive_onnx(model, path)
            return Candidate(name, "onnxruntime", path)
        case "onnx-votes":
            to_onnx(lower(model, routing="votes"), path)
        case "onnx-direct":
            to_onnx(lower(model, convolution="direct"), path)
        case "onnx-fp16":
            to_onnx(lower(model, precision="fp16"), path)
        case "onnx-int8":
            to_onnx(lower(model, precision="int8"), path, calibration=calibration)
        case "torchscript":
            to_torchscript(lower(model), path)
        case _:
            return Candidate(name, name, checkpoint)
    return Candidate(name, "artifact", path)


def _raise_if_wrong(results: "Sequence[Result]") -> None:
    """A candidate without a speed is a wrong result; torch.compile may lack its compiler."""
    failed = {
        result.candidate: result.failure
        for result in results
        if result.failure is not None and result.candidate != "compile"
    }
    if failed:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise ResultError(f"no speed for what is not proven: {reasons}")

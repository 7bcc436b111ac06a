"""``capsnet bench``: compare speeds, of what is proven."""

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from capsnet.bundled import checkpoint_file
from capsnet.cli.candidates import BUILT_IN, PARTS, REDUCED, BuiltIn, in_precision
from capsnet.cli.options import (
    CALIBRATED,
    FILE,
    Counts,
    Output,
    OutputFile,
    calibrate_option,
    checkpoint_option,
    device_option,
    reading_options,
    with_output,
)
from capsnet.errors import ResultError
from capsnet.precision import PRECISIONS

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from capsnet.data.options import ImageOptions
    from capsnet.model import CapsNet
    from capsnet.runtime.bench.candidates import Candidate
    from capsnet.runtime.bench.harness import Result, Settings
    from capsnet.runtime.bench.profile import Profile
    from capsnet.runtime.sessions.base import Images

__all__ = ["bench_command"]

_SCORED_IMAGES = 1000  # that accuracies are counted on
_FEWEST_ROUNDS = 7  # with fewer, the bootstrap interval has no useful end


@dataclass(frozen=True)
class _Asked:
    """What to compare, as the command line says it."""

    part: str
    artifacts: tuple[Path, ...]
    names: tuple[str, ...]
    precisions: tuple[str, ...]
    checkpoint: Path
    images: Path | None
    calibrate: Path | None
    reading: "ImageOptions"

    @property
    def calibrated(self) -> bool:
        """Whether a precision takes images to calibrate with."""
        return any(PRECISIONS[name].calibrated for name in self.precisions)

    def built_in(self) -> list[BuiltIn]:
        """The built-in candidates; raise UsageError where something does not go with the part."""
        known = [row for row in BUILT_IN.values() if self.part in row.parts]
        unknown = [name for name in self.names if self.part not in BUILT_IN[name].parts]
        if unknown or (self.artifacts and self.part == "training"):
            what = ", ".join([*unknown, *map(str, self.artifacts)])
            raise click.UsageError(
                f"{what} does not go with --part {self.part}: "
                f"use {', '.join(row.name for row in known)}"
            )
        if self.precisions and self.part != "encoder":
            raise click.UsageError("--precision goes with --part encoder")
        if self.calibrate is not None and not self.calibrated:
            raise click.UsageError(f"--calibrate goes with --precision {CALIBRATED}")
        first = known[0]  # what the others are compared with
        default = [row for row in known if not row.on_request]
        chosen = [row for row in known if row.name in self.names or row is first]
        chosen = chosen if self.names else default
        return [*chosen, *map(in_precision, dict.fromkeys(self.precisions))]


@click.command("bench")
@click.argument("artifacts", type=FILE, nargs=-1)
@click.option(
    "--candidate",
    "names",
    type=click.Choice(sorted(BUILT_IN)),
    multiple=True,
    help="Built-in candidate; can be repeated.  [default: all of the part]",
)
@checkpoint_option
@click.option(
    "--part",
    type=click.Choice(list(PARTS)),
    default=next(iter(PARTS)),
    show_default=True,
    help=f"What to time: {', '.join(PARTS.values())}.",
)
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(REDUCED),
    multiple=True,
    help="Add the ONNX artifact in this precision, and show all accuracies; can be repeated.",
)
@click.option("--images", type=FILE, help="Images to run.  [default: MNIST test set]")
@reading_options
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
    type=click.IntRange(min=_FEWEST_ROUNDS),
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
@click.option(
    "--csv", "csv_file", type=OutputFile(), help="Write the results as comma-separated values."
)
@click.option(
    "--plot",
    "plot_file",
    type=OutputFile(),
    help="Draw throughput and latency (needs [plot]).",
)
@click.option("--profile", is_flag=True, help="Time the operators of ONNX artifacts, by stage.")
@with_output
def bench_command(
    out: Output,
    checkpoint: Path | None,
    batches: tuple[int, ...],
    rounds: int,
    threads: int | None,
    device: Any,
    csv_file: Path | None,
    plot_file: Path | None,
    profile: bool,
    **what: Any,
) -> None:
    """Compare the speed of artifacts and of everything that could be run instead.

    Every candidate is proven first, and runs in a process of its own. One that computes wrong
    numbers gets no speed. Ratios are to the readable model as it is: in torch ("eager"), and
    exported without lowering and opened in plain onnxruntime ("onnx-naive").
    """
    asked = _Asked(checkpoint=checkpoint_file(checkpoint), **what)
    rows = asked.built_in()
    if profile and asked.part == "training":
        others = ", ".join(part for part in PARTS if part != "training")
        raise click.UsageError(f"--profile goes with --part {others}")
    out.reserve({}, {"the checkpoint": asked.checkpoint})
    from capsnet.runtime.bench.harness import Settings
    from capsnet.runtime.bench.machine import describe_machine
    from capsnet.runtime.bench.plot import check_plot
    from capsnet.runtime.bench.profile import profile_table
    from capsnet.runtime.bench.tables import bench_table, noise_notes
    from capsnet.runtime.sessions.threads import usable_cpus

    if plot_file is not None:
        check_plot()
    threads = threads or usable_cpus()
    with out.console.status("exporting") as status:
        settings = Settings(batches, rounds, device, threads, on_progress=status.update)
        results, profiles = _measured(asked, rows, settings, profile)
    machine = describe_machine()
    out.console.print(bench_table(results), *noise_notes(results), sep="\n")
    for item in profiles:
        out.console.print(profile_table(item))
    _write(results, machine, csv_file, plot_file)
    out.write_json(
        {
            "results": [dataclasses.asdict(result) for result in results],
            "profiles": [dataclasses.asdict(item) for item in profiles],
            "part": asked.part,
            "rounds": rounds,
            "threads": threads,
            "environment": machine,
        }
    )
    _raise_if_wrong(results)


def _measured(
    asked: _Asked, rows: Sequence[BuiltIn], settings: "Settings", profiled: bool
) -> tuple["tuple[Result, ...]", "list[Profile]"]:
    """Export the built-in candidates and measure all, in a folder that goes."""
    from capsnet.checkpoint import load_checkpoint
    from capsnet.data.calibration import calibration_images
    from capsnet.runtime.bench.candidates import Artifact
    from capsnet.runtime.bench.harness import IMAGES
    from capsnet.runtime.sessions.opening import artifact_format

    formats = {path: artifact_format(path) for path in asked.artifacts}  # an error, if it is none
    model = load_checkpoint(asked.checkpoint)
    calibration = None
    if asked.calibrated:
        calibration = calibration_images(asked.calibrate, model.config.image_shape, asked.reading)
    images, _ = _images(asked, model, IMAGES)
    with tempfile.TemporaryDirectory() as name:
        candidates = [
            row.make(model, asked.checkpoint, Path(name), calibration) for row in rows
        ] + [Artifact(str(path), path) for path in formats]
        results = _benchmark(asked, model, images, candidates, settings)
        proven = {result.candidate for result in results if result.failure is None}
        files = [
            candidate
            for candidate in candidates
            if profiled and candidate.name in proven and isinstance(candidate, Artifact)
            if artifact_format(candidate.path) == "onnx"
        ]
        return results, _profiles(files, images, settings)


def _benchmark(
    asked: _Asked,
    model: "CapsNet",
    images: "Images",
    candidates: "Sequence[Any]",
    settings: "Settings",
) -> "tuple[Result, ...]":
    """The benchmark of the part that was asked for."""
    import torch

    from capsnet.runtime.bench.encoder import benchmark_encoder
    from capsnet.runtime.bench.routing import benchmark_routing
    from capsnet.runtime.bench.training import benchmark_training
    from capsnet.runtime.proof.reference import EagerModel

    if asked.part == "training":
        return benchmark_training(candidates, images, settings)
    references = (EagerModel(model, torch.float64), EagerModel(model, torch.float32))
    if asked.part == "routing":
        return benchmark_routing(candidates, *references, images, settings)
    scored = _labelled(asked, model) if asked.precisions else None
    return benchmark_encoder(candidates, *references, images, settings, scored=scored)


def _labelled(asked: _Asked, model: "CapsNet") -> "tuple[Images, npt.NDArray[np.int64]] | None":
    """Images with labels; None, and a note, where no labels are known."""
    images, labels = _images(asked, model, _SCORED_IMAGES)
    if labels is None:
        click.echo("note: no labels are known for these images, so no accuracies", err=True)
        return None
    return images, labels


def _images(
    asked: _Asked, model: "CapsNet", samples: int
) -> "tuple[Images, npt.NDArray[np.int64] | None]":
    """The images that were asked for, and their labels where they are known."""
    from capsnet.files import file_sha256
    from capsnet.networks import NetworkSource
    from capsnet.runtime.proof.images import load_images
    from capsnet.runtime.proof.request import Request

    request = Request(NetworkSource(asked.checkpoint), asked.images, samples, reading=asked.reading)
    _, images, labels, *_ = load_images(
        request, model.config, file_sha256(asked.checkpoint), model.about
    )
    return images, labels


def _profiles(
    candidates: "Sequence[Candidate]", images: "Images", settings: "Settings"
) -> "list[Profile]":
    from capsnet.runtime.bench.profile import profile_onnx

    return [
        profile_onnx(candidate.name, candidate.path, images, batch, settings.threads)
        for candidate in candidates
        for batch in settings.batches
    ]


def _write(
    results: "Sequence[Result]",
    machine: Mapping[str, str],
    csv_file: Path | None,
    plot_file: Path | None,
) -> None:
    from capsnet.files import atomic_path
    from capsnet.runtime.bench.plot import draw_plot
    from capsnet.runtime.bench.tables import write_csv

    if csv_file is not None:
        with atomic_path(csv_file) as temporary:
            write_csv(results, temporary)
    if plot_file is not None:
        with atomic_path(plot_file) as temporary:
            draw_plot(results, machine, temporary)


def _raise_if_wrong(results: "Sequence[Result]") -> None:
    """A candidate without a speed is a wrong result, unless the machine lacks what it may lack."""
    failed = {
        result.candidate: result.failure
        for result in results
        if result.failure is not None and not result.excused
    }
    if failed:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise ResultError(f"no speed for what is not proven: {reasons}")

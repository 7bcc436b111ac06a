"""The command line. Only here do export and runtime meet; what loads slowly is imported late."""

import contextlib
import dataclasses
import functools
import itertools
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from capsnet.errors import CapsNetError, ResultError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from rich.console import Console

    from capsnet.artifact import ArtifactMetadata, Precision
    from capsnet.config import CapsNetConfig
    from capsnet.export.onnx import Convolution
    from capsnet.model import CapsNet
    from capsnet.runtime.benchmark import Candidate, Part, Result
    from capsnet.runtime.session import Device
    from capsnet.runtime.verification import Request
    from capsnet.training import Progress as TrainingProgress

__all__ = ["cli", "export_main", "main"]

_STARTED = time.monotonic()  # before anything slow is imported
_INTERRUPTED = 130
_ENVIRONMENT = 3
_FILE_WIDTH = 120  # columns of tables that go to a file or a pipe
_DEFAULT_FILES = {
    "onnx": "capsnet.onnx",
    "torchscript": "capsnet.torchscript.pt",
    "pt2": "capsnet.pt2",
}
_PART_CANDIDATES = {  # what each part is first compared with, and the rest
    "encoder": (
        *("eager", "compile", "torchscript"),
        *("onnx-naive", "onnx-votes", "onnx-direct", "onnx"),
    ),
    "routing": ("onnx-naive", "onnx-votes", "onnx"),
    "training": ("literal", "trainer"),
}
_CALIBRATION_IMAGES = 1024  # ranges hardly move beyond
_SCORED_IMAGES = 1000  # that accuracies are counted on
_BENCH_IMAGES = 32  # real images that candidates are proven on, and that batches repeat
_PRESETS = ("mnist", "cifar10", "tiny")

_T = TypeVar("_T")
_FILE = click.Path(path_type=Path)


class _CountOr(click.ParamType[int | None]):
    """A positive number, or a word that stands for no number."""

    def __init__(self, word: str) -> None:
        self.word = word
        self.name = f"{word}|N"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | None:
        if value is None or value == self.word:
            return None
        if not str(value).isascii() or not str(value).isdigit() or int(value) < 1:
            self.fail(f"{value!r} is neither a positive number nor {self.word!r}.", param, ctx)
        return int(value)


class _Counts(click.ParamType[tuple[int, ...]]):
    """Positive numbers, separated by commas."""

    name = "N,N,..."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        words = str(value).split(",")
        if not all(word.isascii() and word.isdigit() and int(word) > 0 for word in words):
            self.fail(f"{value!r} is not a list of positive numbers, such as 1,8,32.", param, ctx)
        return tuple(int(word) for word in words)


class _Report:
    """Where a command's words go: a person reads the console, a program reads ``--json``."""

    def __init__(self, json_target: str | None) -> None:
        self._target = json_target

    @property
    def to_standard_output(self) -> bool:
        """Whether standard output carries the JSON."""
        return self._target == "-"

    @functools.cached_property
    def console(self) -> "Console":
        """Standard output, unless that carries the JSON."""
        from rich.console import Console

        console = Console(stderr=self.to_standard_output, highlight=False, soft_wrap=True)
        if not console.is_terminal:
            console.width = _FILE_WIDTH
        return console

    def write_json(self, document: Any) -> None:
        """Everything that the command found, where JSON was asked for."""
        if self._target is None:
            return
        text = json.dumps(document, indent=2) + "\n"
        if self.to_standard_output:
            click.echo(text, nl=False)
            return
        from capsnet.files import atomic_path

        with atomic_path(Path(self._target)) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _reporting(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command what every command has: ``--json`` and ``--debug``."""

    @click.option(
        "--json", "json_target", metavar="FILE", help="Write all of it as JSON (-: stdout)."
    )
    @click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks of errors.")
    @functools.wraps(function)
    def command(json_target: str | None, **options: Any) -> None:
        function(report=_Report(json_target), **options)

    return command


_checkpoint = click.option(
    "--checkpoint", type=_FILE, help="Trained weights.  [default: the bundled MNIST model]"
)
_device = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to run; auto takes CUDA where it works.",
)
_calibrate = click.option(
    "--calibrate",
    type=_FILE,
    help="Training images for int8, a file or a folder.  [default: 256 of MNIST]",
)
_images = click.option(
    "--images",
    type=_FILE,
    help="Images to verify on: a file, a folder, or labelled IDX files.  [default: MNIST test set]",
)
_samples = click.option(
    "--samples",
    type=_CountOr("all"),
    default="64",
    show_default=True,
    help="How many of the images to verify on, spread evenly.",
)


def _judging(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command what verification needs to know."""

    @_images
    @_samples
    @click.option("--atol", type=click.FloatRange(min=0), help="Own limit on the errors: absolute.")
    @click.option("--rtol", type=click.FloatRange(min=0), help="And relative to the largest value.")
    @click.option(
        "--report", "page", type=_FILE, metavar="FILE.html", help="Write a page for a person."
    )
    @functools.wraps(function)
    def command(**options: Any) -> None:
        from capsnet.runtime.parity import Tolerance
        from capsnet.runtime.verification import Request

        atol, rtol = options.pop("atol"), options.pop("rtol")
        tolerance = None if atol is None and rtol is None else Tolerance(atol or 0.0, rtol or 0.0)
        request = Request(
            checkpoint=_checkpoint_or_default(options.pop("checkpoint")),
            images=options.pop("images"),
            samples=options.pop("samples"),
            device=options.pop("device"),
            tolerance=tolerance,
            details=options["page"] is not None,
        )
        function(request=request, **options)

    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="capsnet-export", prog_name="capsnet")
def cli() -> None:
    """Capsule networks, from readable PyTorch to a proven production artifact."""


@cli.command("export")
@click.option(
    "--format",
    "formats",
    type=click.Choice(list(_DEFAULT_FILES)),
    multiple=True,
    required=True,
    help="Artifact to write; can be repeated.",
)
@_checkpoint
@click.option(
    "--output", type=_FILE, help="File, or existing folder, to write to.  [default: this folder]"
)
@click.option(
    "--batch",
    type=_CountOr("dynamic"),
    default="dynamic",
    show_default=True,
    help="A fixed batch size, or any.",
)
@click.option(
    "--opset", type=click.IntRange(18, 23), default=18, show_default=True, help="ONNX operator set."
)
@click.option("--reconstruction", is_flag=True, help="Output the decoded image as well.")
@click.option(
    "--routing",
    type=click.Choice(["auto", "projected", "votes"]),
    default="auto",
    show_default=True,
    help="Form of the lowered routing; all are exact.",
)
@click.option(
    "--convolution",
    type=click.Choice(["auto", "direct", "winograd"]),
    default="auto",
    show_default=True,
    help="Form of the primary convolution; both are exact. winograd: ONNX in fp32 only.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8"]),
    default="fp32",
    show_default=True,
    help="Of weights and convolutions; inputs and outputs are always float32. int8: ONNX only.",
)
@_calibrate
@_device
@click.option(
    "--verify/--no-verify", "verified", default=True, help="Prove the file.  [default: verify]"
)
@_judging
@_reporting
def export_command(
    report: _Report,
    request: "Request",
    formats: tuple[str, ...],
    output: Path | None,
    batch: int | None,
    opset: int,
    reconstruction: bool,
    routing: str,
    convolution: "Convolution | Literal['auto']",
    precision: "Precision",
    calibrate: Path | None,
    verified: bool,
    page: Path | None,
) -> None:
    """Export a trained network, and prove that the file computes the same numbers.

    The file appears only after a fresh process has compared it with the original model; its
    certificate, FILE.parity.json, appears beside it.
    """
    from capsnet.files import StagedFile, file_sha256
    from capsnet.runtime.certificate import certificate_path, write_certificate
    from capsnet.runtime.verification import FreshProcess

    if page is not None and not verified:
        raise click.UsageError("--report shows a verification: it does not go with --no-verify")
    if precision == "int8" and set(formats) != {"onnx"}:
        raise click.UsageError("--precision int8 goes with --format onnx alone")
    if convolution == "winograd" and (precision != "fp32" or set(formats) != {"onnx"}):
        raise click.UsageError(
            "--convolution winograd goes with --format onnx --precision fp32 alone"
        )
    if calibrate is not None and precision != "int8":
        raise click.UsageError("--calibrate goes with --precision int8")
    targets = _targets(formats, output)
    with contextlib.ExitStack() as stack:
        staged = {name: stack.enter_context(StagedFile(target)) for name, target in targets.items()}
        # It computes the reference results while this process exports.
        judge = stack.enter_context(FreshProcess(request)) if verified else None
        from capsnet.checkpoint import load_checkpoint
        from capsnet.export.exported_program import to_exported_program
        from capsnet.export.lower import lower
        from capsnet.export.onnx import to_onnx
        from capsnet.export.torchscript import to_torchscript

        model = load_checkpoint(request.checkpoint)
        calibration = _calibration(calibrate, model.config) if precision == "int8" else None
        exporters: dict[str, Callable[..., ArtifactMetadata]] = {
            "onnx": functools.partial(
                to_onnx, opset=opset, convolution=convolution, calibration=calibration
            ),
            "torchscript": to_torchscript,
            "pt2": to_exported_program,
        }
        lowered = lower(
            model,
            reconstruction=reconstruction,
            routing=routing,
            precision="fp16" if precision == "fp16" else "fp32",
        )
        digest = file_sha256(request.checkpoint)
        documents = []
        for name, file in staged.items():
            with report.console.status(f"exporting {targets[name].name}"):
                metadata = exporters[name](
                    lowered, file.path, batch=batch, checkpoint_sha256=digest
                )
            if judge is None:
                documents.append(_unverified(name, file.path, metadata))
            else:
                judge.submit(file.path)
        if judge is not None:
            with (
                report.console.status("verifying"),
                _calling({file.path: targets[name].name for name, file in staged.items()}),
            ):
                documents = judge.documents()
        for document, (name, file) in zip(documents, staged.items(), strict=True):
            document["artifact"]["file"] = targets[name].name
            if document["verdict"] == "fail":
                continue
            file.commit()
            if verified:
                write_certificate(document, targets[name])
            else:  # what lies there was the certificate of the replaced file
                certificate_path(targets[name]).unlink(missing_ok=True)
    _write_page(documents, page)
    seconds = round(time.monotonic() - _STARTED, 2)
    report.write_json({"artifacts": documents, "seconds": seconds})
    _print_verdicts(documents, report)
    report.console.print(f"[dim]{seconds:.1f} s[/]")
    _raise_unless_passed(documents, "no file was written for it")


@cli.command("verify")
@click.argument("artifact", type=_FILE)
@_checkpoint
@_device
@_judging
@click.option("--locate", is_flag=True, help="When it fails, find the first stage that is wrong.")
@click.option("--in-process", is_flag=True, help="Verify in this process, for debugging.")
@_reporting
def verify_command(
    report: _Report,
    artifact: Path,
    request: "Request",
    locate: bool,
    in_process: bool,
    page: Path | None,
) -> None:
    """Prove again that an artifact computes the same numbers as its checkpoint.

    Writes the certificate ARTIFACT.parity.json, whatever the verdict.
    """
    from capsnet.runtime.certificate import write_certificate
    from capsnet.runtime.verification import FreshProcess, Judge

    with report.console.status(f"verifying {artifact.name}"):
        if in_process:
            document = Judge(request).judge(artifact)
        else:
            with FreshProcess(request) as judge:
                judge.submit(artifact)
                [document] = judge.documents()
    write_certificate(document, artifact)  # first: what follows may fail, the verdict stands
    if locate and document["verdict"] == "fail":
        document["stages"] = _locate(request, artifact, document["artifact"]["format"])
    _write_page([document], page)
    report.write_json(document)
    _print_verdicts([document], report)
    _raise_unless_passed([document], "do not use this file; export it again")


@cli.command("inspect")
@click.argument("artifact", type=_FILE)
@_device
@_reporting
def inspect_command(report: _Report, artifact: Path, device: "Device") -> None:
    """Show what an artifact says about itself, and where its nodes run."""
    from rich.markup import escape

    from capsnet.files import file_sha256
    from capsnet.runtime.session import open_session

    session = open_session(artifact, device)
    document: dict[str, Any] = {
        "file": artifact.name,
        "format": session.format,
        "bytes": artifact.stat().st_size,
        "sha256": file_sha256(artifact),
        "device": session.device,
        "device_reason": session.device_reason,
        "providers": session.providers(),
        "metadata": session.metadata.to_dict(),
    }
    report.write_json(document)
    metadata = document.pop("metadata")
    for key, value in (document | metadata).items():
        text = value if isinstance(value, str) else json.dumps(value)
        report.console.print(f"[bold]{key:20}[/] {escape(text)}")


@cli.command("predict")
@click.argument("artifact", type=_FILE)
@click.argument("inputs", type=_FILE, nargs=-1, required=True)
@click.option("--output", type=_FILE, help="File to write.  [default: standard output]")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["csv", "jsonl"]),
    default="csv",
    show_default=True,
    help="Comma-separated values, or one JSON object a line.",
)
@click.option("--certified", is_flag=True, help="Refuse an artifact that is not proven.")
@_device
@_reporting
def predict_command(
    report: _Report,
    artifact: Path,
    inputs: tuple[Path, ...],
    output: Path | None,
    output_format: str,
    certified: bool,
    device: "Device",
) -> None:
    """Classify images: PNG, JPEG, folders of them, .npy, .npz and IDX files.

    Gives one row an image: its source, the class, and the length of every class capsule. Any number
    of images is read as a stream.
    """
    from capsnet.files import atomic_path
    from capsnet.runtime.inputs import count_images, stream_images
    from capsnet.runtime.prediction import predict, write_csv, write_jsonl
    from capsnet.runtime.session import open_session

    if output is None and report.to_standard_output:
        raise click.UsageError(
            "--json - and the predictions would share standard output: give --output"
        )
    write = {"csv": write_csv, "jsonl": write_jsonl}[output_format]
    session = open_session(artifact, device, require_certificate=certified)
    for note in session.notes:
        click.echo(f"note: {note}", err=True)
    image_shape = session.metadata.config.image_shape
    images = _with_progress_bar(
        stream_images(inputs, image_shape), count_images(inputs, image_shape), "predicting"
    )
    if output is None:
        count = write(predict(session, images), sys.stdout)
    else:
        with (
            atomic_path(output) as temporary,
            temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
        ):
            count = write(predict(session, images), file)
        report.console.print(f"{count} predictions in {output}", markup=False)
    report.write_json(
        {
            "artifact": artifact.name,
            "device": session.device,
            "device_reason": session.device_reason,
            "predictions": count,
        }
    )


@cli.command("bench")
@click.argument("artifacts", type=_FILE, nargs=-1)
@click.option(
    "--candidate",
    "candidates",
    type=click.Choice(sorted({name for names in _PART_CANDIDATES.values() for name in names})),
    multiple=True,
    help="Built-in candidate; can be repeated.  [default: all of the part]",
)
@_checkpoint
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
@click.option("--images", type=_FILE, help="Images to run.  [default: MNIST test set]")
@_calibrate
@click.option(
    "--batch",
    "batches",
    type=_Counts(),
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
@_device
@click.option("--csv", "csv_file", type=_FILE, help="Write the results as comma-separated values.")
@click.option("--plot", "plot_file", type=_FILE, help="Draw throughput and latency (needs [plot]).")
@click.option("--profile", is_flag=True, help="Time the operators of ONNX artifacts, by stage.")
@_reporting
def bench_command(
    report: _Report,
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
    import tempfile

    import torch

    from capsnet.checkpoint import load_checkpoint
    from capsnet.files import atomic_path, file_sha256
    from capsnet.runtime.bench_report import bench_table, draw_plot, write_csv
    from capsnet.runtime.benchmark import Candidate, benchmark
    from capsnet.runtime.certificate import environment
    from capsnet.runtime.eager import EagerModel
    from capsnet.runtime.profile import profile_onnx, profile_table
    from capsnet.runtime.threads import usable_cpus
    from capsnet.runtime.verification import Request, load_images

    built_in = _PART_CANDIDATES[part]
    unknown = sorted(set(candidates) - set(built_in))
    if unknown or (artifacts and part == "training"):
        what = ", ".join([*unknown, *map(str, artifacts)])
        raise click.UsageError(f"{what} does not go with --part {part}: use {', '.join(built_in)}")
    if precisions and part != "encoder":
        raise click.UsageError("--precision goes with --part encoder")
    source = _checkpoint_or_default(checkpoint)
    model = load_checkpoint(source)
    calibration = _calibration(calibrate, model.config) if "int8" in precisions else None
    _, few, _ = load_images(Request(source, images, _BENCH_IMAGES), model.config, "")
    scored = None
    if precisions:
        asked = Request(source, images, _SCORED_IMAGES)
        _, many, labels = load_images(asked, model.config, file_sha256(source))
        scored = None if labels is None else (many, labels)
        if scored is None:
            click.echo("note: no labels are known for these images, so no accuracies", err=True)
    with tempfile.TemporaryDirectory() as folder, report.console.status("exporting") as status:
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
            if _is_onnx(candidate.path)
            for batch in batches
        ]
    report.console.print(bench_table(results))
    for item in profiles:
        report.console.print(profile_table(item))
    if csv_file is not None:
        with atomic_path(csv_file) as temporary:
            write_csv(results, temporary)
    if plot_file is not None:
        with atomic_path(plot_file) as temporary:
            draw_plot(results, temporary)
    report.write_json(
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


@cli.command("train")
@click.option("--data", type=_FILE, required=True, help="Folder with the IDX files of both splits.")
@click.option("--output", type=_FILE, required=True, help="Checkpoint to write (.safetensors).")
@click.option("--preset", type=click.Choice(_PRESETS), default="mnist", show_default=True)
@click.option("--epochs", type=click.IntRange(min=1), default=10, show_default=True)
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True)
@click.option(
    "--learning-rate",
    type=click.FloatRange(min=0, min_open=True),
    default=1e-3,
    show_default=True,
    help="Peak rate of Adam.",
)
@click.option(
    "--shift",
    type=click.IntRange(min=0),
    default=2,
    show_default=True,
    help="Largest random translation, in pixels.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--init", type=_FILE, help="Start from the weights of this checkpoint.")
@click.option("--resume", is_flag=True, help="Continue the interrupted run of this output.")
@_device
@_reporting
def train_command(
    report: _Report,
    data: Path,
    output: Path,
    preset: str,
    init: Path | None,
    resume: bool,
    device: str,
    **options: Any,
) -> None:
    """Train a capsule network; the best epoch is kept, and an interrupted run can be resumed."""
    import torch

    from capsnet.checkpoint import load_checkpoint
    from capsnet.config import PRESETS
    from capsnet.data import load_split
    from capsnet.errors import DeviceError
    from capsnet.training import TrainingConfig, state_path, train

    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceError("torch finds no CUDA device here; use --device cpu or auto")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    config = TrainingConfig(**options)
    splits = load_split(data, "train"), load_split(data, "t10k")
    with _training_display(report, config.epochs) as on_progress:
        try:
            history = train(
                PRESETS[preset],
                config,
                *splits,
                output,
                device=torch.device(device),
                initial=None if init is None else load_checkpoint(init),
                resume=resume,
                on_progress=on_progress,
            )
        except KeyboardInterrupt:
            report.console.print(
                f"interrupted; the run is saved in {state_path(output)}. "
                "Give the same command with --resume to continue.",
                markup=False,
            )
            raise
    best = f"best test accuracy {max(history):.2%}, written to {output}"
    report.console.print(best, markup=False)
    report.write_json({"output": str(output), "device": device, "test_accuracy": history})


@cli.command("doctor")
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="What must work: with cuda, its absence is a problem, too.",
)
@_reporting
def doctor_command(report: _Report, device: str) -> None:
    """Show what is installed, and whether it can do what it promises."""
    from rich.markup import escape

    from capsnet.errors import DeviceError
    from capsnet.runtime.doctor import examine

    findings = examine(cuda=device == "cuda")
    report.write_json({"findings": [dataclasses.asdict(finding) for finding in findings]})
    colours = {"good": "green", "note": "yellow", "problem": "red"}
    for finding in findings:
        mark = f"[{colours[finding.status]}]{finding.status:8}[/]"
        advice = f"; {finding.advice}" if finding.status == "problem" and finding.advice else ""
        text = escape(f"{finding.detail}{advice}")
        report.console.print(f"{mark}[bold]{escape(finding.subject):32}[/] {text}")
    problems = [finding.subject for finding in findings if finding.status == "problem"]
    if problems:
        raise DeviceError(f"what is installed cannot do what it promises: {', '.join(problems)}")


def main(arguments: list[str] | None = None) -> None:
    """Run ``capsnet``; ends the process with the documented exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        code = cli.main(arguments, prog_name="capsnet", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        code = _INTERRUPTED
    except Exception as error:  # every error is one message; --debug shows where it came from
        if "--debug" in arguments:
            traceback.print_exc()
        code, message = _explain(error)
        click.echo(f"error: {message}", err=True)
    sys.exit(code)


def export_main() -> None:
    """Run ``capsnet-export``, which is ``capsnet export``."""
    main(["export", *sys.argv[1:]])


def _explain(error: Exception) -> tuple[int, str]:
    if isinstance(error, CapsNetError):
        return error.exit_code, str(error)
    if isinstance(error, MemoryError):
        return _ENVIRONMENT, "out of memory; use fewer images at once, or a larger machine"
    if isinstance(error, OSError):
        return _ENVIRONMENT, f"{error.filename or 'a file'}: {error.strerror or error}"
    return _ENVIRONMENT, f"unexpected {type(error).__name__}: {error}; --debug shows the traceback"


@contextlib.contextmanager
def _calling(names: dict[Path, str]) -> Iterator[None]:
    """Call staged files by their final names in errors."""
    try:
        yield
    except CapsNetError as error:
        message = str(error)
        for path, name in names.items():
            message = message.replace(str(path), name)
        raise type(error)(message) from error


def _checkpoint_or_default(checkpoint: Path | None) -> Path:
    from capsnet.data import ASSETS

    return checkpoint or ASSETS / "mnist.safetensors"


def _targets(formats: tuple[str, ...], output: Path | None) -> dict[str, Path]:
    """The file of each format, in the order given."""
    unique = tuple(dict.fromkeys(formats))
    if output is not None and not output.is_dir():
        if len(unique) > 1:
            raise click.UsageError(
                f"--output {output} is not a folder: several formats need an existing folder"
            )
        return {unique[0]: output}
    folder = output or Path()
    return {name: folder / _DEFAULT_FILES[name] for name in unique}


def _calibration(source: Path | None, config: "CapsNetConfig") -> "npt.NDArray[np.float32]":
    """The images that int8 is calibrated with."""
    import numpy as np

    from capsnet.data import mnist_calibration_images
    from capsnet.errors import DataError
    from capsnet.runtime.inputs import stream_images

    if source is not None:
        stream = stream_images([source], config.image_shape)
        chosen = [image for _, image in itertools.islice(stream, _CALIBRATION_IMAGES)]
        return np.stack(chosen) if chosen else np.empty((0, *config.image_shape), np.float32)
    if config.image_shape != (1, 28, 28):
        raise DataError(
            f"the network takes {list(config.image_shape)} images, so the bundled MNIST images "
            "cannot calibrate it: give training images with --calibrate"
        )
    return mnist_calibration_images()


def _built_in(
    name: str,
    model: "CapsNet",
    checkpoint: Path,
    folder: Path,
    calibration: "npt.NDArray[np.float32] | None" = None,
) -> "Candidate":
    """A built-in candidate of the benchmark; artifacts are exported into the folder."""
    from capsnet.export.lower import lower
    from capsnet.export.onnx import to_naive_onnx, to_onnx
    from capsnet.export.torchscript import to_torchscript
    from capsnet.runtime.benchmark import Candidate

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
            to_onnx(lower(model), path, convolution="direct")
        case "onnx-fp16":
            to_onnx(lower(model, precision="fp16"), path)
        case "onnx-int8":
            to_onnx(lower(model), path, calibration=calibration)
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


def _is_onnx(path: Path) -> bool:
    from capsnet.runtime.session import artifact_format

    return artifact_format(path) == "onnx"


def _locate(request: "Request", artifact: Path, artifact_format: str) -> list[dict[str, Any]]:
    """Judge every stage: of the graph for ONNX, of the lowered module for torch's formats."""
    import numpy as np
    import torch

    from capsnet.checkpoint import load_checkpoint
    from capsnet.export.lower import lower
    from capsnet.files import file_sha256
    from capsnet.runtime.locate import locate, onnx_stages
    from capsnet.runtime.session import open_session
    from capsnet.runtime.verification import load_images

    model = load_checkpoint(request.checkpoint)
    metadata = open_session(artifact, "cpu").metadata
    batch = metadata.inputs[0].shape[0]
    count = batch if isinstance(batch, int) else 8
    few = dataclasses.replace(request, samples=count)
    _, images, _ = load_images(few, model.config, file_sha256(request.checkpoint))
    if isinstance(batch, int):
        images = images[np.arange(count) % len(images)]
    if artifact_format == "onnx":
        found = onnx_stages(artifact, images)
    else:
        reconstruction = len(metadata.outputs) == 3
        lowered = lower(
            model,
            reconstruction=reconstruction,
            routing=metadata.routing,
            precision="fp16" if metadata.precision == "fp16" else "fp32",
        )
        stages = lowered.stages(torch.from_numpy(images))
        found = {name: stage.numpy() for name, stage in stages.items()}
    return [dataclasses.asdict(stage) for stage in locate(model, found, images, metadata)]


def _write_page(documents: list[dict[str, Any]], page: Path | None) -> None:
    """Write the report page where one was asked for; its details go nowhere else."""
    from capsnet.files import atomic_path

    if page is not None:
        from capsnet.runtime.html_report import render

        with atomic_path(page) as temporary:
            temporary.write_text(render(documents), encoding="utf-8")
    for document in documents:
        document.pop("details", None)


def _unverified(name: str, path: Path, metadata: "ArtifactMetadata") -> dict[str, Any]:
    from capsnet.files import file_sha256

    return {
        "verdict": "not verified",
        "artifact": {
            "file": path.name,
            "bytes": path.stat().st_size,
            "sha256": file_sha256(path),
            "format": name,
            "metadata": metadata.to_dict(),
        },
    }


def _print_verdicts(documents: list[dict[str, Any]], report: _Report) -> None:
    from capsnet.runtime.report import parity_table, stage_lines, summary_lines

    verified = [document for document in documents if "parity" in document]
    if verified:
        report.console.print(parity_table(verified))
    for document in documents:
        for line in summary_lines(document):
            report.console.print(line)
        if "stages" in document:
            report.console.print(stage_lines(document["stages"]))


def _raise_unless_passed(documents: list[dict[str, Any]], advice: str) -> None:
    failed = [document for document in documents if document["verdict"] == "fail"]
    if failed:
        names = ", ".join(document["artifact"]["file"] for document in failed)
        raise ResultError(
            f"{names} does not compute the same numbers as its checkpoint, see above; {advice}"
        )


def _with_progress_bar(items: Iterable[_T], total: int | None, task: str) -> Iterator[_T]:
    from rich.console import Console
    from rich.progress import track

    return iter(track(items, task, total=total, console=Console(stderr=True), transient=True))


@contextlib.contextmanager
def _training_display(
    report: _Report, epochs: int
) -> Iterator[Callable[["TrainingProgress"], None]]:
    """A progress bar over all steps, and a line after each epoch."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}  accuracy {task.fields[accuracy]:.2%}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=report.console) as bar:
        task = bar.add_task("", total=None, epoch=1, epochs=epochs, loss=0.0, accuracy=0.0)

        def show(now: "TrainingProgress") -> None:
            bar.update(
                task,
                completed=(now.epoch - 1) * now.steps_per_epoch + now.step,
                total=epochs * now.steps_per_epoch,
                epoch=now.epoch,
                loss=now.loss,
                accuracy=now.accuracy,
            )
            if now.test_accuracy is not None:
                bar.console.print(
                    f"epoch {now.epoch}: loss {now.loss:.4f}, accuracy {now.accuracy:.2%}, "
                    f"test accuracy {now.test_accuracy:.2%}"
                )

        yield show

"""``capsnet predict``: classify images with an artifact; what loads slowly is not imported."""

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

from capsnet.cli.options import (
    FILE,
    STANDARD_OUTPUT,
    FiniteRange,
    Output,
    OutputFile,
    device_option,
    reading_options,
    strict_option,
    warn_of_odd_images,
    with_output,
)
from capsnet.cli.streams import check_standard_output
from capsnet.errors import DataError, counted
from capsnet.runtime.certificate import certificate_path

if TYPE_CHECKING:
    from capsnet.data.options import ImageOptions
    from capsnet.data.stream import Sample
    from capsnet.runtime.guard import Guard
    from capsnet.runtime.resumable import PartialFile
    from capsnet.runtime.rows import Shown
    from capsnet.runtime.scores import Scores
    from capsnet.runtime.sessions.base import Device, Session

    Images = Iterator[Sample]

__all__ = ["predict_command"]

_T = TypeVar("_T")

_SUFFIXES = {"csv": (".csv",), "jsonl": (".jsonl", ".ndjson"), "parquet": (".parquet",)}
"""Forms of the rows, and the suffixes of their files."""


@click.command("predict")
@click.argument("artifact", type=FILE)
@click.argument("inputs", type=FILE, nargs=-1, required=True)
@click.option(
    "--output",
    type=OutputFile(allow_dash=True),
    default="-",
    show_default=True,
    help="File to write (-: stdout).",
)
@click.option(
    "--format",
    "output_format",
    type=click.Choice(list(_SUFFIXES)),
    help="Comma-separated values, JSON lines, or Parquet (needs [parquet]).  [default: by the "
    "suffix of --output]",
)
@click.option(
    "--top", type=click.IntRange(min=1), help="Show the N longest capsules.  [default: all]"
)
@click.option(
    "--min-length",
    type=FiniteRange(0, 1),
    default=0.0,
    show_default=True,
    help="Give no class to an image whose longest capsule is shorter.",
)
@click.option("--certified", is_flag=True, help="Refuse an artifact that is not proven.")
@click.option(
    "--skip-unreadable",
    "skips",
    is_flag=True,
    help="Leave out images that cannot be read, and list them.",
)
@click.option(
    "--resume", is_flag=True, help="Continue the interrupted run of this --output, if there is one."
)
@strict_option
@reading_options
@device_option
@with_output
def predict_command(
    out: Output,
    artifact: Path,
    inputs: tuple[Path, ...],
    output: Path,
    output_format: str | None,
    top: int | None,
    min_length: float,
    certified: bool,
    skips: bool,
    resume: bool,
    strict: bool,
    reading: "ImageOptions",
    device: "Device",
) -> None:
    """Classify images: PNG, JPEG, BMP, WebP, folders of them, .npy, .npz and IDX files, data sets.

    Gives one row an image: its source, the class and its name, and the length of every class
    capsule. Any number of images is read as a stream. Until the last row is there, the rows are in
    OUTPUT.partial.
    Where subfolders or labels name the true classes, it says how many are right.
    """
    from capsnet.runtime.resumable import PartialFile, partial_path
    from capsnet.runtime.rows import Shown
    from capsnet.runtime.sessions.opening import open_session

    form = output_format or _by_suffix(output)
    if output == STANDARD_OUTPUT:
        _check_standard_output(out, resume, form)
    else:
        out.reserve({"the partial file": partial_path(output)})
    out.reserve({}, {"the certificate": certificate_path(artifact)} if certified else {})
    _check_form(form)
    session = open_session(artifact, device, require_certificate=certified)
    for note in session.notes:
        click.echo(f"note: {note}", err=True)
    skipped: list[dict[str, str]] = []

    def note_skipped(source: str, error: DataError) -> None:
        skipped.append({"source": source, "reason": str(error)})
        click.echo(f"note: skipped {source}: {error}", err=True)

    images = _images(session, inputs, reading, note_skipped if skips else None)
    rows = _Rows.of(session, form, Shown(session.metadata.class_names, top, min_length))
    if output == STANDARD_OUTPUT:
        count, resumed = rows.write(images, sys.stdout), 0
    else:
        run = {"artifact_sha256": session.sha256, "device": session.device}
        changed = {"reading": reading, "shown": rows.shown}
        run |= {name: str(value) for name, value in changed.items() if value != type(value)()}
        partial = PartialFile(output, run, rows.partial_form, resume=resume)
        count, resumed = _write_resumably(rows, images, partial)
    if count == 0 and skipped:
        first = skipped[0]["reason"]
        raise DataError(f"no image can be read; the first of {len(skipped)}: {first}")
    if output != STANDARD_OUTPUT:
        out.console.print(f"{counted(count, 'prediction')} in {output}", markup=False)
    if skipped:
        click.echo(f"note: {counted(len(skipped), 'image')} skipped", err=True)
    _print_accuracy(rows.scores)
    found = {"predictions": count, "resumed": resumed, "skipped": skipped}
    out.write_json(_about(artifact, rows) | found)
    warn_of_odd_images(rows.warnings, strict)


def _about(artifact: Path, rows: "_Rows") -> dict[str, Any]:
    """What the JSON says of the artifact, of its accuracy, and of the images."""
    session, scores = rows.session, rows.scores
    return {
        "artifact": artifact.name,
        "device": session.device,
        "device_reason": session.device_reason,
        "class_names": list(session.metadata.class_names),
        "scored": scores.count,
        "accuracy": scores.accuracy,
        "confusion": scores.confusion.tolist() if scores.count else None,
        "warnings": rows.warnings,
    }


def _images(
    session: "Session",
    inputs: tuple[Path, ...],
    reading: "ImageOptions",
    on_unreadable: Callable[[str, DataError], None] | None,
) -> "Images":
    """The images of all inputs, with a progress bar."""
    from capsnet.data.stream import count_images, stream_samples

    metadata = session.metadata
    shape = metadata.image_shape
    skips = on_unreadable is not None
    return _with_progress_bar(
        stream_samples(
            inputs,
            shape,
            on_unreadable,
            names=metadata.class_names,
            classes=metadata.classes,
            options=reading,
        ),
        count_images(inputs, shape, skip_unreadable=skips, options=reading),
        "predicting",
    )


def _print_accuracy(scores: "Scores") -> None:
    """Say how many predictions are right, of those whose true class is known."""
    if scores.accuracy is not None:
        right = int(scores.confusion.trace())
        of = counted(scores.count, "image")
        click.echo(f"accuracy {scores.accuracy:.2%}: {right} of {of} with a known class", err=True)


def _by_suffix(output: Path) -> str:
    """The form of rows that a file's suffix names; comma-separated values, if none."""
    suffix = output.suffix.lower()
    return next((form for form, known in _SUFFIXES.items() if suffix in known), "csv")


def _check_form(form: str) -> None:
    """Raise OutputError where rows of this form cannot be written."""
    if form == "parquet":
        from capsnet.runtime.rows import check_parquet

        check_parquet()


def _check_standard_output(out: Output, resume: bool, form: str) -> None:
    """Raise an error where the predictions cannot be written to standard output."""
    if out.to_standard_output:
        raise click.UsageError(
            "--json - and the predictions would share standard output: give --output"
        )
    if resume:
        raise click.UsageError("--resume continues a file: give its --output")
    if form == "parquet":
        raise click.UsageError("Parquet is no text: give its --output")
    check_standard_output()


@dataclass(frozen=True)
class _Rows:
    """How predictions become rows.

    Attributes:
        session: what predicts.
        form: of the rows, one of :data:`_SUFFIXES`.
        shown: what they show.
        scores: counts them where their true classes are known.
        guard: watches the images, where it is known what the training images looked like.
    """

    session: "Session"
    form: str
    shown: "Shown"
    scores: "Scores"
    guard: "Guard | None"

    @classmethod
    def of(cls, session: "Session", form: str, shown: "Shown") -> "_Rows":
        """The rows of a run that has not begun."""
        from capsnet.runtime.guard import Guard
        from capsnet.runtime.scores import Scores

        inputs = session.metadata.training_inputs
        guard = None if inputs is None else Guard(inputs)
        return cls(session, form, shown, Scores(session.metadata.classes), guard)

    @property
    def warnings(self) -> list[str]:
        """What is odd about the images so far."""
        odd = None if self.guard is None else self.guard.finding()
        return [] if odd is None else [odd]

    @property
    def partial_form(self) -> str:
        """The form of the rows until all are there: a Parquet file is made of CSV."""
        return "csv" if self.form == "parquet" else self.form

    def write(self, images: "Images", file: TextIO, *, header: bool = True) -> int:
        """Write the predictions for the images; how many there are."""
        from capsnet.runtime.predict import predict
        from capsnet.runtime.rows import write_csv, write_jsonl

        predictions = self.scores.counted(predict(self.session, images, guard=self.guard))
        if self.form == "jsonl":
            return write_jsonl(predictions, file, self.shown)
        return write_csv(predictions, file, self.shown, header=header)


def _write_resumably(rows: _Rows, images: "Images", partial: "PartialFile") -> tuple[int, int]:
    """Write predictions to a file that stays if this is interrupted, and say so.

    Returns:
        How many predictions there are, and how many of them were there before.
    """
    from capsnet.runtime.predict import BATCH_SIZE
    from capsnet.runtime.rows import csv_to_parquet

    writing = False
    try:
        with partial:
            kept, left = partial.skip(images, BATCH_SIZE)
            writing = True
            count = kept + rows.write(left, partial.file, header=kept == 0)
            if count:
                partial.finish(csv_to_parquet if rows.form == "parquet" else None)
            return count, kept
    except BaseException:
        if writing and partial.holds_rows:
            click.echo(
                f"note: the predictions so far are in {partial.path}; give the same command with "
                "--resume to continue",
                err=True,
            )
        raise


def _with_progress_bar(items: Iterable[_T], total: int | None, task: str) -> Iterator[_T]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    hidden = not console.is_terminal
    return iter(track(items, task, total, console=console, transient=True, disable=hidden))

"""``capsnet predict``: classify images with an artifact; what loads slowly is not imported."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from capsnet.cli.options import FILE, Output, OutputFile, device_option, with_output
from capsnet.cli.streams import check_standard_output

if TYPE_CHECKING:
    from capsnet.runtime.sessions.base import Device

__all__ = ["predict_command"]

_T = TypeVar("_T")


@click.command("predict")
@click.argument("artifact", type=FILE)
@click.argument("inputs", type=FILE, nargs=-1, required=True)
@click.option("--output", type=OutputFile(), help="File to write.  [default: standard output]")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["csv", "jsonl"]),
    default="csv",
    show_default=True,
    help="Comma-separated values, or one JSON object a line.",
)
@click.option("--certified", is_flag=True, help="Refuse an artifact that is not proven.")
@device_option
@with_output
def predict_command(
    out: Output,
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
    from capsnet.data.stream import count_images, stream_images
    from capsnet.files import atomic_path
    from capsnet.runtime.predict import predict, write_csv, write_jsonl
    from capsnet.runtime.sessions.opening import open_session

    if output is None and out.to_standard_output:
        raise click.UsageError(
            "--json - and the predictions would share standard output: give --output"
        )
    if output is None:
        check_standard_output()
    write = {"csv": write_csv, "jsonl": write_jsonl}[output_format]
    session = open_session(artifact, device, require_certificate=certified)
    for note in session.notes:
        click.echo(f"note: {note}", err=True)
    image_shape = session.metadata.image_shape
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
        out.console.print(f"{count} predictions in {output}", markup=False)
    out.write_json(
        {
            "artifact": artifact.name,
            "device": session.device,
            "device_reason": session.device_reason,
            "predictions": count,
        }
    )


def _with_progress_bar(items: Iterable[_T], total: int | None, task: str) -> Iterator[_T]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    hidden = not console.is_terminal
    return iter(track(items, task, total, console=console, transient=True, disable=hidden))

"""``capsnet show``: a page of what a network sees."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from capsnet.cli.options import (
    FILE,
    CountOr,
    Output,
    OutputFile,
    device_option,
    with_output,
)

if TYPE_CHECKING:
    from capsnet.runtime.sessions.base import Device
    from capsnet.runtime.show.results import Shown

__all__ = ["show_command"]


@click.command("show")
@click.argument("network", type=FILE, required=False)
@click.option(
    "--images",
    type=FILE,
    help="Images to show: a file, a folder, or labelled IDX files.  [default: MNIST test set]",
)
@click.option(
    "--samples",
    type=CountOr("all"),
    default="1000",
    show_default=True,
    help="How many of the images to classify, spread evenly.",
)
@click.option(
    "--output",
    type=OutputFile(),
    metavar="FILE.html",
    default="capsnet-show.html",
    show_default=True,
    help="Page to write.",
)
@click.option("--png", is_flag=True, help="Write each part as a PNG file as well, beside the page.")
@device_option
@with_output
def show_command(
    out: Output,
    network: Path | None,
    images: Path | None,
    samples: int | None,
    output: Path,
    png: bool,
    device: "Device",
) -> None:
    """Draw what a network sees, as one HTML page.

    NETWORK is a checkpoint, the name of a bundled one (default: mnist), or an artifact, which lacks
    some of it. The page has the reconstructions, what each value of the class capsules stands for,
    the couplings of the routing iterations, and what is taken for what.
    """
    from capsnet.bundled import checkpoint_file
    from capsnet.files import atomic_path
    from capsnet.networks import NetworkSource
    from capsnet.runtime.proof.request import Request
    from capsnet.runtime.show.files import shown_of
    from capsnet.runtime.show.page import render
    from capsnet.runtime.show.sheets import SHEETS

    path = checkpoint_file(network)
    pictures = {part: output.with_suffix(f".{part}.png") for part in SHEETS if png}
    out.reserve({f"the {part} file": p for part, p in pictures.items()}, {"the network": path})
    with out.console.status(f"running {path.name}"):
        shown = shown_of(path, Request(NetworkSource(path), images, samples, device))
    with atomic_path(output) as temporary:
        temporary.write_text(render(shown), encoding="utf-8")
    written = [output, *_write_pictures(shown, pictures)]
    out.write_json(_document(shown) | {"files": list(map(str, written))})
    if shown.right is not None:
        words = f"{shown.right:,} of {shown.images:,} images ({shown.source}) are classified right"
        out.console.print(words, markup=False)
    for part, why in shown.missing.items():
        out.console.print(f"note: {part}: {why}", markup=False)
    out.console.print(f"written to {', '.join(map(str, written))}", markup=False)


def _write_pictures(shown: "Shown", pictures: dict[str, Path]) -> list[Path]:
    from capsnet.files import atomic_path
    from capsnet.runtime.markup import png
    from capsnet.runtime.show.sheets import sheets

    if not pictures:
        return []
    drawn = sheets(shown)
    for part, picture in drawn.items():
        with atomic_path(pictures[part]) as temporary:
            temporary.write_bytes(png(picture))
    return [pictures[part] for part in drawn]


def _document(shown: "Shown") -> dict[str, Any]:
    """Everything but the pictures, as JSON values."""
    from capsnet.documents import to_values

    counts = None if shown.counts is None else shown.counts.tolist()
    return {
        "network": shown.network,
        "source": shown.source,
        "images": shown.images,
        "total": shown.total,
        "classes": list(shown.names),
        "right": shown.right,
        "confusion_matrix": counts,
        "confusions": to_values(shown.confusions),
        "mistakes": [
            {"index": e.index, "label": e.label, "predicted": e.predicted} for e in shown.mistakes
        ],
        "missing": dict(shown.missing),
    }

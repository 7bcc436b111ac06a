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
    from capsnet.runtime.proof.request import Request
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
    from capsnet.runtime.proof.request import Request
    from capsnet.runtime.show.page import render
    from capsnet.runtime.show.sheets import SHEETS

    path = checkpoint_file(network)
    pictures = {part: output.with_suffix(f".{part}.png") for part in SHEETS if png}
    out.reserve({f"the {part} file": p for part, p in pictures.items()}, {"the network": path})
    with out.console.status(f"running {path.name}"):
        shown = _collect(path, Request(path, images, samples, device))
    with atomic_path(output) as temporary:
        temporary.write_text(render(shown), encoding="utf-8")
    written = [output, *_write_pictures(shown, pictures)]
    out.write_json(_document(shown) | {"files": list(map(str, written))})
    if shown.right is not None:
        words = f"{shown.right:,} of {shown.images:,} images ({shown.source}) are classified right"
        out.console.print(words, markup=False)
    for part, why in shown.missing.items():
        out.console.print(f"{part}: not all is shown: {why}", markup=False)
    out.console.print(f"written to {', '.join(map(str, written))}", markup=False)


def _collect(path: Path, request: "Request") -> "Shown":
    """What is shown of a checkpoint, or of an artifact where the file is one."""
    from capsnet.errors import ArtifactError
    from capsnet.runtime.sessions.opening import artifact_format

    try:
        artifact_format(path)
    except ArtifactError:
        return _of_checkpoint(path, request)
    return _of_artifact(path, request)


def _of_checkpoint(path: Path, request: "Request") -> "Shown":
    import torch

    from capsnet.checkpoint import load_checkpoint
    from capsnet.device import choose_device, why_torch_has_no_cuda
    from capsnet.files import file_sha256
    from capsnet.runtime.proof.images import load_images
    from capsnet.runtime.show.collect import collect

    model = load_checkpoint(path)
    why = why_torch_has_no_cuda() if request.device != "cpu" else ""
    where = choose_device(request.device, why, path).device
    model.to(where)

    def run(images: Any) -> Any:
        with torch.no_grad():
            outputs = model.outputs_by_name(torch.from_numpy(images).to(where))
        return {name: values.cpu().numpy() for name, values in outputs.items()}

    given = load_images(request, model.config, file_sha256(path))
    return collect(path.name, run, "lengths", given, model=model)


def _of_artifact(path: Path, request: "Request") -> "Shown":
    from capsnet.config import CapsNetConfig
    from capsnet.errors import ArtifactError
    from capsnet.runtime.proof.images import load_images
    from capsnet.runtime.sessions.opening import open_session
    from capsnet.runtime.show.collect import collect

    session = open_session(path, request.device)
    metadata = session.metadata
    if metadata.decision is None:
        raise ArtifactError(
            f"{path} classifies nothing, expected a network with an output that names the class; "
            "run its session instead"
        )
    config = CapsNetConfig.from_dict(metadata.config)
    given = load_images(request, config, metadata.checkpoint_sha256 or "")
    return collect(path.name, session.run, metadata.decision, given)


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

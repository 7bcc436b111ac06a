"""``capsnet export``: write artifacts, and prove them."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from capsnet.artifact import INPUT_DTYPES, LAYOUTS
from capsnet.cli.options import (
    CALIBRATED,
    JUDGING,
    CountOr,
    Output,
    OutputPath,
    calibrate_option,
    checkpoint_option,
    classes_option,
    device_option,
    given_options,
    judging,
    warn_of_odd_images,
    with_output,
)
from capsnet.cli.verify import (
    assumed_of,
    print_assumed,
    print_verdicts,
    raise_unless_passed,
    write_page,
)
from capsnet.formats import FORMATS, OPSETS
from capsnet.forms import FORMS
from capsnet.precision import PRECISIONS

if TYPE_CHECKING:
    from capsnet.data.names import read_names
    from capsnet.jobs import Exported
    from capsnet.runtime.proof.request import Request

__all__ = ["export_command"]

_STARTED = time.monotonic()  # before anything slow is imported
_LIMITED = "; ".join(
    f"{name}: --format {', '.join(row.formats)} only"
    for name, row in PRECISIONS.items()
    if row.formats is not None
)


def _form_options(command: Callable[..., None]) -> Callable[..., None]:
    """An option for each choice of the lowering."""
    for choice, forms in reversed(list(FORMS.items())):
        command = click.option(
            f"--{choice}",
            type=click.Choice(["auto", *forms]),
            default="auto",
            show_default=True,
            help=f"Form of the {choice}; all of them are exact.",
        )(command)
    return command


@click.command("export")
@click.option(
    "--format",
    "formats",
    type=click.Choice(list(FORMATS)),
    multiple=True,
    required=True,
    help="Artifact to write; can be repeated.",
)
@checkpoint_option
@click.option(
    "--output",
    type=OutputPath(),
    help="File, or existing folder, to write to.  [default: this folder]",
)
@click.option(
    "--batch",
    type=CountOr("dynamic"),
    default="dynamic",
    show_default=True,
    help="A fixed batch size, or any.",
)
@click.option(
    "--opset",
    type=click.IntRange(OPSETS[0], OPSETS[-1]),
    help="ONNX operator set.  [default: the oldest that the network and the precision allow]",
)
@click.option(
    "--input",
    "input_dtype",
    type=click.Choice(INPUT_DTYPES),
    default=INPUT_DTYPES[0],
    show_default=True,
    help="What the file takes: values 0..1, or bytes 0..255 (of --format onnx).",
)
@click.option(
    "--layout",
    type=click.Choice(LAYOUTS),
    default=LAYOUTS[0],
    show_default=True,
    help="Axes of the images that the file takes (nhwc: of --format onnx).",
)
@click.option("--reconstruction", is_flag=True, help="Output the decoded image as well.")
@_form_options
@click.option(
    "--precision",
    type=click.Choice(list(PRECISIONS)),
    default=next(iter(PRECISIONS)),
    show_default=True,
    help=f"Of weights and convolutions; outputs are always float32. {_LIMITED}.",
)
@calibrate_option
@classes_option
@device_option
@click.option(
    "--verify/--no-verify", "verified", default=True, help="Prove the file.  [default: verify]"
)
@judging
@with_output
def export_command(
    out: Output,
    request: "Request",
    formats: tuple[str, ...],
    output: Path | None,
    batch: int | None,
    opset: int | None,
    input_dtype: str,
    layout: str,
    reconstruction: bool,
    precision: str,
    calibrate: Path | None,
    classes: Path | None,
    verified: bool,
    page: Path | None,
    **forms: str,
) -> None:
    """Export a trained network, and prove that the file computes the same numbers.

    The file appears only after a fresh process has compared it with the original model; its
    certificate, FILE.parity.json, appears beside it.
    """
    from capsnet.jobs import ExportSettings, export_artifacts, written_files
    from capsnet.runtime.proof.tables import unverified_line

    chosen = {choice: form for choice, form in forms.items() if form != "auto"}
    _refuse_contradictions(formats, precision, chosen)
    if not verified:
        _refuse_judging(request)
    names = () if classes is None else read_names(classes)
    settings = ExportSettings(
        precision, reconstruction, batch, opset, chosen, names, input_dtype, layout
    )
    targets = _targets(formats, output)
    out.reserve(written_files(targets), request.network.files)
    with out.console.status("starting") as status:
        exported = export_artifacts(
            targets,
            request,
            settings,
            proven=verified,
            calibration=calibrate,
            on_progress=status.update,
        )
    proofs = [item.proof for item in exported if item.proof is not None]
    write_page(proofs, page)
    seconds = round(time.monotonic() - _STARTED, 2)
    doubts = exported[0].warnings
    assumed = assumed_of(request.network)
    found = {"artifacts": [_document(item) for item in exported], "warnings": list(doubts)}
    out.write_json(found | {"seconds": seconds} | ({"assumed": assumed} if assumed else {}))
    if proofs:
        print_verdicts([proof.certificate for proof in proofs], out)
    for item in exported:
        if item.proof is None:
            out.console.print(unverified_line(item.artifact))
    print_assumed(assumed, request.network.name, out)
    warn_of_odd_images(doubts, strict=False)
    out.console.print(f"[dim]{seconds:.1f} s[/]")
    raise_unless_passed([proof.certificate for proof in proofs], "no file was written for it")


def _refuse_contradictions(formats: tuple[str, ...], precision: str, forms: dict[str, str]) -> None:
    """Raise UsageError where options do not go together."""
    row, given = PRECISIONS[precision], given_options()
    if row.formats is not None and not set(formats) <= set(row.formats):
        raise click.UsageError(
            f"--precision {precision} goes with --format {', '.join(row.formats)} alone"
        )
    if forms.get("convolution") == "winograd" and not row.float32:
        exact = ", ".join(name for name, row in PRECISIONS.items() if row.float32)
        raise click.UsageError(f"--convolution winograd goes with --precision {exact}")
    if "--calibrate" in given and not row.calibrated:
        raise click.UsageError(f"--calibrate goes with --precision {CALIBRATED}")
    if "--opset" in given and not any(FORMATS[name].has_opset for name in formats):
        having = ", ".join(name for name, row in FORMATS.items() if row.has_opset)
        raise click.UsageError(f"--opset goes with --format {having}")
    if {"--input", "--layout"} & given and set(formats) != {"onnx"}:
        raise click.UsageError("--input and --layout go with --format onnx alone")


def _refuse_judging(request: "Request") -> None:
    """Raise UsageError where an option asks for something of a proof that is not made."""
    given = given_options()
    useless = [name for name in JUDGING if name in given]
    if request.network.model is not None and "--images" in useless:
        useless.remove("--images")  # they tell the shapes of its inputs
    if request.device == "cuda":  # without a proof, nothing runs there
        useless.append("--device cuda")
    if useless:
        raise click.UsageError(
            f"only a proof takes {', '.join(useless)}: leave that out, or --no-verify"
        )


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
    return {name: folder / FORMATS[name].file for name in unique}


def _document(item: "Exported") -> dict[str, Any]:
    """What the JSON says of an artifact: its certificate, where it has one."""
    from capsnet.documents import to_values

    if item.proof is None:
        return {"verdict": "not verified", "artifact": to_values(item.artifact)}
    document: dict[str, Any] = to_values(item.proof.certificate)
    return document

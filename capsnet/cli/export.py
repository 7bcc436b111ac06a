"""``capsnet export``: write artifacts, and prove them."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from capsnet.cli.options import (
    FORMAT,
    PRECISION,
    STARTED,
    CountOr,
    Output,
    calibrate_option,
    checkpoint_option,
    device_option,
    judging,
    with_output,
)
from capsnet.cli.verify import print_verdicts, raise_unless_passed, write_page
from capsnet.formats import DEFAULT_OPSET, FORMATS, OPSETS
from capsnet.forms import FORMS
from capsnet.precision import PRECISIONS

if TYPE_CHECKING:
    from capsnet.jobs import Exported
    from capsnet.runtime.proof.request import Request

__all__ = ["export_command"]


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
    type=FORMAT,
    multiple=True,
    required=True,
    help="Artifact to write; can be repeated.",
)
@checkpoint_option
@click.option(
    "--output",
    type=click.Path(path_type=Path),
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
    default=DEFAULT_OPSET,
    show_default=True,
    help="ONNX operator set.",
)
@click.option("--reconstruction", is_flag=True, help="Output the decoded image as well.")
@_form_options
@click.option(
    "--precision",
    type=PRECISION,
    default="fp32",
    show_default=True,
    help="Of weights and convolutions; inputs and outputs are always float32. int8: ONNX only.",
)
@calibrate_option
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
    opset: int,
    reconstruction: bool,
    precision: str,
    calibrate: Path | None,
    verified: bool,
    page: Path | None,
    **forms: str,
) -> None:
    """Export a trained network, and prove that the file computes the same numbers.

    The file appears only after a fresh process has compared it with the original model; its
    certificate, FILE.parity.json, appears beside it.
    """
    from capsnet.jobs import ExportSettings, export_artifacts

    chosen = {choice: form for choice, form in forms.items() if form != "auto"}
    _refuse_contradictions(formats, precision, chosen, calibrate, page, verified)
    settings = ExportSettings(precision, reconstruction, batch, opset, chosen)
    targets = _targets(formats, output)
    _reserve(out, targets, request.checkpoint)
    with out.console.status("starting") as status:
        exported = export_artifacts(
            targets,
            request.checkpoint,
            settings,
            request=request if verified else None,
            calibration=calibrate,
            on_progress=status.update,
        )
    proofs = [item.proof for item in exported if item.proof is not None]
    write_page(proofs, page)
    seconds = round(time.monotonic() - STARTED, 2)
    out.write_json({"artifacts": [_document(item) for item in exported], "seconds": seconds})
    if proofs:
        print_verdicts([proof.certificate for proof in proofs], out)
    for item in exported:
        if item.proof is None:
            size = f"{item.artifact.bytes / 1e6:.1f} MB, SHA-256 {item.artifact.sha256[:16]}"
            out.console.print(f"{item.path.name}: {size}, not verified", markup=False)
    out.console.print(f"[dim]{seconds:.1f} s[/]")
    raise_unless_passed([proof.certificate for proof in proofs], "no file was written for it")


def _refuse_contradictions(
    formats: tuple[str, ...],
    precision: str,
    forms: dict[str, str],
    calibrate: Path | None,
    page: Path | None,
    verified: bool,
) -> None:
    """Raise UsageError where options do not go together."""
    row = PRECISIONS[precision]
    if page is not None and not verified:
        raise click.UsageError("--report shows a verification: it does not go with --no-verify")
    if row.formats is not None and not set(formats) <= set(row.formats):
        raise click.UsageError(
            f"--precision {precision} goes with --format {', '.join(row.formats)} alone"
        )
    if forms.get("convolution") == "winograd" and not row.float32:
        raise click.UsageError("--convolution winograd goes with --precision fp32")
    if calibrate is not None and not row.calibrated:
        calibrated = ", ".join(name for name, row in PRECISIONS.items() if row.calibrated)
        raise click.UsageError(f"--calibrate goes with --precision {calibrated}")


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


def _reserve(out: Output, targets: dict[str, Path], checkpoint: Path) -> None:
    """Raise UsageError where an artifact or a certificate would overwrite something else."""
    from capsnet.runtime.certificate import certificate_path

    files = {f"the {name} file": path for name, path in targets.items()}
    beside = {f"the certificate of {name}": certificate_path(p) for name, p in targets.items()}
    out.reserve(files | beside, {"the checkpoint": checkpoint})


def _document(item: "Exported") -> dict[str, Any]:
    """What the JSON says of an artifact: its certificate, where it has one."""
    from capsnet.documents import to_values

    if item.proof is None:
        return {"verdict": "not verified", "artifact": to_values(item.artifact)}
    document: dict[str, Any] = to_values(item.proof.certificate)
    return document

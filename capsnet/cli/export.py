"""``capsnet export``: write artifacts, and prove them."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from capsnet.cli.options import (
    FILE,
    STARTED,
    CountOr,
    Report,
    calibrate_option,
    calibration_images,
    checkpoint_option,
    device_option,
    judging,
    reporting,
)
from capsnet.cli.verify import print_verdicts, raise_unless_passed, write_page
from capsnet.errors import CapsNetError

if TYPE_CHECKING:
    from capsnet.artifact import ArtifactMetadata
    from capsnet.export.lower import Convolution
    from capsnet.runtime.proof.verification import Request

__all__ = ["export_command"]

_DEFAULT_FILES = {
    "onnx": "capsnet.onnx",
    "torchscript": "capsnet.torchscript.pt",
    "pt2": "capsnet.pt2",
}


@click.command("export")
@click.option(
    "--format",
    "formats",
    type=click.Choice(list(_DEFAULT_FILES)),
    multiple=True,
    required=True,
    help="Artifact to write; can be repeated.",
)
@checkpoint_option
@click.option(
    "--output", type=FILE, help="File, or existing folder, to write to.  [default: this folder]"
)
@click.option(
    "--batch",
    type=CountOr("dynamic"),
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
    help="Form of the primary convolution; both are exact. winograd: fp32 only, faster, larger.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8"]),
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
@reporting
def export_command(
    report: Report,
    request: "Request",
    formats: tuple[str, ...],
    output: Path | None,
    batch: int | None,
    opset: int,
    reconstruction: bool,
    routing: str,
    convolution: "Convolution | Literal['auto']",
    precision: str,
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
    from capsnet.runtime.proof.verification import FreshProcess

    if page is not None and not verified:
        raise click.UsageError("--report shows a verification: it does not go with --no-verify")
    if precision == "int8" and set(formats) != {"onnx"}:
        raise click.UsageError("--precision int8 goes with --format onnx alone")
    if convolution == "winograd" and precision != "fp32":
        raise click.UsageError("--convolution winograd goes with --precision fp32")
    if calibrate is not None and precision != "int8":
        raise click.UsageError("--calibrate goes with --precision int8")
    targets = _targets(formats, output)
    with contextlib.ExitStack() as stack:
        staged = {name: stack.enter_context(StagedFile(target)) for name, target in targets.items()}
        # It computes the reference results while this process exports.
        judge = stack.enter_context(FreshProcess(request)) if verified else None
        from capsnet.checkpoint import load_checkpoint
        from capsnet.export.formats.onnx import to_onnx
        from capsnet.export.formats.pt2 import to_exported_program
        from capsnet.export.formats.torchscript import to_torchscript
        from capsnet.export.lower import lower

        model = load_checkpoint(request.checkpoint)
        calibration = calibration_images(calibrate, model.config) if precision == "int8" else None
        exporters: dict[str, Callable[..., ArtifactMetadata]] = {
            "onnx": functools.partial(to_onnx, opset=opset, calibration=calibration),
            "torchscript": to_torchscript,
            "pt2": to_exported_program,
        }
        lowered = lower(
            model,
            reconstruction=reconstruction,
            routing=routing,
            convolution=convolution,
            precision=precision,
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
    write_page(documents, page)
    seconds = round(time.monotonic() - STARTED, 2)
    report.write_json({"artifacts": documents, "seconds": seconds})
    print_verdicts(documents, report)
    report.console.print(f"[dim]{seconds:.1f} s[/]")
    raise_unless_passed(documents, "no file was written for it")


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


def _unverified(name: str, path: Path, metadata: "ArtifactMetadata") -> dict[str, Any]:
    from capsnet.documents import to_values
    from capsnet.files import file_sha256

    return {
        "verdict": "not verified",
        "artifact": {
            "file": path.name,
            "bytes": path.stat().st_size,
            "sha256": file_sha256(path),
            "format": name,
            "metadata": to_values(metadata),
        },
    }

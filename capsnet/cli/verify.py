"""``capsnet verify``: prove an artifact again, and say where it goes wrong."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from capsnet.cli.options import (
    FILE,
    Output,
    checkpoint_option,
    device_option,
    judging,
    with_output,
)
from capsnet.errors import ResultError

if TYPE_CHECKING:
    from capsnet.runtime.proof.verification import Request

__all__ = ["print_verdicts", "raise_unless_passed", "verify_command", "write_page"]


@click.command("verify")
@click.argument("artifact", type=FILE)
@checkpoint_option
@device_option
@judging
@click.option("--locate", is_flag=True, help="When it fails, find the first stage that is wrong.")
@click.option("--in-process", is_flag=True, help="Verify in this process, for debugging.")
@with_output
def verify_command(
    out: Output,
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
    from capsnet.runtime.proof.verification import FreshProcess, Judge

    with out.console.status(f"verifying {artifact.name}"):
        if in_process:
            document = Judge(request).judge(artifact)
        else:
            with FreshProcess(request) as judge:
                judge.submit(artifact)
                [document] = judge.documents()
    write_certificate(document, artifact)  # first: what follows may fail, the verdict stands
    if locate and document["verdict"] == "fail":
        document["stages"] = _locate(request, artifact, document["artifact"]["format"])
    write_page([document], page)
    out.write_json(document)
    print_verdicts([document], out)
    raise_unless_passed([document], "do not use this file; export it again")


def _locate(request: "Request", artifact: Path, artifact_format: str) -> list[dict[str, Any]]:
    """Judge every stage: of the graph for ONNX, of the lowered module for torch's formats."""
    import numpy as np
    import torch

    from capsnet.checkpoint import load_checkpoint
    from capsnet.export.lower import lower
    from capsnet.files import file_sha256
    from capsnet.runtime.proof.locate import locate, onnx_stages
    from capsnet.runtime.proof.verification import load_images
    from capsnet.runtime.sessions.opening import open_session

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
            routing=metadata.forms["routing"],
            convolution=metadata.forms["convolution"],
            precision=metadata.precision,
        )
        stages = lowered.stages(torch.from_numpy(images))
        found = {name: stage.numpy() for name, stage in stages.items()}
    return [dataclasses.asdict(stage) for stage in locate(model, found, images, metadata)]


def write_page(documents: list[dict[str, Any]], page: Path | None) -> None:
    """Write the report page where one was asked for; its details go nowhere else."""
    from capsnet.files import atomic_path

    if page is not None:
        from capsnet.runtime.proof.page import render

        with atomic_path(page) as temporary:
            temporary.write_text(render(documents), encoding="utf-8")
    for document in documents:
        document.pop("details", None)


def print_verdicts(documents: list[dict[str, Any]], out: Output) -> None:
    from capsnet.runtime.proof.tables import parity_table, stage_lines, summary_lines

    verified = [document for document in documents if "parity" in document]
    if verified:
        out.console.print(parity_table(verified))
    for document in documents:
        for line in summary_lines(document):
            out.console.print(line)
        if "stages" in document:
            out.console.print(stage_lines(document["stages"]))


def raise_unless_passed(documents: list[dict[str, Any]], advice: str) -> None:
    failed = [document for document in documents if document["verdict"] == "fail"]
    if failed:
        names = ", ".join(document["artifact"]["file"] for document in failed)
        raise ResultError(
            f"{names} does not compute the same numbers as its checkpoint, see above; {advice}"
        )

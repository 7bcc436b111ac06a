"""``capsnet verify``: prove an artifact again, and say where it goes wrong."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from capsnet.cli.options import (
    FILE,
    Report,
    checkpoint_option,
    device_option,
    judging,
    reporting,
)
from capsnet.errors import ResultError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from capsnet.artifact import ArtifactMetadata
    from capsnet.model import CapsNet
    from capsnet.runtime.proof.locate import Stage
    from capsnet.runtime.proof.request import Request
    from capsnet.runtime.proof.results import Certificate, Proof

__all__ = ["print_verdicts", "raise_unless_passed", "verify_command", "write_page"]


@click.command("verify")
@click.argument("artifact", type=FILE)
@checkpoint_option
@device_option
@judging
@click.option("--locate", is_flag=True, help="When it fails, find the first stage that is wrong.")
@click.option("--in-process", is_flag=True, help="Verify in this process, for debugging.")
@reporting
def verify_command(
    report: Report,
    artifact: Path,
    request: "Request",
    locate: bool,
    in_process: bool,
    page: Path | None,
) -> None:
    """Prove again that an artifact computes the same numbers as its checkpoint.

    Writes the certificate ARTIFACT.parity.json, whatever the verdict.
    """
    from capsnet.documents import to_values
    from capsnet.files import StagedFile
    from capsnet.runtime.certificate import certificate_path, write_certificate
    from capsnet.runtime.proof.fresh import FreshProcess
    from capsnet.runtime.sessions.opening import artifact_format

    artifact_format(artifact)  # what cannot be read or written is an error now, not after the work
    with StagedFile(certificate_path(artifact)):
        pass
    with report.console.status(f"verifying {artifact.name}"):
        if in_process:
            from capsnet.runtime.proof.proof import prove

            proof = prove(artifact, request)
        else:
            with FreshProcess(request) as process:
                process.submit(artifact)
                [proof] = process.proofs()
    certificate = proof.certificate
    write_certificate(certificate, artifact)  # first: what follows may fail, the verdict stands
    stages = _locate(request, artifact, certificate) if locate and not certificate.passed else []
    write_page([proof], page)
    found = {"stages": to_values(stages)} if stages else {}
    report.write_json(to_values(certificate) | found)
    print_verdicts([certificate], report)
    if stages:
        from capsnet.runtime.proof.tables import stage_lines

        report.console.print(stage_lines(stages))
    raise_unless_passed([certificate], "do not use this file; export it again")


def _locate(request: "Request", artifact: Path, certificate: "Certificate") -> "list[Stage]":
    """Judge every stage: of the graph for ONNX, of the lowered module for torch's formats."""
    import numpy as np

    from capsnet.checkpoint import load_checkpoint
    from capsnet.runtime.proof.images import load_images
    from capsnet.runtime.proof.locate import locate, onnx_stages

    model = load_checkpoint(request.checkpoint)
    metadata = certificate.artifact.metadata
    count = metadata.fixed_batch or 8
    few = dataclasses.replace(request, samples=count)
    images = load_images(few, model.config, certificate.checkpoint_sha256).images
    if metadata.fixed_batch is not None:
        images = images[np.arange(count) % len(images)]
    if certificate.artifact.format == "onnx":
        found = onnx_stages(artifact, images)
    else:
        found = _lowered_stages(model, metadata, images)
    return locate(model, found, images, metadata)


def _lowered_stages(
    model: "CapsNet", metadata: "ArtifactMetadata", images: "npt.NDArray[np.float32]"
) -> "dict[str, npt.NDArray[np.floating]]":
    """The stages of the model, lowered as the artifact was."""
    import torch

    from capsnet.export.lower import lower

    lowered = lower(
        model,
        reconstruction="reconstruction" in {spec.name for spec in metadata.outputs},
        routing=metadata.forms["routing"],
        convolution=metadata.forms["convolution"],
        precision=metadata.precision,
    )
    stages = lowered.stages(torch.from_numpy(images))
    return {name: stage.numpy() for name, stage in stages.items()}


def write_page(proofs: "Sequence[Proof]", page: Path | None) -> None:
    """Write the HTML page where one was asked for."""
    if page is None:
        return
    from capsnet.files import atomic_path
    from capsnet.runtime.proof.page import render

    with atomic_path(page) as temporary:
        temporary.write_text(render(proofs), encoding="utf-8")


def print_verdicts(certificates: "Sequence[Certificate]", report: Report) -> None:
    """Print the table of errors, and what was found about each artifact."""
    from capsnet.runtime.proof.tables import parity_table, summary_lines

    report.console.print(parity_table(certificates))
    for certificate in certificates:
        for line in summary_lines(certificate):
            report.console.print(line)


def raise_unless_passed(certificates: "Sequence[Certificate]", advice: str) -> None:
    """Raise ResultError where an artifact is wrong."""
    failed = [c.artifact.file for c in certificates if not c.passed]
    if failed:
        raise ResultError(
            f"{', '.join(failed)} does not compute the same numbers as its checkpoint, see above; "
            f"{advice}"
        )

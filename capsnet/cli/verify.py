"""``capsnet verify``: prove an artifact again, and say where it goes wrong."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from capsnet.cli.options import (
    FILE,
    Output,
    checkpoint_option,
    device_option,
    judging,
    strict_option,
    warn_of_odd_images,
    with_output,
)
from capsnet.errors import ResultError

if TYPE_CHECKING:
    from capsnet.networks import NetworkSource
    from capsnet.runtime.proof.request import Request
    from capsnet.runtime.proof.results import Certificate, Proof

__all__ = [
    "assumed_of",
    "print_assumed",
    "print_verdicts",
    "raise_unless_passed",
    "verify_command",
    "write_page",
]


@click.command("verify")
@click.argument("artifact", type=FILE)
@checkpoint_option
@device_option
@judging
@click.option("--locate", is_flag=True, help="When it fails, find the first stage that is wrong.")
@strict_option
@click.option("--runtime", type=click.Choice(["openvino"]), help="Run it in that.")
@click.option("--in-process", is_flag=True, help="Verify in this process, for debugging.")
@with_output
def verify_command(
    out: Output,
    artifact: Path,
    request: "Request",
    locate: bool,
    runtime: str | None,
    in_process: bool,
    strict: bool,
    page: Path | None,
) -> None:
    """Prove again that an artifact computes the same numbers as its checkpoint.

    Writes the certificate ARTIFACT.parity.json, whatever the verdict.
    """
    from capsnet.documents import to_values
    from capsnet.files import check_writable
    from capsnet.jobs import locate_fault, prove
    from capsnet.runtime.certificate import certificate_path
    from capsnet.runtime.proof.tables import stage_lines
    from capsnet.runtime.sessions.opening import artifact_format

    certificate = certificate_path(artifact)
    out.reserve({"the certificate": certificate}, request.network.files)
    artifact_format(artifact)  # what cannot be read or written is an error now, not after the work
    check_writable(certificate)
    request = dataclasses.replace(request, runtime=runtime)
    with out.console.status(f"verifying {artifact.name}"):
        proof = prove(artifact, request, in_process=in_process)
    found = proof.certificate
    stages = locate_fault(artifact, request) if locate and not found.passed else ()
    write_page([proof], page)
    assumed = assumed_of(request.network)
    out.write_json(
        to_values(found)
        | ({"stages": to_values(stages)} if stages else {})
        | ({"assumed": assumed} if assumed else {})
    )
    print_verdicts([found], out)
    print_assumed(assumed, request.network.name, out)
    if stages:
        out.console.print(stage_lines(stages))
    raise_unless_passed([found], "do not use this file; export it again")
    if strict:
        warn_of_odd_images(found.images.warnings, strict)


def write_page(proofs: "Sequence[Proof]", page: Path | None) -> None:
    """Write the HTML page where one was asked for."""
    if page is None:
        return
    from capsnet.files import atomic_path
    from capsnet.runtime.proof.page import render

    with atomic_path(page) as temporary:
        temporary.write_text(render(proofs), encoding="utf-8")


def print_verdicts(certificates: "Sequence[Certificate]", out: Output) -> None:
    """Print the table of errors, and what was found about each artifact."""
    from capsnet.runtime.proof.tables import parity_table, summary_lines

    out.console.print(parity_table(certificates))
    for certificate in certificates:
        for line in summary_lines(certificate):
            out.console.print(line)


def assumed_of(network: "NetworkSource") -> list[str]:
    """What a checkpoint does not say, and was assumed; without torch where it says everything."""
    checkpoint = network.checkpoint
    if network.model is not None or checkpoint is None or checkpoint.suffix == ".safetensors":
        return []
    from capsnet.checkpoint import assumptions

    return list(assumptions(checkpoint))


def print_assumed(assumed: list[str], checkpoint: str, out: Output) -> None:
    """Print a line of what was assumed of a checkpoint, and what to do where it is not so."""
    from rich.markup import escape

    if assumed:
        out.console.print(
            f"assumed of {escape(checkpoint)}: {', '.join(assumed)}; "
            "where that is not so, run capsnet import first"
        )


def raise_unless_passed(certificates: "Sequence[Certificate]", advice: str) -> None:
    """Raise ResultError where an artifact is wrong."""
    failed = [c.artifact.file for c in certificates if not c.passed]
    if failed:
        raise ResultError(
            f"{', '.join(failed)} does not compute the same numbers as its checkpoint, see above; "
            f"{advice}"
        )

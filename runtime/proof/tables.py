"""Certificates and stages as tables and lines for a terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from capsnet.errors import counted
from capsnet.runtime.proof.results import ArtifactFile, Certificate

if TYPE_CHECKING:
    from capsnet.runtime.proof.locate import Stage

__all__ = ["parity_table", "stage_lines", "summary_lines", "unverified_line"]


def parity_table(certificates: Sequence[Certificate]) -> Table:
    """One row for every output of every artifact: its worst batch size against the baseline."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in (
        "file",
        "output",
        "max error",
        "baseline's",
        "ratio",
        "budget used",
        "RMS",
        "cosine",
        "",
    ):
        table.add_column(heading, justify="left" if heading in ("file", "output", "") else "right")
    for certificate in certificates:
        parity = certificate.parity
        for row, (name, own) in enumerate(parity.baseline.items()):
            checks = [check for check in parity.checks if check.output == name]
            if not checks:
                continue
            largest = max(check.errors.max for check in checks)
            table.add_row(
                escape(certificate.artifact.file) if row == 0 else "",
                name,
                f"{largest:.2e}",
                f"{own.max:.2e}",
                f"{largest / own.max:.2f}" if own.max else "-",
                f"{max(check.used for check in checks):.0%}",
                f"{max(check.errors.rms for check in checks):.2e}",
                f"{min(check.errors.cosine for check in checks):.9f}",
                _verdict(all(check.passed for check in checks)),
            )
    return table


def summary_lines(certificate: Certificate) -> list[str]:
    """Size, verdict, agreement, accuracy and failures of one artifact, a line each."""
    parity, hard = certificate.parity, certificate.hard_inputs
    where = ", ".join(
        f"{counted(count, 'node')} on {name}" for name, count in certificate.providers.items()
    )
    verdict = "[green]proven[/]" if certificate.passed else "[red]WRONG[/]"
    images = f"{counted(parity.images, 'image')} ({escape(certificate.images.source)})"
    lines = [f"{_size(certificate.artifact)}, {verdict} on {certificate.device} ({where})"]
    if parity.agreement is None:
        lines.append(f"compared on {images}")
    else:
        flips = counted(len(parity.flips), "flip")
        lines.append(f"class agreement {parity.agreement:.2%} on {images}, {flips}")
    if parity.accuracy is not None:
        accuracy = parity.accuracy
        lines.append(
            f"accuracy: golden {accuracy.golden:.2%}, baseline {accuracy.baseline:.2%}, "
            f"artifact {accuracy.candidate:.2%}"
        )
    lines.append(f"hard inputs: {sum(result.passed for result in hard)} of {len(hard)} passed")
    lines += [f"[yellow]{note}[/]" for note in parity.not_judged]
    lines += [f"[yellow]{escape(warning)}[/]" for warning in certificate.images.warnings]
    if parity.overridden:
        lines.append("[yellow]the error budget was overridden by --atol/--rtol[/]")
    return lines + [f"[red]FAILED[/] {escape(failure)}" for failure in certificate.failures]


def unverified_line(artifact: ArtifactFile) -> str:
    """Size of an artifact that was not verified."""
    return f"{_size(artifact)}, [yellow]not verified[/]"


def stage_lines(stages: Sequence["Stage"]) -> str:
    """The stages in order up to the first that is wrong, and where the fault is."""
    lines = []
    for stage in stages:
        error = "missing" if stage.error is None else f"{stage.error:.2e}"
        verdict = _verdict(stage.passed)
        lines.append(f"  {stage.name:30} {error:>9} of {stage.allowed:.2e}  {verdict}")
        if not stage.passed:
            return "\n".join([*lines, f"the fault is in stage [bold]{stage.name}[/]"])
    return "\n".join(
        [*lines, "every stage is right: the fault is in how the file was written or is run"]
    )


def _verdict(passed: bool) -> str:
    return "[green]pass[/]" if passed else "[red]FAIL[/]"


def _size(artifact: ArtifactFile) -> str:
    size, digest = artifact.bytes / 1e6, artifact.sha256[:16]
    return f"{escape(artifact.file)}: {size:.1f} MB, SHA-256 {digest}"

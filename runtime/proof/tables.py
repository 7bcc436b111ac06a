"""Certificates and stages as tables and lines for a terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from capsnet.errors import counted
from capsnet.runtime.proof.results import ArtifactFile, Certificate
from capsnet.runtime.proof.words import causes, share_words, used_words, verdict_words, worst_checks

if TYPE_CHECKING:
    from capsnet.runtime.proof.locate import Stage

__all__ = ["parity_table", "stage_lines", "summary_lines", "unverified_line"]


def parity_table(certificates: Sequence[Certificate]) -> Table:
    """One row for every output of every artifact, at the batch size that uses most of its budget.

    The worst output comes first. The 99th percentile or the RMS may use more than the largest error
    does: then ``budget used`` is more than the share of the limit beside it.
    """
    table = Table(box=None, header_style="bold", pad_edge=False)
    left = ("file", "output", "")
    headings = ("max error", "limit", "budget used", "at batch", "baseline's", "RMS", "cosine")
    for heading in (*left[:2], *headings, left[2]):
        table.add_column(heading, justify="left" if heading in left else "right")
    for certificate in certificates:
        parity = certificate.parity
        for row, (name, check) in enumerate(worst_checks(parity).items()):
            table.add_row(
                escape(certificate.artifact.file) if row == 0 else "",
                name,
                f"{check.errors.max:.2e}",
                f"{check.allowed['max']:.2e}",
                used_words(check.used),
                str(check.batch_size),
                f"{parity.baseline[name].max:.2e}",
                f"{check.errors.rms:.2e}",
                f"{check.errors.cosine:.9f}",
                _verdict(all(c.passed for c in parity.checks if c.output == name)),
            )
    return table


def summary_lines(certificate: Certificate) -> list[str]:
    """Size, verdict, classes, accuracy and failures of one artifact, a line each."""
    parity, hard, count = certificate.parity, certificate.hard_inputs, certificate.parity.images
    where = ", ".join(
        f"{counted(count, 'node')} on {name}" for name, count in certificate.providers.items()
    )
    verdict = "[green]proven[/]" if certificate.passed else "[red]WRONG[/]"
    source = escape(certificate.images.source)
    lines = [
        f"{_size(certificate.artifact)}, {verdict} on {certificate.device} ({where})",
        verdict_words(certificate),
    ]
    if parity.agreement is None:
        lines.append(f"compared on {counted(count, 'image')} ({source})")
    else:
        kept = share_words(parity.agreement, count)
        lines.append(f"classes: {kept} images keep theirs ({source})")
    if parity.accuracy is not None:
        accuracy = parity.accuracy
        lines.append(
            f"accuracy: golden {share_words(accuracy.golden, count)}, "
            f"baseline {share_words(accuracy.baseline, count)}, "
            f"artifact {share_words(accuracy.candidate, count)}"
        )
    lines.append(f"hard inputs: {sum(result.passed for result in hard)} of {len(hard)} passed")
    lines += [f"[yellow]{note}[/]" for note in parity.not_judged]
    lines += [f"[yellow]{escape(warning)}[/]" for warning in certificate.images.warnings]
    if parity.overridden:
        lines.append("[yellow]the error budget was overridden by --atol/--rtol[/]")
    return lines + [
        f"[red]FAILED[/] {escape(cause.text)}"
        + (f" ({cause.failures} failures of one kind)" if cause.failures > 1 else "")
        for cause in causes(certificate)
    ]


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

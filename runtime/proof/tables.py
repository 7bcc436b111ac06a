"""Verification documents as tables for a terminal."""

from typing import Any

from rich.markup import escape
from rich.table import Table

__all__ = ["parity_table", "stage_lines", "summary_lines"]


def parity_table(documents: list[dict[str, Any]]) -> Table:
    """One row for every output of every artifact: its worst batch size against the baseline.

    Args:
        documents: what ``verification.verify`` returned.

    Returns:
        A rich table.
    """
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("file", "output", "max error", "baseline's", "ratio", "RMS", "cosine", ""):
        table.add_column(heading, justify="left" if heading in ("file", "output", "") else "right")
    for document in documents:
        parity = document["parity"]
        for row, (name, own) in enumerate(parity["baseline"].items()):
            checks = [check for check in parity["checks"] if check["output"] == name]
            if not checks:
                continue
            worst = max(checks, key=lambda check: check["errors"]["max"])
            errors = worst["errors"]
            passed = all(check["passed"] for check in checks)
            table.add_row(
                escape(document["artifact"]["file"]) if row == 0 else "",
                name,
                f"{errors['max']:.2e}",
                f"{own['max']:.2e}",
                f"{errors['max'] / own['max']:.2f}" if own["max"] else "-",
                f"{max(check['errors']['rms'] for check in checks):.2e}",
                f"{min(check['errors']['cosine'] for check in checks):.9f}",
                "[green]pass[/]" if passed else "[red]FAIL[/]",
            )
    return table


def summary_lines(document: dict[str, Any]) -> list[str]:
    """Size, verdict, agreement, accuracy and failures of one artifact, a line each."""
    artifact = document["artifact"]
    name, digest = escape(artifact["file"]), artifact["sha256"][:16]
    size = f"{name}: {artifact['bytes'] / 1e6:.1f} MB, SHA-256 {digest}"
    if "parity" not in document:
        return [f"{size}, [yellow]not verified[/]"]
    parity = document["parity"]
    where = ", ".join(f"{count} nodes on {name}" for name, count in document["providers"].items())
    verdict = "[green]proven[/]" if document["verdict"] == "pass" else "[red]WRONG[/]"
    lines = [
        f"{size}, {verdict} on {document['device']} ({where})",
        f"class agreement {parity['agreement']:.2%} on {parity['images']} images "
        f"({escape(document['images']['source'])}), {len(parity['flips'])} flips",
    ]
    if parity["accuracy"] is not None:
        accuracy = ", ".join(f"{who} {value:.2%}" for who, value in parity["accuracy"].items())
        lines.append(f"accuracy: {accuracy}")
    hard = document["hard_inputs"]
    survived = sum(not result["failures"] for result in hard)
    lines.append(f"hard inputs: {survived} of {len(hard)} passed")
    if parity["overridden"]:
        lines.append("[yellow]the error budget was overridden by --atol/--rtol[/]")
    failures = [*parity["failures"], *(f for result in hard for f in result["failures"])]
    return lines + [f"[red]FAILED[/] {escape(failure)}" for failure in failures]


def stage_lines(stages: list[dict[str, Any]]) -> str:
    """The stages in order up to the first that is wrong, and where the fault is."""
    lines = []
    for stage in stages:
        error = "missing" if stage["error"] is None else f"{stage['error']:.2e}"
        verdict = "[green]pass[/]" if stage["passed"] else "[red]FAIL[/]"
        lines.append(f"  {stage['name']:30} {error:>9} of {stage['allowed']:.2e}  {verdict}")
        if not stage["passed"]:
            return "\n".join([*lines, f"the fault is in stage [bold]{stage['name']}[/]"])
    return "\n".join(
        [*lines, "every stage is right: the fault is in how the file was written or is run"]
    )

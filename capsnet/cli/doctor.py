"""``capsnet doctor``: what is installed, and whether it works."""

import dataclasses

import click

from capsnet.cli.options import Output, with_output

__all__ = ["doctor_command"]


@click.command("doctor")
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="What must work; with cuda, a missing CUDA is a problem.",
)
@with_output
def doctor_command(out: Output, device: str) -> None:
    """Show what is installed, and whether it works."""
    from rich.markup import escape

    from capsnet.errors import DeviceError
    from capsnet.runtime.doctor import examine

    findings = examine(cuda=device == "cuda")
    out.write_json({"findings": [dataclasses.asdict(finding) for finding in findings]})
    colours = {"good": "green", "note": "yellow", "problem": "red"}
    for finding in findings:
        mark = f"[{colours[finding.status]}]{finding.status:8}[/]"
        advice = f"; {finding.advice}" if finding.status == "problem" and finding.advice else ""
        text = escape(f"{finding.detail}{advice}")
        out.console.print(f"{mark}[bold]{escape(finding.subject):32}[/] {text}")
    problems = [finding.subject for finding in findings if finding.status == "problem"]
    if problems:
        raise DeviceError(f"what is installed does not work: {', '.join(problems)}")

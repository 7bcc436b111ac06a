"""``capsnet deploy``: an artifact where servers look for it."""

from pathlib import Path

import click

from capsnet.cli.options import FILE, Output, OutputPath, with_output

__all__ = ["deploy_command"]


@click.group("deploy")
def deploy_command() -> None:
    """Put a proven artifact where a server looks for it."""


@deploy_command.command("triton")
@click.argument("artifact", type=FILE)
@click.argument("repository", type=OutputPath())
@click.option("--name", help="Of the model.  [default: that of the file, up to its first dot]")
@with_output
def triton_command(out: Output, artifact: Path, repository: Path, name: str | None) -> None:
    """Add ARTIFACT to the model REPOSITORY of a Triton Inference Server.

    The model runs on the device that its certificate is of: without one it is refused.
    """
    from capsnet.runtime.serving.triton import write_repository

    written = write_repository(artifact, repository, name)
    out.write_json({"files": [str(path) for path in written]})
    for path in written:
        out.console.print(str(path), markup=False)

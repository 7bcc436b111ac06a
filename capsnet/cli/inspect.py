"""``capsnet inspect``: the description inside an artifact, and where its nodes run."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from capsnet.cli.options import FILE, Output, device_option, with_output

if TYPE_CHECKING:
    from capsnet.runtime.sessions.base import Device

__all__ = ["inspect_command"]


@click.command("inspect")
@click.argument("artifact", type=FILE)
@device_option
@with_output
def inspect_command(out: Output, artifact: Path, device: "Device") -> None:
    """Show the description inside an artifact, and where its nodes run."""
    from rich.markup import escape

    from capsnet.documents import to_values
    from capsnet.runtime.sessions.opening import open_session

    session = open_session(artifact, device)
    document: dict[str, Any] = {
        "file": artifact.name,
        "format": session.format,
        "bytes": session.bytes,
        "sha256": session.sha256,
        "device": session.device,
        "device_reason": session.device_reason,
        "providers": session.providers(),
        "metadata": to_values(session.metadata),
    }
    out.write_json(document)
    metadata = document.pop("metadata")
    for key, value in (document | metadata).items():
        text = value if isinstance(value, str) else json.dumps(value)
        out.console.print(f"[bold]{key:20}[/] {escape(text)}")

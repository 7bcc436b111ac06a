"""``capsnet serve``: answer requests over the network."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from capsnet.cli.options import FILE, Output, device_option, with_output

if TYPE_CHECKING:
    from capsnet.runtime.sessions.base import Device

__all__ = ["serve_command"]


@click.command("serve")
@click.argument("artifact", type=FILE)
@device_option
@click.option("--name", help="Of the model.  [default: that of the file, up to its first dot]")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(1, 65533),
    default=8080,
    show_default=True,
    help="For HTTP; gRPC has the next port, metrics the one after.",
)
@with_output
def serve_command(
    out: Output,
    artifact: Path,
    device: "Device",
    name: str | None,
    host: str,
    port: int,
) -> None:
    """Serve a proven ARTIFACT over the Open Inference Protocol v2.

    Needs the extra serve, and the certificate beside the file. Runs until SIGINT or SIGTERM, and
    answers the requests that are under way.
    """
    from capsnet.runtime.serving.server import serve
    from capsnet.runtime.sessions.opening import open_session

    name = name or artifact.name.partition(".")[0]
    session = open_session(artifact, device, require_certificate=True)
    served = {"model": name, "sha256": session.sha256, "device": session.device}
    ports = {"http": port, "grpc": port + 1, "metrics": port + 2}
    out.write_json({**served, "host": host, "ports": ports})
    out.console.print(
        f"serving {name} on {session.device}: http://{host}:{port}/v2/models/{name}/infer",
        markup=False,
    )
    serve(session, name, host, port)

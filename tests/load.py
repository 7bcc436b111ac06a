"""How many requests ``capsnet serve`` answers, and how fast: ``python -m tests.load ARTIFACT``.

Clients are tritonclient's, one a connection, in one process beside the server. Every answer is
compared with the artifact's own numbers. It sends to this machine alone, and ends by itself.
"""

import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import click
import numpy as np
import tritonclient.http as client

import capsnet


@click.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--seconds", default=10.0, show_default=True, help="For each number of connections.")
def main(artifact: Path, seconds: float) -> None:
    """Ask for one image a request over 1, 8 and 64 connections; end the server under load."""
    session = capsnet.open_session(artifact, "cpu")
    images = np.random.default_rng(0).random((8, *session.metadata.image_shape), np.float32)
    lengths = session.run(images)["lengths"]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "capsnet", "serve", str(artifact), "--device", "cpu"]
    server = subprocess.Popen(
        [*command, "--name", "model", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait(port)
        for connections in (1, 8, 64):
            print(_round(port, images, lengths, connections, seconds))
    finally:
        server.send_signal(signal.SIGTERM)
    print(f"the server ended with {server.wait(60)}")


def _wait(port: int) -> None:
    for _ in range(300):
        try:
            with client.InferenceServerClient(f"127.0.0.1:{port}") as asking:
                if asking.is_model_ready("model"):
                    return
        except OSError:
            pass
        time.sleep(0.1)
    raise TimeoutError("the server does not start")


def _round(
    port: int, images: np.ndarray, lengths: np.ndarray, connections: int, seconds: float
) -> str:
    taken: list[float] = []
    wrong: list[str] = []
    until = time.monotonic() + seconds

    def ask(number: int) -> None:
        with client.InferenceServerClient(f"127.0.0.1:{port}") as asking:
            given = client.InferInput("image", [1, *images.shape[1:]], "FP32")
            given.set_data_from_numpy(images[number : number + 1], binary_data=False)
            asked = client.InferRequestedOutput("lengths", binary_data=False)
            while time.monotonic() < until:
                started = time.perf_counter()
                try:
                    answer = asking.infer("model", [given], outputs=[asked]).as_numpy("lengths")
                    if np.abs(answer - lengths[number]).max() > 1e-5:
                        wrong.append("other numbers")
                except Exception as error:  # whatever goes wrong is counted
                    wrong.append(repr(error))
                taken.append(time.perf_counter() - started)

    clients = [threading.Thread(target=ask, args=(n % len(images),)) for n in range(connections)]
    for each in clients:
        each.start()
    for each in clients:
        each.join()
    p50, p99 = np.percentile(np.array(taken) * 1000, [50, 99])
    return (
        f"{connections:3} connections: {len(taken) / seconds:.0f} requests/s, p50 {p50:.1f} ms, "
        f"p99 {p99:.1f} ms, {len(wrong)} of {len(taken)} wrong {sorted(set(wrong))[:3]}"
    )


if __name__ == "__main__":
    main()

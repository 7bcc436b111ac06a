"""Serving: batches of many requests, the Open Inference Protocol v2, and an end that loses none."""

import asyncio
import contextlib
import http.client
import importlib.util
import json
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from support.artifacts import golden_outputs
from support.networks import SMALL, lively_model, random_images

import capsnet
from capsnet.errors import ArtifactError
from capsnet.runtime.certificate import certificate_path
from capsnet.runtime.serving.batches import Batches

IMAGES = random_images(SMALL, 4)


class Counting:
    """A session that notes how many images come at once."""

    def __init__(self):
        self.batches = []

    def run(self, images):
        self.batches.append(len(images))
        if np.isnan(images).any():
            raise ArtifactError("out of memory")
        time.sleep(0.01)
        return {"twice": images * 2}


def ask(session, *requests, largest=32):
    async def all_of_them():
        batches = Batches(session, largest)
        waiting = [batches.run(np.array(request)) for request in requests]
        return await asyncio.gather(*waiting, return_exceptions=True)

    return asyncio.run(all_of_them())


def test_what_arrives_together_is_computed_together():
    session = Counting()
    answers = ask(session, *([float(n)] for n in range(10)))
    assert [answer["twice"].tolist() for answer in answers] == [[2.0 * n] for n in range(10)]
    assert session.batches == [10]


def test_batches_hold_no_more_than_they_may():
    session = Counting()
    answers = ask(session, [1.0, 2.0], [3.0, 4.0], [5.0], [1.0] * 7, largest=4)
    assert [len(answer["twice"]) for answer in answers] == [2, 2, 1, 7]
    assert session.batches == [4, 1, 7]


def test_a_failure_is_the_answer_of_its_batch_alone():
    session = Counting()
    answers = ask(session, [1.0], [float("nan")], [2.0], largest=1)
    assert [type(answer).__name__ for answer in answers] == ["dict", "ArtifactError", "dict"]


@pytest.fixture
def artifact(tmp_path):
    path = tmp_path / "small.onnx"
    capsnet.export_model(lively_model(SMALL), path, images=random_images(SMALL, 20), device="cpu")
    return path


def require_mlserver():
    """Without importing it here: it and tritonclient define the same messages."""
    if importlib.util.find_spec("mlserver") is None:
        pytest.skip("needs the extra serve")


class Server:
    """``capsnet serve`` in a process of its own."""

    def __init__(self, artifact):
        require_mlserver()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        arguments = ["serve", str(artifact), "--device", "cpu", "--port", str(self.port)]
        self.process = subprocess.Popen([sys.executable, "-m", "capsnet", *arguments])
        for _ in range(600):
            try:
                if self.ask("/v2/models/small/ready")[0] == 200:
                    return
            except OSError:
                assert self.process.poll() is None
            time.sleep(0.1)
        raise AssertionError("the server does not start")

    def ask(self, path, body=None, port=None):
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=30)
        with contextlib.closing(connection):
            method = "GET" if body is None else "POST"
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()

    def infer(self, **changes):
        status, answer = self.ask("/v2/models/small/infer", request(**changes))
        return status, json.loads(answer)


def request(**changes):
    given = {"name": "image", "datatype": "FP32", "shape": list(IMAGES.shape)}
    given |= {"data": IMAGES.ravel().tolist()} | changes
    return json.dumps({"inputs": [given]})


@pytest.fixture
def server(artifact):
    running = Server(artifact)
    yield running
    running.process.kill()
    running.process.wait()


@pytest.mark.slow
def test_numbers_are_the_golden_ones_and_bad_requests_are_told(server):
    status, answer = server.infer()
    assert status == 200
    golden = golden_outputs(SMALL, IMAGES, ("lengths", "capsules"))
    for output, (name, expected) in zip(answer["outputs"], golden.items(), strict=True):
        assert (output["name"], output["datatype"]) == (name, "FP32")
        found = np.array(output["data"]).reshape(output["shape"])
        np.testing.assert_allclose(found, expected, atol=2e-6)
    document = json.loads(server.ask("/v2/models/small")[1])
    assert document["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 1, 12, 12]}]
    for changes, message in (
        ({"name": "picture"}, "the inputs"),
        ({"datatype": "INT64"}, "expected FP32 image"),
        ({"shape": [4, 12, 12, 1]}, "expected FP32 image"),
        ({"shape": [-1, 1, 12, 12]}, "expected FP32 image"),
        ({"data": [1.0, 2.0]}, "do not fit"),
        ({"data": ["a"] * IMAGES.size}, "do not fit"),
        ({"shape": "four"}, "shape"),
    ):
        status, answer = server.infer(**changes)
        assert (status, message in answer["error"]) == (400, True), (changes, answer)
    assert server.ask("/v2/models/small/infer", "{")[0] == 400
    assert server.ask("/v2/models/large/infer", request())[0] == 404
    assert server.ask("/v2/health/live")[0] == 200
    assert b"rest_server_requests" in server.ask("/metrics", port=server.port + 2)[1]


@pytest.mark.slow
def test_no_request_is_lost_when_the_server_ends(server):
    outcomes, heard = [], threading.Event()

    def client():
        while not heard.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
            connection.connect()
            while connection.sock is not None:
                connection.request(
                    "POST",
                    "/v2/models/small/infer",
                    request(),
                    {"Content-Type": "application/json"},
                )
                try:
                    response = connection.getresponse()
                    response.read()
                    outcomes.append(response.status)
                except (OSError, http.client.HTTPException) as error:
                    outcomes.append(f"lost: {error!r}")
                    connection.close()

    clients = [threading.Thread(target=client) for _ in range(8)]
    for each in clients:
        each.start()
    time.sleep(1)
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert server.ask("/v2/health/ready")[0] == 503
    time.sleep(1)
    heard.set()  # as a balancer does that sees it
    for each in clients:
        each.join()
    assert server.process.wait(60) == 0
    assert set(outcomes) == {200}
    assert len(outcomes) > 16


@pytest.mark.slow
def test_what_cannot_be_served_is_said(artifact):
    require_mlserver()

    def serve(*arguments):
        command = [sys.executable, "-m", "capsnet", "serve", str(artifact), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
        return done.returncode, done.stderr

    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, message = serve("--port", str(taken.getsockname()[1]))
    assert code == 3
    assert "give another --port" in message
    certificate_path(artifact).unlink()
    code, message = serve()
    assert code == 3
    assert "has no certificate" in message

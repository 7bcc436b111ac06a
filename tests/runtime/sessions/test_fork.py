"""Sessions in a process that was forked after they were opened: they run, or say why not."""

import subprocess
import sys

import pytest
from support.artifacts import onnx_bytes
from support.networks import SMALL, lively_model

from capsnet.export.lower import lower
from capsnet.formats import FORMATS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks")

FORK = """
import os, sys
import numpy
from capsnet.errors import ArtifactError
from capsnet.runtime.sessions.opening import open_session
session = open_session(sys.argv[1], "cpu", threads=2)
images = numpy.zeros((64, 1, 12, 12), numpy.float32)
session.run(images)
if os.fork() == 0:
    try:
        print(session.run(images)["lengths"].shape, flush=True)
    except ArtifactError as error:
        print(error, flush=True)
    os._exit(0)
os.wait()
session.run(images)
"""


def run(path):
    command = [sys.executable, "-P", "-c", FORK, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


@pytest.mark.parametrize("kind", ["torchscript", "pt2"])
def test_a_session_of_torch_says_that_it_does_not_survive_a_fork(tmp_path, kind):
    from capsnet.export.options import ExportOptions

    FORMATS[kind].export(lower(lively_model(SMALL)), tmp_path / "model", ExportOptions())
    assert "open it in each process" in run(tmp_path / "model")


def test_a_session_of_onnxruntime_survives_it(tmp_path):
    (tmp_path / "model.onnx").write_bytes(onnx_bytes())
    assert run(tmp_path / "model.onnx") == "(64, 5)\n"

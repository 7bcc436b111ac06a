"""The one place that opens onnxruntime: what it is told, and what goes wrong."""

import json

import numpy as np
import onnxruntime
import pytest
from support.artifacts import onnx_bytes
from support.networks import SMALL, random_images

from capsnet.errors import ArtifactError, DeviceError
from capsnet.runtime.sessions import cuda
from capsnet.runtime.sessions.onnx import create_session
from capsnet.runtime.sessions.threads import usable_cpus


@pytest.fixture
def path(tmp_path):
    (tmp_path / "model.onnx").write_bytes(onnx_bytes())
    return tmp_path / "model.onnx"


def test_file_and_content_give_the_same_session(path):
    images = random_images(SMALL, 3)
    sessions = [create_session(model) for model in (path, str(path), onnx_bytes())]
    results = [session.run(["lengths"], {"image": images})[0] for session in sessions]
    np.testing.assert_array_equal(results[1], results[0])
    np.testing.assert_array_equal(results[2], results[0])


@pytest.mark.parametrize("threads", [None, 1, 3])
def test_threads_are_those_that_were_asked_for(path, threads):
    options = create_session(path, threads=threads).get_session_options()
    assert options.intra_op_num_threads == (threads or usable_cpus())
    assert not options.enable_profiling


def test_profile_is_written_where_it_was_asked_for(path, tmp_path):
    session = create_session(path, profile_prefix=str(tmp_path / "profile"))
    session.run(None, {"image": random_images(SMALL, 1)})
    file = session.end_profiling()
    assert file.startswith(str(tmp_path / "profile"))
    events = json.loads((tmp_path / file).read_text())
    names = {event["name"] for event in events if event["cat"] == "Node"}
    assert any(name.startswith("stem") and name.endswith("kernel_time") for name in names)


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (b"no graph", "onnxruntime cannot load a model in memory: .*export it again or upgrade"),
        ("none.onnx", "onnxruntime cannot load none.onnx: "),
    ],
)
def test_model_that_cannot_be_loaded_is_an_artifact_error(model, match):
    with pytest.raises(ArtifactError, match=match) as caught:
        create_session(model)
    assert len(str(caught.value).splitlines()) == 1


def test_device_is_decided_before_anything_is_loaded(monkeypatch):
    monkeypatch.setattr(cuda, "why_no_cuda", lambda: "there is no driver")
    with pytest.raises(DeviceError, match="no CUDA for a model in memory: there is no driver"):
        create_session(b"no graph", "cuda")
    assert create_session(onnx_bytes(), "auto").get_providers() == [cuda.CPU]


def test_what_cuda_lacks_is_not_looked_for_on_the_cpu(path, monkeypatch):
    monkeypatch.setattr(cuda, "why_no_cuda", lambda: pytest.fail("CUDA was looked for"))
    assert create_session(path, "cpu").get_providers() == [cuda.CPU]


@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_cuda_comes_first_with_its_settings(path, monkeypatch, tf32, cuda_graphs):
    asked = []

    def session(*_, providers, **options):
        asked.append((providers, options))

    monkeypatch.setattr(cuda, "why_no_cuda", lambda: "")
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    create_session(path, "auto", tf32=tf32, cuda_graphs=cuda_graphs)
    settings = {"use_tf32": str(int(tf32)), "enable_cuda_graph": str(int(cuda_graphs))}
    assert asked == [([(cuda.CUDA, settings), cuda.CPU], {"enable_fallback": 0})]

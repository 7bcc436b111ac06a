"""Artifacts in OpenVINO give the numbers that they are proven for."""

import numpy as np
import pytest
from support.artifacts import edited, golden_outputs, onnx_bytes, with_weight
from support.networks import SMALL, lively_model, random_images

import capsnet
from capsnet.errors import ArtifactError, ConfigError, DeviceError
from capsnet.runtime.sessions.onnx_check import onnx_metadata, onnx_operators


@pytest.fixture
def artifact(tmp_path):
    path = tmp_path / "small.onnx"
    path.write_bytes(onnx_bytes(SMALL))
    return path


def open_in_openvino(path, device="auto"):
    pytest.importorskip("openvino")
    from capsnet.runtime.sessions.opening import open_session

    return open_session(path, device, runtime="openvino")


def test_numbers_are_the_golden_ones_at_any_batch(artifact):
    session = open_in_openvino(artifact)
    assert session.device == "openvino"
    for count in (1, 5, 3):
        images = random_images(SMALL, count)
        outputs = session.run(images)
        for name, expected in golden_outputs(SMALL, images, ("lengths", "capsules")).items():
            np.testing.assert_allclose(outputs[name], expected, atol=2e-6)


def test_results_of_an_earlier_run_stay(artifact):
    session = open_in_openvino(artifact)
    first = session.run(random_images(SMALL, 2))["capsules"]
    kept = first.copy()
    session.run(random_images(SMALL, 2, seed=1))
    assert (first == kept).all()


def test_it_is_proven_there_and_a_wrong_file_is_not(artifact, tmp_path):
    pytest.importorskip("openvino")
    from capsnet.checkpoint import save_checkpoint
    from capsnet.jobs import prove
    from capsnet.networks import NetworkSource
    from capsnet.runtime.proof.request import Request

    checkpoint, images = tmp_path / "model.safetensors", tmp_path / "images.npy"
    save_checkpoint(lively_model(SMALL), checkpoint)
    np.save(images, random_images(SMALL, 16))
    request = Request(NetworkSource(checkpoint), images, runtime="openvino")
    certificate = prove(artifact, request, in_process=True).certificate
    assert (certificate.verdict, certificate.device) == ("pass", "openvino")
    with pytest.raises(ArtifactError, match="proven on openvino"):
        capsnet.open_session(artifact, "cpu", require_certificate=True)
    change = with_weight("layer0.weight", lambda values: np.multiply(values, 1.01, out=values))
    artifact.write_bytes(edited(artifact.read_bytes(), change))
    assert prove(artifact, request, in_process=True).certificate.verdict == "fail"


def test_it_runs_on_the_cpu_alone(artifact):
    with pytest.raises(DeviceError, match="on the CPU alone"):
        open_in_openvino(artifact, "cuda")


def test_a_runtime_that_is_not_there_is_a_mistake(artifact):
    with pytest.raises(ConfigError, match="must be one of openvino, got 'tvm'"):
        capsnet.open_session(artifact, runtime="tvm")


def test_what_a_file_says_is_read_without_a_library(artifact):
    content = artifact.read_bytes()
    assert onnx_operators(content)["Conv"] >= 2
    assert onnx_metadata(content, "capsnet").startswith("{")
    assert onnx_metadata(content, "other") is None

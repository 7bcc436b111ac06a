"""What only a machine with a GPU can show; elsewhere these tests are skipped, and say why."""

import numpy as np
import pytest
import torch
from support.networks import SMALL, lively_model, random_images

from capsnet.checkpoint import save_checkpoint
from capsnet.export.formats.onnx import to_onnx
from capsnet.export.formats.pt2 import to_exported_program
from capsnet.export.formats.torchscript import to_torchscript
from capsnet.export.lower import lower
from capsnet.networks import NetworkSource
from capsnet.runtime.proof.proof import prove
from capsnet.runtime.proof.request import Request
from capsnet.runtime.sessions.cuda import CUDA, why_no_cuda
from capsnet.runtime.sessions.onnx import OrtSession
from capsnet.runtime.sessions.opening import open_session

EXPORTERS = {"onnx": to_onnx, "torchscript": to_torchscript, "pt2": to_exported_program}
ON_CUDA = {"onnx": CUDA, "torchscript": "torch cuda", "pt2": "torch cuda"}


def export(name, model, path, precision="fp32"):
    EXPORTERS[name](lower(model, precision=precision), path)


pytestmark = pytest.mark.cuda


@pytest.fixture(params=EXPORTERS)
def name(request):
    reason = why_no_cuda() if request.param == "onnx" else "torch finds no CUDA device"
    if reason and (request.param == "onnx" or not torch.cuda.is_available()):
        pytest.skip(reason)
    return request.param


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_every_node_runs_on_cuda_and_the_numbers_are_right(tmp_path, name, precision):
    model = lively_model(SMALL)
    save_checkpoint(model, tmp_path / "model.safetensors")
    np.save(tmp_path / "images.npy", random_images(SMALL, 40))
    export(name, model, tmp_path / "model", precision)
    assert set(open_session(tmp_path / "model", "cuda").providers()) == {ON_CUDA[name]}
    request = Request(
        NetworkSource(tmp_path / "model.safetensors"), tmp_path / "images.npy", device="cuda"
    )
    certificate = prove(tmp_path / "model", request).certificate
    assert certificate.passed, certificate.failures
    assert certificate.device == "cuda"


def test_auto_takes_cuda(tmp_path, name):
    export(name, lively_model(SMALL), tmp_path / "model")
    session = open_session(tmp_path / "model", "auto")
    assert (session.device, session.device_reason) == ("cuda", "it works")


def test_sessions_side_by_side_do_not_disturb_each_other(tmp_path, name):
    export(name, lively_model(SMALL), tmp_path / "model")
    sessions = [open_session(tmp_path / "model", device) for device in ("cuda", "cuda", "cpu")]
    images = random_images(SMALL, 5)
    first, second, third = (session.run(images)["lengths"] for session in sessions)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, third, atol=1e-5)


@pytest.mark.skipif(bool(why_no_cuda()), reason=str(why_no_cuda()))
@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_bound_batches_give_the_results_of_their_session(tmp_path, cuda_graphs):
    export("onnx", lively_model(SMALL), tmp_path / "model.onnx")
    session = OrtSession(
        tmp_path / "model.onnx",
        (tmp_path / "model.onnx").read_bytes(),
        "cuda",
        cuda_graphs=cuda_graphs,
    )
    bound = {batch: session.bind(batch) for batch in (1, 5)}
    for seed in range(3):  # the first run captures, later ones replay
        for batch, buffers in bound.items():
            images = random_images(SMALL, batch, seed)
            buffers.write(images)
            buffers.run()
            expected = session.run(images)["lengths"]
            np.testing.assert_allclose(buffers.read()["lengths"], expected, atol=1e-6)

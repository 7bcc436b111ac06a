"""Bound batches compute what sessions compute, on memory that stays where it is."""

import numpy as np
import onnxruntime
import pytest
from support.artifacts import onnx_bytes
from support.networks import SMALL, random_images

from capsnet.errors import ArtifactError, DataError, DeviceError
from capsnet.runtime.sessions import cuda
from capsnet.runtime.sessions.onnx import OrtSession


@pytest.fixture
def path(tmp_path):
    (tmp_path / "model.onnx").write_bytes(onnx_bytes(reconstruction=True))
    return tmp_path / "model.onnx"


def test_bound_batches_of_one_session_give_its_results(path):
    session = OrtSession(path, path.read_bytes(), "cpu")
    bound = {batch: session.bind(batch) for batch in (1, 4, 7)}
    for seed in (0, 1):
        for batch, buffers in bound.items():
            buffers.write(random_images(SMALL, batch, seed))
        for batch, buffers in reversed(bound.items()):
            buffers.run()
            found, expected = buffers.read(), session.run(random_images(SMALL, batch, seed))
            assert list(found) == ["lengths", "capsules", "reconstruction"]
            for name, values in expected.items():
                np.testing.assert_allclose(found[name], values, atol=1e-6)


def test_results_that_were_read_stay(path):
    buffers = OrtSession(path, path.read_bytes(), "cpu").bind(3)
    buffers.write(random_images(SMALL, 3, 0))
    buffers.run()
    first = buffers.read()
    kept = {name: values.copy() for name, values in first.items()}
    buffers.write(random_images(SMALL, 3, 1))
    buffers.run()
    assert any((buffers.read()[name] != kept[name]).any() for name in kept)
    for name, values in kept.items():
        np.testing.assert_array_equal(first[name], values)


@pytest.mark.parametrize(
    "images",
    [
        random_images(SMALL, 2),
        random_images(SMALL, 3)[:, :, :-1],
        np.zeros((3, 1, 12, 12), np.uint8),
    ],
    ids=["fewer", "smaller", "integers"],
)
def test_other_images_are_refused(path, images):
    with pytest.raises(DataError, match=r"what is bound takes float32 \[3, 1, 12, 12\]"):
        OrtSession(path, path.read_bytes(), "cpu").bind(3).write(images)


def test_images_are_taken_in_the_forms_that_sessions_take(path):
    buffers, images = OrtSession(path, path.read_bytes(), "cpu").bind(3), random_images(SMALL, 3)
    results = []
    for given in (images, images.tolist(), images.astype(np.float64)):
        buffers.write(given)
        buffers.run()
        results.append(buffers.read()["lengths"])
    np.testing.assert_array_equal(results[1], results[0])
    np.testing.assert_array_equal(results[2], results[0])


def test_images_need_not_be_contiguous(path):
    session = OrtSession(path, path.read_bytes(), "cpu")
    images = random_images(SMALL, 3)[..., ::-1]
    buffers = session.bind(3)
    buffers.write(images)
    buffers.run()
    expected = session.run(np.ascontiguousarray(images))
    np.testing.assert_allclose(buffers.read()["lengths"], expected["lengths"], atol=1e-6)


@pytest.mark.slow
def test_only_the_fixed_batch_size_can_be_bound(tmp_path):
    (tmp_path / "model.onnx").write_bytes(onnx_bytes(batch=2))
    session = OrtSession(tmp_path / "model.onnx", (tmp_path / "model.onnx").read_bytes(), "cpu")
    session.bind(2).run()
    with pytest.raises(DataError, match="a batch of 3 cannot be bound, expected 2"):
        session.bind(3)


def test_empty_batch_cannot_be_bound(path):
    with pytest.raises(DataError, match="a batch of 0 cannot be bound, expected at least 1"):
        OrtSession(path, path.read_bytes(), "cpu").bind(0)


def test_failure_of_onnxruntime_is_an_artifact_error(path, monkeypatch):
    def fail(*_):
        raise RuntimeError("CUDA error: out of memory\nat line 1")

    buffers = OrtSession(path, path.read_bytes(), "cpu").bind(3)
    monkeypatch.setattr(onnxruntime.InferenceSession, "run_with_iobinding", fail)
    with pytest.raises(ArtifactError, match="failed on a bound batch of 3: CUDA error: out of mem"):
        buffers.run()


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_cuda_graphs_need_cuda(path, monkeypatch, device):
    monkeypatch.setattr(cuda, "why_no_cuda", lambda: "there is no GPU")
    with pytest.raises(DeviceError, match=r"CUDA graphs need CUDA, and .* runs on the CPU"):
        OrtSession(path, path.read_bytes(), device, cuda_graphs=True)


def test_bound_batches_capture_graphs_of_their_own(path, monkeypatch):
    """As far as it shows without a GPU: what onnxruntime is told."""
    real, asked, told = onnxruntime.InferenceSession, [], []

    def on_the_cpu(*arguments, providers, **options):
        asked.append(providers[0])
        return real(*arguments, providers=["CPUExecutionProvider"], **options)

    with monkeypatch.context() as patch:
        patch.setattr(cuda, "why_no_cuda", lambda: None)
        patch.setattr(onnxruntime, "InferenceSession", on_the_cpu)
        patch.setattr(OrtSession, "placement", {"node": cuda.CUDA})
        session = OrtSession(path, path.read_bytes(), "cuda", cuda_graphs=True)
    assert asked == [(cuda.CUDA, {"use_tf32": "0", "enable_cuda_graph": "1"})]
    session.device = "cpu"  # where the buffers can be

    def run(_self, *arguments):
        told.append(arguments[-1].get_run_config_entry("gpu_graph_id"))
        return [np.zeros((3, 1)) for _ in session.metadata.outputs]

    monkeypatch.setattr(onnxruntime.InferenceSession, "run_with_iobinding", run)
    monkeypatch.setattr(onnxruntime.InferenceSession, "run", run)
    first, second = session.bind(3), session.bind(3)
    for buffers in (first, second, first):
        buffers.run()
    session.run(random_images(SMALL, 3))
    assert told == ["1", "2", "1", "-1"]


def test_batch_that_does_not_fit_on_the_device_is_an_artifact_error(path, monkeypatch):
    def fail(*_):
        raise RuntimeError("bad allocation")

    monkeypatch.setattr(onnxruntime.OrtValue, "ortvalue_from_shape_and_type", fail)
    with pytest.raises(
        ArtifactError, match=r"image of a bound batch of 9 does not fit .*: bad all"
    ):
        OrtSession(path, path.read_bytes(), "cpu").bind(9)


def test_session_that_cannot_have_graphs_is_a_device_error(path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("not all nodes on CUDA")

    monkeypatch.setattr(cuda, "why_no_cuda", lambda: None)
    monkeypatch.setattr(onnxruntime, "InferenceSession", fail)
    with pytest.raises(DeviceError, match=r"cannot run in CUDA graphs: .*not all nodes on CUDA"):
        OrtSession(path, path.read_bytes(), "cuda", cuda_graphs=True)

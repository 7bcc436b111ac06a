"""A proof reads the file from disk, certifies its bytes, and names what cannot be read."""

import dataclasses
import getpass
import json
import re
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.markup import escape
from support.artifacts import edited, metadata_of, onnx_bytes, with_metadata, with_weight
from support.networks import SMALL, TINY, altered, lively_model, random_images
from support.proof import request_in, verify

from capsnet.bundled import BUNDLED
from capsnet.checkpoint import save_checkpoint
from capsnet.data.idx import mnist_test_set
from capsnet.documents import from_values, to_values
from capsnet.errors import ArtifactError, CheckpointError, DataError, ResultError
from capsnet.export.formats.onnx import to_onnx
from capsnet.export.lower import lower
from capsnet.export.options import ExportOptions
from capsnet.files import file_sha256
from capsnet.networks import NetworkSource
from capsnet.precision import PRECISIONS
from capsnet.runtime.certificate import certificate_path, write_certificate
from capsnet.runtime.proof.collect import SAMPLE, orders_for
from capsnet.runtime.proof.proof import Prover, prove
from capsnet.runtime.proof.reference import EagerModel
from capsnet.runtime.proof.request import Request
from capsnet.runtime.proof.results import Certificate, ImageSet
from capsnet.runtime.proof.tables import summary_lines

# In this process


def test_sound_artifact_is_proven(folder):
    certificate = verify(folder)
    assert certificate.passed
    assert certificate.parity.passed
    assert not certificate.parity.failures
    assert certificate.images == ImageSet("images.npy", 5)
    assert certificate.device == "cpu"
    assert set(certificate.providers) == {"CPUExecutionProvider"}
    assert certificate.checkpoint_sha256 == file_sha256(folder / "model.safetensors")


def test_certificate_describes_the_artifact_s_bytes(folder):
    artifact = verify(folder).artifact
    assert artifact.file == "model.onnx"
    assert artifact.format == "onnx"
    assert artifact.bytes == len(onnx_bytes())
    assert artifact.sha256 == file_sha256(folder / "model.onnx")
    assert to_values(artifact.metadata) == metadata_of(onnx_bytes())


def test_wrong_artifact_is_not_proven(folder):
    def perturb(weights):
        weights.reshape(-1)[0] += 0.01

    content = edited(onnx_bytes(), with_weight("primary_capsules.conv.bias", perturb))
    (folder / "model.onnx").write_bytes(content)
    certificate = verify(folder)
    assert not certificate.passed
    assert any("above the budget" in failure for failure in certificate.parity.failures)


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"artifact": "none.onnx"}, ArtifactError, r"cannot read .*none\.onnx"),
        ({"artifact": "images.npy"}, ArtifactError, r"images\.npy"),
        ({"checkpoint": "none.safetensors"}, CheckpointError, r"none\.safetensors"),
        ({"images": "none.npy"}, DataError, r"none\.npy"),
        ({"images": None}, DataError, "bundled MNIST images do not fit it: give images"),
    ],
)
def test_what_cannot_be_read_is_named(folder, changes, error, match):
    with pytest.raises(error, match=match):
        verify(folder, **changes)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 1, 13, 12), np.float32),
        np.full((2, 1, 12, 12), 1.5, np.float32),
        np.full((2, 1, 12, 12), -1, np.int16),
        np.full((2, 1, 12, 12), np.nan, np.float32),
    ],
    ids=["size", "range", "negative", "NaN"],
)
def test_images_that_do_not_fit_are_refused(folder, images):
    np.save(folder / "images.npy", images)
    with pytest.raises(DataError, match=r"images\.npy"):
        verify(folder)


def test_other_checkpoint_is_refused_by_its_digest(folder):
    metadata = {**metadata_of(onnx_bytes()), "checkpoint_sha256": "0" * 64}
    (folder / "model.onnx").write_bytes(with_metadata(onnx_bytes(), metadata))
    digest = file_sha256(folder / "model.safetensors")
    with pytest.raises(ResultError, match=f"SHA-256 {'0' * 64}, this one has {digest}"):
        verify(folder)


def test_checkpoint_named_by_the_artifact_is_accepted(folder):
    digest = file_sha256(folder / "model.safetensors")
    metadata = {**metadata_of(onnx_bytes()), "checkpoint_sha256": digest}
    (folder / "model.onnx").write_bytes(with_metadata(onnx_bytes(), metadata))
    assert verify(folder).passed


def test_checkpoint_of_other_sizes_is_refused(folder):
    wider = altered(SMALL, stem_channels=5)
    save_checkpoint(lively_model(wider), folder / "model.safetensors")
    words = r"the stem of its network is \{'channels.: 4, .*that of this one \{'channels': 5, "
    with pytest.raises(ResultError, match=f"was not exported from .*: {words}"):
        verify(folder)


def test_checkpoint_with_other_weights_fails_where_the_artifact_names_none(folder):
    model = lively_model(SMALL)
    model.stem.bias.data += 0.01
    save_checkpoint(model, folder / "model.safetensors")
    assert not verify(folder).passed


def test_another_network_is_named_before_images_are_read(folder, tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((4, 3, 50, 50), np.float32))
    save_checkpoint(lively_model(TINY), tmp_path / "model.safetensors")
    (tmp_path / "model.onnx").write_bytes((folder / "model.onnx").read_bytes())
    with pytest.raises(ResultError, match=r"was not exported from .*model\.safetensors: the "):
        verify(tmp_path)


def test_bundled_images_give_other_networks_no_accuracy(tmp_path):
    save_checkpoint(lively_model(TINY), tmp_path / "model.safetensors")
    (tmp_path / "model.onnx").write_bytes(onnx_bytes(TINY, reconstruction=True))
    certificate = verify(tmp_path, images=None, samples=4)
    assert certificate.passed
    images = dataclasses.replace(certificate.images, warnings=())
    assert images == ImageSet("MNIST test set", 4, total=10_000)
    [warning] = certificate.images.warnings
    assert "it is not known what the network was trained on" in warning
    assert escape(warning) in summary_lines(certificate)[-1]
    assert certificate.parity.accuracy is None


@pytest.mark.slow
def test_bundled_checkpoint_is_exported_proven_and_accurate(tmp_path):
    from capsnet.checkpoint import load_checkpoint

    to_onnx(
        lower(load_checkpoint(BUNDLED["mnist"])),
        tmp_path / "model.onnx",
        ExportOptions(checkpoint_sha256=file_sha256(BUNDLED["mnist"])),
    )
    request = Request(NetworkSource(BUNDLED["mnist"]), samples=20, device="cpu")
    certificate = prove(tmp_path / "model.onnx", request).certificate
    assert certificate.passed
    assert certificate.parity.agreement == 1
    assert certificate.parity.accuracy.candidate >= 0.95
    labels = mnist_test_set().labels[np.arange(20) * 500]
    assert len(set(labels.tolist())) > 5  # that the sample is no single class


# The certificate


def test_certificate_lies_beside_the_artifact_and_names_its_digest(folder):
    artifact = folder / "model.onnx"
    assert certificate_path(artifact) == folder / "model.onnx.parity.json"
    found = verify(folder)
    write_certificate(found, artifact)
    certificate = json.loads(certificate_path(artifact).read_text(encoding="utf-8"))
    assert certificate["artifact"]["sha256"] == file_sha256(artifact)
    assert certificate["artifact"]["file"] == "model.onnx"
    assert certificate["verdict"] == "pass"
    assert certificate["schema_version"] == 1
    assert from_values(Certificate, certificate) == found
    checks = certificate["parity"]["checks"]
    assert {check["output"] for check in checks} == {"lengths", "capsules"}
    assert all({"max", "p99", "rms"} <= check["allowed"].keys() for check in checks)
    assert all(check["errors"]["max"] > 0 for check in checks)
    assert certificate["parity"]["budget"] == to_values(PRECISIONS["fp32"].budget)
    assert {"python", "torch", "numpy", "capsnet-export"} <= certificate["environment"].keys()
    assert any(name.startswith("onnxruntime") for name in certificate["environment"])


def test_certificate_tells_nothing_about_the_machine(folder, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "zaphod-host")
    monkeypatch.setattr(getpass, "getuser", lambda: "zaphod")
    monkeypatch.setattr("platform.node", lambda: "zaphod-host")
    text = write_certificate(verify(folder), folder / "model.onnx").read_text()
    assert "zaphod" not in text
    for place in (folder, Path(sys.prefix), Path(__file__).parents[2]):
        assert str(place) not in text
    assert not re.search(r"(?<![\w.])/\w+/|[A-Za-z]:\\\\", text)
    assert not re.search(r"20\d\d-\d\d-\d\d", text)


@pytest.mark.parametrize(("images", "computed"), [(5, True), (SAMPLE + 1, False)])
def test_results_of_few_images_are_computed_ahead_on_all_threads_but_one(
    folder, monkeypatch, images, computed
):
    threads = []
    real = EagerModel.run

    def run(self, *arguments):
        threads.append(torch.get_num_threads())
        return real(self, *arguments)

    monkeypatch.setattr(EagerModel, "run", run)
    np.save(folder / "images.npy", random_images(SMALL, images))
    torch.set_num_threads(2)
    prover = Prover(request_in(folder))
    prover.prepare()
    assert set(threads) == ({1} if computed else set())
    assert torch.get_num_threads() == 2
    threads.clear()
    assert prover.prove(folder / "model.onnx").certificate.passed
    assert set(threads) == {2}


def test_reference_is_computed_once_for_several_artifacts(folder, monkeypatch):
    computed = []
    real = EagerModel._compute

    def compute(self, images, order):
        computed.append((self._dtype, order, len(images)))
        return real(self, images, order)

    monkeypatch.setattr(EagerModel, "_compute", compute)
    np.save(folder / "images.npy", random_images(SMALL, 70))
    prover = Prover(request_in(folder))
    prover.prepare()
    ahead = list(computed)
    orders = [(torch.float32, order, 70) for order in range(orders_for(70))]
    assert [c for c in ahead if c[2] == 70] == [(torch.float64, 0, 70), *orders]
    for _ in range(3):
        assert prover.prove(folder / "model.onnx").certificate.passed
    assert computed == ahead

"""Verification reads the file in a fresh process, certifies its bytes, and hides no crash."""

import getpass
import json
import re
import socket
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from support.artifacts import edited, metadata_of, onnx_bytes, with_metadata, with_weight
from support.networks import SMALL, TINY, altered, lively_model, random_images

from capsnet.checkpoint import BUNDLED_CHECKPOINT, save_checkpoint
from capsnet.data.idx import mnist_test_set
from capsnet.errors import (
    ArtifactError,
    CapsNetError,
    CheckpointError,
    DataError,
    DeviceError,
    ResultError,
)
from capsnet.export.formats.onnx import to_onnx
from capsnet.export.lower import lower
from capsnet.files import file_sha256
from capsnet.runtime import process
from capsnet.runtime.certificate import certificate_path, write_certificate
from capsnet.runtime.proof import verification
from capsnet.runtime.proof.verification import FreshProcess, Judge, Request


@pytest.fixture
def folder(tmp_path):
    """A checkpoint of the small network, its artifact, and five images."""
    save_checkpoint(lively_model(SMALL), tmp_path / "model.safetensors")
    (tmp_path / "model.onnx").write_bytes(onnx_bytes())
    np.save(tmp_path / "images.npy", random_images(SMALL, 5))
    return tmp_path


def request_in(folder, checkpoint="model.safetensors", images="images.npy", samples=None):
    where = None if images is None else folder / images
    return Request(folder / checkpoint, where, samples, device="cpu")


def verify(folder, artifact="model.onnx", **changes):
    return Judge(request_in(folder, **changes)).judge(folder / artifact)


def verify_in_fresh_process(folder, artifact="model.onnx", **changes):
    with FreshProcess(request_in(folder, **changes)) as process:
        process.submit(folder / artifact)
        [document] = process.documents()
    return document


def idx_folder(folder, images, labels):
    """A folder with a labelled test split in MNIST's format."""
    folder.mkdir()
    for name, array in (("images-idx3", images), ("labels-idx1", labels)):
        header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
        (folder / f"t10k-{name}-ubyte").write_bytes(header + array.astype(np.uint8).tobytes())
    return folder


# In this process


def test_sound_artifact_is_proven(folder):
    document = verify(folder)
    assert document["verdict"] == "pass"
    assert document["parity"]["passed"] is True
    assert not document["parity"]["failures"]
    assert document["images"] == {"source": "images.npy", "count": 5}
    assert document["device"] == "cpu"
    assert set(document["providers"]) == {"CPUExecutionProvider"}
    assert document["checkpoint_sha256"] == file_sha256(folder / "model.safetensors")


def test_document_describes_the_artifact_s_bytes(folder):
    artifact = verify(folder)["artifact"]
    assert artifact["file"] == "model.onnx"
    assert artifact["format"] == "onnx"
    assert artifact["bytes"] == len(onnx_bytes())
    assert artifact["sha256"] == file_sha256(folder / "model.onnx")
    assert json.loads(json.dumps(artifact["metadata"])) == metadata_of(onnx_bytes())


def test_wrong_artifact_is_not_proven(folder):
    def perturb(weights):
        weights.reshape(-1)[0] += 0.01

    content = edited(onnx_bytes(), with_weight("primary.bias", perturb))
    (folder / "model.onnx").write_bytes(content)
    document = verify(folder)
    assert document["verdict"] == "fail"
    assert any("above the budget" in failure for failure in document["parity"]["failures"])


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
    document = {**metadata_of(onnx_bytes()), "checkpoint_sha256": "0" * 64}
    (folder / "model.onnx").write_bytes(with_metadata(onnx_bytes(), document))
    digest = file_sha256(folder / "model.safetensors")
    with pytest.raises(ResultError, match=f"SHA-256 {'0' * 64}, this one has {digest}"):
        verify(folder)


def test_checkpoint_named_by_the_artifact_is_accepted(folder):
    digest = file_sha256(folder / "model.safetensors")
    document = {**metadata_of(onnx_bytes()), "checkpoint_sha256": digest}
    (folder / "model.onnx").write_bytes(with_metadata(onnx_bytes(), document))
    assert verify(folder)["verdict"] == "pass"


def test_checkpoint_of_other_sizes_is_refused(folder):
    wider = altered(SMALL, stem_channels=5)
    save_checkpoint(lively_model(wider), folder / "model.safetensors")
    with pytest.raises(ResultError, match="was not exported from"):
        verify(folder)


def test_checkpoint_with_other_weights_fails_where_the_artifact_names_none(folder):
    model = lively_model(SMALL)
    model.stem.bias.data += 0.01
    save_checkpoint(model, folder / "model.safetensors")
    assert verify(folder)["verdict"] == "fail"


# Images and labels


def test_labelled_folder_gives_accuracy(folder):
    images = (random_images(SMALL, 6)[:, 0] * 255).astype(np.uint8)
    idx_folder(folder / "digits", images, np.array([0, 1, 2, 3, 4, 0]))
    document = verify(folder, images="digits")
    assert document["images"] == {"source": "digits: t10k split", "count": 6}
    assert set(document["parity"]["accuracy"]) == {"golden", "baseline", "candidate"}


@pytest.mark.parametrize(("samples", "chosen"), [(1, [0]), (2, [0, 5]), (3, [0, 3, 6]), (99, None)])
def test_samples_are_spread_evenly_over_a_labelled_folder(folder, monkeypatch, samples, chosen):
    images = np.arange(10, dtype=np.uint8)[:, None, None].repeat(12, 1).repeat(12, 2)
    idx_folder(folder / "digits", images, np.arange(10) % 5)
    seen = compared(monkeypatch)
    verify(folder, images="digits", samples=samples)
    used, labels = seen[0]
    expected = list(range(10)) if chosen is None else chosen
    assert np.rint(used[:, 0, 0, 0] * 255).astype(int).tolist() == expected
    assert labels.tolist() == [n % 5 for n in expected]


def test_samples_are_spread_evenly_over_an_array(folder, monkeypatch):
    images = np.arange(10, dtype=np.uint8)[:, None, None, None].repeat(12, 2).repeat(12, 3)
    np.save(folder / "images.npy", images)
    seen = compared(monkeypatch)
    verify(folder, samples=2)
    assert np.rint(seen[0][0][:, 0, 0, 0] * 255).tolist() == [0, 5]


def compared(monkeypatch):
    """Images and labels of every comparison from now on."""
    seen, compare = [], verification.compare

    def spy(golden, baseline, candidate, images, labels=None, *rest):
        seen.append((images, labels))
        return compare(golden, baseline, candidate, images, labels, *rest)

    monkeypatch.setattr(verification, "compare", spy)
    return seen


def test_array_has_no_labels_and_is_limited_to_the_samples(folder):
    document = verify(folder, samples=3)
    assert document["images"] == {"source": "images.npy", "count": 3}
    assert document["parity"]["accuracy"] is None


def test_bundled_images_give_other_networks_no_accuracy(tmp_path):
    save_checkpoint(lively_model(TINY), tmp_path / "model.safetensors")
    (tmp_path / "model.onnx").write_bytes(onnx_bytes(TINY, reconstruction=True))
    document = verify(tmp_path, images=None, samples=4)
    assert document["verdict"] == "pass"
    assert document["images"] == {"source": "MNIST test set", "count": 4}
    assert document["parity"]["accuracy"] is None


def test_bundled_checkpoint_is_exported_proven_and_accurate(tmp_path):
    from capsnet.checkpoint import load_checkpoint

    to_onnx(
        lower(load_checkpoint(BUNDLED_CHECKPOINT)),
        tmp_path / "model.onnx",
        checkpoint_sha256=file_sha256(BUNDLED_CHECKPOINT),
    )
    judge = Judge(Request(BUNDLED_CHECKPOINT, samples=20, device="cpu"))
    document = judge.judge(tmp_path / "model.onnx")
    assert document["verdict"] == "pass"
    assert document["parity"]["agreement"] == 1
    assert document["parity"]["accuracy"]["candidate"] >= 0.95
    labels = mnist_test_set().labels[np.arange(20) * 500]
    assert len(set(labels.tolist())) > 5  # that the sample is no single class


# In a process of its own


def test_fresh_process_gives_the_verdict_of_this_one(folder):
    fresh, here = verify_in_fresh_process(folder), verify(folder)
    assert fresh == json.loads(json.dumps(here))
    assert fresh["verdict"] == "pass"


def test_error_in_the_fresh_process_arrives_as_itself(folder):
    with pytest.raises(CheckpointError, match=r"none\.safetensors"):
        verify_in_fresh_process(folder, checkpoint="none.safetensors")


def test_files_of_the_working_folder_do_not_reach_the_fresh_process(folder, monkeypatch):
    (folder / "random.py").write_text("raise SystemExit('a file of the user')")
    monkeypatch.chdir(folder)
    assert verify_in_fresh_process(folder)["verdict"] == "pass"


@pytest.fixture
def child(monkeypatch):
    """Replace the fresh process by one that runs the given code."""
    real = process.subprocess.Popen

    def replace(code):
        def popen(command, **options):
            assert command[0] == sys.executable
            return real([sys.executable, "-c", code], **options)

        monkeypatch.setattr(process.subprocess, "Popen", popen)

    return replace


HELLO = "print('{}');"
PASS = '{"verdict": "pass", "parity": {}}'


def test_verdict_of_the_child_is_handed_on(child, folder):
    child(f"{HELLO} print('{PASS}')")
    assert verify_in_fresh_process(folder) == json.loads(PASS)


@pytest.mark.parametrize(
    "kind", [ArtifactError, CheckpointError, DataError, DeviceError, ResultError]
)
@pytest.mark.parametrize("greeting", ["", HELLO], ids=["at once", "after its start"])
def test_errors_keep_their_kind_and_words(child, folder, kind, greeting):
    answer = json.dumps({"error": "no such thing", "kind": kind.__name__})
    child(f"{greeting}print({answer!r})")
    with pytest.raises(CapsNetError, match=r"^no such thing$") as caught:
        verify_in_fresh_process(folder)
    assert type(caught.value) is kind


def test_several_files_are_judged_in_order_against_one_reference(folder):
    def perturb(weights):
        weights.reshape(-1)[0] += 0.01

    (folder / "wrong.onnx").write_bytes(edited(onnx_bytes(), with_weight("primary.bias", perturb)))
    with FreshProcess(request_in(folder)) as fresh:
        for name in ("wrong.onnx", "model.onnx"):
            fresh.submit(folder / name)
        documents = fresh.documents()
    assert [document["artifact"]["file"] for document in documents] == ["wrong.onnx", "model.onnx"]
    assert [document["verdict"] for document in documents] == ["fail", "pass"]


@pytest.mark.parametrize(
    ("code", "match"),
    [
        ("import os; os.abort()", r"crashed: its process ended with code -\d+ and no answer"),
        ("import sys; print('out of luck', file=sys.stderr); sys.exit(7)", "code 7.*out of luck"),
        ("raise KeyError('abc')", "code 1 and no answer; it said last: KeyError: 'abc'"),
        ("", "code 0 and no answer; it said last: nothing"),
        (HELLO, "code 0 and no answer; it said last: nothing"),
        (HELLO + "print('no JSON at all')", "code 0 and no answer"),
        (HELLO + "print('[]')", "code 0 and no answer"),
        (HELLO + "print('null')", "code 0 and no answer"),
        (HELLO + "print('{}')", "gave no verdict"),
        (HELLO + """print('{"verdict": "perhaps"}')""", "gave no verdict"),
        (HELLO + """print('{"verdict": true}')""", "gave no verdict"),
        (f"{HELLO} print('{PASS}'[:-2])", "code 0 and no answer"),
        (
            f"import os, sys; {HELLO} print('{PASS}'); sys.stdout.flush(); os._exit(9)",
            "code 9",
        ),
    ],
    ids=[
        "abort",
        "exit",
        "exception",
        "silence",
        "silence after its start",
        "words",
        "list",
        "null",
        "empty",
        "perhaps",
        "true",
        "cut",
        "verdict, then failure",
    ],
)
def test_child_without_a_clear_verdict_is_a_failure(child, folder, code, match):
    child(code)
    with pytest.raises(ResultError, match=match) as caught:
        verify_in_fresh_process(folder)
    assert "model.onnx" in str(caught.value)


def test_hanging_child_is_a_failure(child, folder, monkeypatch):
    child("import time; time.sleep(60)")
    monkeypatch.setattr(verification, "_TIMEOUT_BASE", 0.2)
    monkeypatch.setattr(verification, "_TIMEOUT_PER_IMAGE", 0.01)
    with pytest.raises(ResultError, match=r"model\.onnx hung: no verdict within 0 s"):
        verify_in_fresh_process(folder, samples=5)


def test_words_of_a_library_on_standard_output_do_not_hide_the_verdict(folder, monkeypatch):
    noise = folder / "noise"
    noise.mkdir()
    # onnxruntime prints to standard output when it falls back to another provider
    (noise / "sitecustomize.py").write_text("print('*** EP Error ***', flush=True)")
    monkeypatch.setenv("PYTHONPATH", str(noise))
    assert verify_in_fresh_process(folder)["verdict"] == "pass"


# The certificate


def test_certificate_lies_beside_the_artifact_and_names_its_digest(folder):
    artifact = folder / "model.onnx"
    assert certificate_path(artifact) == folder / "model.onnx.parity.json"
    document = verify(folder)
    write_certificate(document, artifact)
    certificate = json.loads(certificate_path(artifact).read_text(encoding="utf-8"))
    assert certificate["artifact"]["sha256"] == file_sha256(artifact)
    assert certificate["artifact"]["file"] == "model.onnx"
    assert certificate["verdict"] == "pass"
    assert certificate["schema_version"] == 1
    assert certificate == json.loads(json.dumps(document))
    checks = certificate["parity"]["checks"]
    assert {check["output"] for check in checks} == {"lengths", "capsules"}
    assert all({"max", "p99", "rms"} <= check["allowed"].keys() for check in checks)
    assert all(check["errors"]["max"] > 0 for check in checks)
    assert certificate["parity"]["budget"].keys() == {"factor", "max", "p99", "rms", "clips"}
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

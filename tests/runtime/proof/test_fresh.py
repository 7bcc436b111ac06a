"""Verification in a fresh process hides no crash, and gives the verdict of this one."""

import json
import sys

import numpy as np
import pytest
from support.artifacts import edited, metadata_of, onnx_bytes, with_metadata, with_weight
from support.proof import fill_folder, request_in, verify, verify_in_fresh_process

from capsnet.documents import to_values
from capsnet.errors import (
    ArtifactError,
    CapsNetError,
    CheckpointError,
    DataError,
    DeviceError,
    ResultError,
)
from capsnet.runtime import process as process_module
from capsnet.runtime.proof import fresh
from capsnet.runtime.proof import proof as proof_module
from capsnet.runtime.proof.fresh import FreshProcess
from capsnet.runtime.proof.proof import Prover, prove
from capsnet.runtime.proof.reference import EagerModel
from capsnet.runtime.proof.results import ImageSet, Tolerance


@pytest.mark.slow
def test_fresh_process_gives_the_verdict_of_this_one(folder):
    fresh, here = verify_in_fresh_process(folder), verify(folder)
    assert fresh == here
    assert fresh.passed


@pytest.mark.slow
def test_error_in_the_fresh_process_arrives_as_itself(folder):
    with pytest.raises(CheckpointError, match=r"none\.safetensors"):
        verify_in_fresh_process(folder, checkpoint="none.safetensors")


@pytest.mark.slow
def test_files_of_the_working_folder_do_not_reach_the_fresh_process(folder, monkeypatch):
    (folder / "random.py").write_text("raise SystemExit('a file of the user')")
    monkeypatch.chdir(folder)
    assert verify_in_fresh_process(folder).passed


@pytest.fixture
def child(monkeypatch):
    """Replace the fresh process by one that runs the given code."""
    real = process_module.subprocess.Popen

    def replace(code):
        def popen(command, **options):
            assert command[0] == sys.executable
            return real([sys.executable, "-c", code], **options)

        monkeypatch.setattr(process_module.subprocess, "Popen", popen)

    return replace


HELLO = "print('{}');"


@pytest.fixture(scope="module")
def proof(tmp_path_factory):
    """A proof, as the answer of a process."""
    folder = fill_folder(tmp_path_factory.mktemp("proof"))
    return json.dumps(to_values(prove(folder / "model.onnx", request_in(folder))))


def test_verdict_of_the_child_is_handed_on(child, folder, proof):
    child(f"{HELLO} print({proof!r})")
    assert to_values(verify_in_fresh_process(folder)) == json.loads(proof)["certificate"]


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


@pytest.mark.slow
def test_several_files_are_judged_in_order_against_one_reference(folder):
    def perturb(weights):
        weights.reshape(-1)[0] += 0.01

    (folder / "wrong.onnx").write_bytes(
        edited(onnx_bytes(), with_weight("primary_capsules.conv.bias", perturb))
    )
    with FreshProcess(request_in(folder)) as child:
        for name in ("wrong.onnx", "model.onnx"):
            child.submit(folder / name)
        certificates = [proof.certificate for proof in child.proofs()]
    assert [c.artifact.file for c in certificates] == ["wrong.onnx", "model.onnx"]
    assert [c.verdict for c in certificates] == ["fail", "pass"]


@pytest.mark.parametrize(
    ("code", "match"),
    [
        ("import os; os.abort()", r"crashed: its process ended with code -\d+ and no answer"),
        ("import sys; print('out of luck', file=sys.stderr); sys.exit(7)", "code 7.*out of luck"),
        ("raise KeyError('abc')", "code 1 and no answer; it printed last: KeyError: 'abc'"),
        ("", "code 0 and no answer; it printed last: nothing"),
        (HELLO, "code 0 and no answer; it printed last: nothing"),
        (HELLO + "print('no JSON at all')", "code 0 and no answer"),
        (HELLO + "print('[]')", "code 0 and no answer"),
        (HELLO + "print('null')", "code 0 and no answer"),
        (HELLO + "print('{}')", "gave no verdict"),
        (HELLO + "print(PROOF.replace('pass', 'perhaps', 1))", "gave no verdict.*'perhaps'"),
        (HELLO + "print(PROOF.replace('\"pass\"', 'true', 1))", "gave no verdict.*True"),
        (HELLO + "print(PROOF.replace('checkpoint_sha256', 'other', 1))", "gave no verdict"),
        (HELLO + "print(PROOF[:-2])", "code 0 and no answer"),
        (
            f"import os, sys; {HELLO} print(PROOF); sys.stdout.flush(); os._exit(9)",
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
        "a key that is missing",
        "cut",
        "verdict, then failure",
    ],
)
def test_child_without_a_clear_verdict_is_a_failure(child, folder, proof, code, match):
    child(f"PROOF = {proof!r}; {code}")
    with pytest.raises(ResultError, match=match) as caught:
        verify_in_fresh_process(folder)
    assert "model.onnx" in str(caught.value)


def test_hanging_child_is_a_failure(child, folder, monkeypatch):
    child("import time; time.sleep(60)")
    monkeypatch.setattr(fresh, "_TIMEOUT_BASE", 0.2)
    monkeypatch.setattr(fresh, "_TIMEOUT_PER_IMAGE", 0.01)
    with pytest.raises(ResultError, match=r"model\.onnx hung: no verdict within 0 s"):
        verify_in_fresh_process(folder, samples=5)


@pytest.mark.slow
def test_words_of_a_library_on_standard_output_do_not_hide_the_verdict(folder, monkeypatch):
    noise = folder / "noise"
    noise.mkdir()
    # onnxruntime prints to standard output when it falls back to another provider
    (noise / "sitecustomize.py").write_text("print('*** EP Error ***', flush=True)")
    monkeypatch.setenv("PYTHONPATH", str(noise))
    assert verify_in_fresh_process(folder).passed


@pytest.mark.slow
def test_definitions_are_loaded_before_the_checkpoint(folder):
    definitions = folder / "own.py"
    definitions.write_text(f"open({str(folder / 'loaded')!r}, 'w').close()")
    request = request_in(folder, checkpoint="none.safetensors", definitions=(definitions,))
    with FreshProcess(request) as child:
        child.submit(folder / "model.onnx")
        with pytest.raises(CheckpointError):
            child.proofs()
    assert (folder / "loaded").exists()


@pytest.mark.slow
def test_request_reaches_the_fresh_process_as_it_was(folder):
    np.save(folder / "labels.npy", np.arange(5))
    process = FreshProcess(
        request_in(
            folder,
            labels=folder / "labels.npy",
            samples=4,
            tolerance=Tolerance(atol=1e-12),
            details=True,
        )
    )
    with process as child:
        child.submit(folder / "model.onnx")
        [found] = child.proofs()
    assert found.certificate.images == ImageSet("images.npy", 4, total=5)
    assert found.certificate.parity.tolerance == Tolerance(1e-12, 0.0)
    assert found.certificate.parity.accuracy is not None
    assert not found.certificate.passed
    assert found.details is not None
    assert len(found.details.worst) == 4


def test_reference_is_computed_ahead_or_after_the_artifact_was_opened(folder, monkeypatch):
    computed = []
    monkeypatch.setattr(Prover, "prepare", lambda _: computed.append(True))
    for prepare in (True, False):
        request = json.loads(json.dumps(to_values(request_in(folder)), default=str))
        about, answer = fresh._start({"request": request, "prepare": prepare})
        assert about == {}
        assert answer({"artifact": str(folder / "model.onnx")})["certificate"]["verdict"] == "pass"
    assert computed == [True]


def test_output_that_the_model_does_not_have_is_named(folder):
    document = metadata_of(onnx_bytes())
    document["outputs"][1]["name"] = "poses"

    def rename(model):
        model.graph.output[1].name = "poses"
        for node in model.graph.node:
            node.input[:] = ["poses" if name == "capsules" else name for name in node.input]
            node.output[:] = ["poses" if name == "capsules" else name for name in node.output]

    (folder / "model.onnx").write_bytes(with_metadata(edited(onnx_bytes(), rename), document))
    with pytest.raises(ResultError, match="no output poses, it has lengths, capsules"):
        verify(folder)


def test_device_that_is_not_there_is_an_error_before_anything_is_computed(folder, monkeypatch):
    def compute(*arguments):
        raise AssertionError("the device is missing")

    def missing(path, device, runtime):
        raise DeviceError(f"no {device} for {path.name}")

    monkeypatch.setattr(proof_module, "open_session", missing)
    monkeypatch.setattr(EagerModel, "run", compute)
    with pytest.raises(DeviceError, match=r"no cpu for model\.onnx"):
        verify(folder)

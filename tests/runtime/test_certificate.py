"""Certificates: a file is proven only by a passing certificate of exactly its bytes."""

import dataclasses
import json
import subprocess
import sys

import pytest
from support.artifacts import onnx_bytes
from support.networks import SMALL
from support.proof import fill_folder, verify

from capsnet.documents import from_values
from capsnet.errors import ArtifactError, ConfigError, ResultError
from capsnet.files import file_sha256
from capsnet.runtime.certificate import (
    SCHEMA_VERSION,
    certificate_path,
    environment,
    require_certificate,
    write_certificate,
)
from capsnet.runtime.proof.results import Certificate, Proof
from capsnet.runtime.sessions.opening import open_session


@pytest.fixture
def artifact(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_bytes(SMALL))
    return path


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """The certificate of the artifact's bytes."""
    return verify(fill_folder(tmp_path_factory.mktemp("certificate")))


def changed(certificate, **changes):
    return dataclasses.replace(certificate, **changes)


def test_a_passing_certificate_of_these_bytes_opens_the_session(artifact, certificate):
    write_certificate(certificate, artifact)
    session = open_session(artifact, require_certificate=True)
    assert session.format == "onnx"
    assert session.notes == ()


def test_a_proof_on_another_device_is_none(artifact, certificate):
    write_certificate(changed(certificate, device="cuda"), artifact)
    words = (
        r"proven on cuda, and would run on cpu.*; run: capsnet verify --device cpu .*model\.onnx"
    )
    for device in ("auto", "cpu"):
        with pytest.raises(ArtifactError, match=words):
            open_session(artifact, device, require_certificate=True)
    assert open_session(artifact).device == "cpu"


def test_a_proof_on_the_cpu_is_none_on_cuda(artifact, certificate):
    write_certificate(certificate, artifact)
    proven = require_certificate(artifact, file_sha256(artifact))
    proven.require_device("cpu", artifact)
    with pytest.raises(ArtifactError, match=r"proven on cpu, .* capsnet verify --device cuda"):
        proven.require_device("cuda", artifact)


def test_proofs_are_none_of_rounded_products(artifact, certificate):
    write_certificate(certificate, artifact)
    with pytest.raises(ConfigError, match="full float32"):
        open_session(artifact, "cpu", tf32=True, require_certificate=True)


def test_a_missing_certificate_is_refused_only_when_required(artifact):
    assert open_session(artifact).notes == ()
    with pytest.raises(ArtifactError, match=r"no certificate model\.onnx\.parity\.json.*verify"):
        open_session(artifact, require_certificate=True)


def test_a_certificate_of_other_bytes_is_refused(artifact, certificate):
    write_certificate(certificate, artifact)
    content = bytearray(artifact.read_bytes())
    content[-1] ^= 1
    artifact.write_bytes(content)
    with pytest.raises(ArtifactError, match="belongs to other bytes"):
        require_certificate(artifact, file_sha256(artifact))


def test_a_failing_certificate_is_refused_as_a_wrong_result(artifact, certificate):
    write_certificate(changed(certificate, verdict="fail"), artifact)
    with pytest.raises(ResultError, match="is wrong") as caught:
        require_certificate(artifact, file_sha256(artifact))
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"schema_version": 1}'])
def test_a_damaged_certificate_is_refused(artifact, content):
    certificate_path(artifact).write_text(content)
    with pytest.raises(ArtifactError, match="damaged"):
        require_certificate(artifact, file_sha256(artifact))


def test_a_certificate_of_a_newer_schema_is_refused(artifact, certificate):
    write_certificate(changed(certificate, schema_version=SCHEMA_VERSION + 1), artifact)
    with pytest.raises(ArtifactError, match="schema version"):
        require_certificate(artifact, file_sha256(artifact))


def test_another_environment_is_noted(artifact, certificate):
    elsewhere = {**environment(), "numpy": "0.1", "python": "9.9"}
    write_certificate(changed(certificate, environment=elsewhere), artifact)
    notes = require_certificate(artifact, file_sha256(artifact)).notes
    assert len(notes) == 2
    assert notes[0].startswith("proven with numpy 0.1, here it is ")
    assert notes[1].startswith("proven with python 9.9, here it is ")


def test_a_certificate_is_written_as_it_can_be_read(artifact, certificate):
    path = write_certificate(certificate, artifact)
    document = json.loads(path.read_text(encoding="utf-8"))
    assert from_values(Certificate, document) == certificate
    assert list(document) == [
        "schema_version",
        "verdict",
        "artifact",
        "checkpoint_sha256",
        "images",
        "device",
        "device_reason",
        "providers",
        "environment",
        "parity",
        "hard_inputs",
    ]
    assert list(document["artifact"]) == ["file", "bytes", "sha256", "format", "metadata"]
    assert document["parity"]["passed"] is True


def test_a_certificate_of_version_0_1_still_proves_its_file(artifact):
    document = {
        "schema_version": 1,
        "verdict": "pass",
        "artifact": {
            "file": artifact.name,
            "bytes": artifact.stat().st_size,
            "sha256": file_sha256(artifact),
            "format": "onnx",
            "metadata": {"schema_version": 1, "routing_iterations": [3]},
        },
        "device": "cpu",
        "environment": {**environment(), "capsnet-export": "0.0.9"},
        "parity": {"accuracy": None, "passed": True},
        "hard_inputs": [],
    }
    certificate_path(artifact).write_text(json.dumps(document))
    (note,) = require_certificate(artifact, file_sha256(artifact)).notes
    assert note.startswith("proven with capsnet-export 0.0.9, here it is ")


def test_another_name_of_the_file_changes_nothing_else(certificate):
    renamed = Proof(certificate).renamed("other.onnx")
    assert renamed.certificate.artifact.file == "other.onnx"
    assert renamed.renamed(certificate.artifact.file) == Proof(certificate)


def test_requiring_a_certificate_imports_nothing_that_loads_slowly():
    code = (
        "import sys, capsnet.runtime.certificate, capsnet.runtime.proof.results\n"
        "import capsnet.runtime.proof.request\n"
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'numpy', 'click'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"

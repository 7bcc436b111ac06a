"""Certificates: a file is proven only by a passing certificate of exactly its bytes."""

import json

import pytest
from support.artifacts import onnx_bytes
from support.networks import SMALL

from capsnet.errors import ArtifactError, ResultError
from capsnet.files import file_sha256
from capsnet.runtime.certificate import (
    SCHEMA_VERSION,
    certificate_path,
    environment,
    require_certificate,
    write_certificate,
)
from capsnet.runtime.sessions.opening import open_session


@pytest.fixture
def artifact(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_bytes(SMALL))
    return path


def document(artifact, **changes):
    return {
        "schema_version": SCHEMA_VERSION,
        "verdict": "pass",
        "artifact": {"file": artifact.name, "sha256": file_sha256(artifact)},
        "environment": environment(),
        **changes,
    }


def test_a_passing_certificate_of_these_bytes_opens_the_session(artifact):
    write_certificate(document(artifact), artifact)
    session = open_session(artifact, require_certificate=True)
    assert session.format == "onnx"
    assert session.notes == ()


def test_a_missing_certificate_is_refused_only_when_required(artifact):
    assert open_session(artifact).notes == ()
    with pytest.raises(ArtifactError, match=r"no certificate model\.onnx\.parity\.json.*verify"):
        open_session(artifact, require_certificate=True)


def test_a_certificate_of_other_bytes_is_refused(artifact):
    write_certificate(document(artifact), artifact)
    content = bytearray(artifact.read_bytes())
    content[-1] ^= 1
    artifact.write_bytes(content)
    with pytest.raises(ArtifactError, match="belongs to other bytes"):
        require_certificate(artifact)


def test_a_failing_certificate_is_refused_as_a_wrong_result(artifact):
    write_certificate(document(artifact, verdict="fail"), artifact)
    with pytest.raises(ResultError, match="is wrong") as caught:
        require_certificate(artifact)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"schema_version": 1}'])
def test_a_damaged_certificate_is_refused(artifact, content):
    certificate_path(artifact).write_text(content)
    with pytest.raises(ArtifactError, match="damaged"):
        require_certificate(artifact)


def test_a_certificate_of_a_newer_schema_is_refused(artifact):
    write_certificate(document(artifact, schema_version=SCHEMA_VERSION + 1), artifact)
    with pytest.raises(ArtifactError, match="schema version"):
        require_certificate(artifact)


def test_another_environment_is_noted(artifact):
    elsewhere = {**environment(), "numpy": "0.1", "python": "9.9"}
    write_certificate(document(artifact, environment=elsewhere), artifact)
    notes = require_certificate(artifact)
    assert len(notes) == 2
    assert notes[0].startswith("proven with numpy 0.1, here it is ")
    assert notes[1].startswith("proven with python 9.9, here it is ")


def test_details_for_the_report_page_are_not_certified(artifact):
    path = write_certificate(document(artifact, details={"worst": []}), artifact)
    assert "details" not in json.loads(path.read_text())

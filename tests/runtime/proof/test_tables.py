"""The terminal's tables and the page show every kind of result: also one without classes."""

import dataclasses
import io

import pytest
from rich.console import Console
from support.proof import fill_folder, request_in

from capsnet.runtime.proof.locate import Stage
from capsnet.runtime.proof.page import render
from capsnet.runtime.proof.proof import prove
from capsnet.runtime.proof.results import Accuracy
from capsnet.runtime.proof.tables import parity_table, stage_lines, summary_lines, unverified_line


@pytest.fixture(scope="module")
def proof(tmp_path_factory):
    folder = fill_folder(tmp_path_factory.mktemp("tables"))
    return prove(folder / "model.onnx", request_in(folder, details=True))


def with_parity(certificate, **changes):
    return dataclasses.replace(
        certificate, parity=dataclasses.replace(certificate.parity, **changes)
    )


def printed(table):
    console = Console(file=io.StringIO(), width=120)
    console.print(table)
    return console.file.getvalue()


def test_table_shows_the_worst_batch_size_of_each_output(proof):
    certificate = proof.certificate
    text = printed(parity_table([certificate]))
    for name in ("lengths", "capsules"):
        checks = [check for check in certificate.parity.checks if check.output == name]
        worst = max(checks, key=lambda check: check.used)
        (line,) = [line for line in text.splitlines() if f" {name} " in line]
        assert f"{worst.errors.max:.2e}  {worst.allowed['max']:.2e} " in line
        assert f"{certificate.parity.baseline[name].max:.2e}" in line
        assert line.endswith("pass")
    assert text.count("model.onnx") == 1


def test_summary_says_what_was_found(proof):
    certificate = with_parity(proof.certificate, accuracy=Accuracy(0.6, 0.2, 0.8))
    lines = summary_lines(certificate)
    assert lines[0].startswith("model.onnx: 0.0 MB, SHA-256 ")
    assert lines[1:] == [
        "computes the same numbers: 0 flips, +20.00 points",
        "classes: 5 of 5 images keep theirs (images.npy)",
        "accuracy: golden 3 of 5, baseline 1 of 5, artifact 4 of 5",
        "hard inputs: 9 of 9 passed",
    ]


def test_result_without_classes_mentions_none(proof):
    certificate = with_parity(proof.certificate, agreement=None, accuracy=None)
    assert summary_lines(certificate)[1:4] == [
        "computes the same numbers",
        "compared on 5 images (images.npy)",
        "hard inputs: 9 of 9 passed",
    ]
    worst = tuple(dataclasses.replace(i, golden=(), artifact=()) for i in proof.details.worst)
    details = dataclasses.replace(proof.details, worst=worst)
    page = render([dataclasses.replace(proof, certificate=certificate, details=details)])
    assert "flip<" not in page
    assert "class as golden" not in page
    assert "<th>class" not in page


def test_unverified_artifact_is_called_so(proof):
    line = unverified_line(proof.certificate.artifact)
    assert line.startswith("model.onnx: ")
    assert "not verified" in line


def test_stages_end_with_the_first_that_is_wrong():
    stages = [
        Stage("stem", 1e-7, 1e-6, True),
        Stage("primary_capsules", 1e-3, 1e-6, False),
        Stage("lengths", None, 1e-6, False),
    ]
    lines = stage_lines(stages).splitlines()
    assert len(lines) == 3
    assert lines[-1] == "the fault is in stage [bold]primary_capsules[/]"
    assert stage_lines(stages[:1]).endswith("the fault is in how the file was written or is run")
    assert "missing" in stage_lines(stages[2:])

"""Artifacts and their certificates appear together, or nothing changes."""

import dataclasses
import errno
import json
import os
from pathlib import Path

import pytest
from support.networks import SMALL, lively_model
from support.proof import fill_folder, verify

from capsnet import jobs
from capsnet.about import About
from capsnet.bundled import BUNDLED
from capsnet.checkpoint import save_checkpoint
from capsnet.config import preset
from capsnet.errors import DataError, OutputError
from capsnet.files import file_sha256
from capsnet.formats import FORMATS
from capsnet.jobs import ExportSettings
from capsnet.model import CapsNet
from capsnet.networks import NetworkSource
from capsnet.runtime.certificate import certificate_path
from capsnet.runtime.proof.request import Request
from capsnet.runtime.proof.results import Proof


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return verify(fill_folder(tmp_path_factory.mktemp("certificate")))


@pytest.fixture
def export(tmp_path, monkeypatch, certificate):
    """Export in two formats over earlier files; neither the export nor the proof takes time."""

    class Judge:
        def __init__(self, _request):
            self.files = []

        __enter__ = lambda self: self  # noqa: E731
        __exit__ = lambda *_: None  # noqa: E731

        def submit(self, file):
            facts = dataclasses.replace(certificate.artifact, sha256=file_sha256(file))
            verdict = "fail" if b"wrong" in file.read_bytes() else "pass"
            self.files.append(
                Proof(dataclasses.replace(certificate, artifact=facts, verdict=verdict))
            )

        def proofs(self):
            return self.files

    monkeypatch.setattr(jobs, "FreshProcess", Judge)
    checkpoint = tmp_path / "model.safetensors"
    save_checkpoint(lively_model(SMALL), checkpoint)
    targets = {name: tmp_path / "out" / FORMATS[name].file for name in ("onnx", "pt2")}
    (tmp_path / "out").mkdir()
    for path in targets.values():
        path.write_text("earlier")
        certificate_path(path).write_text(json.dumps({"artifact": {"sha256": file_sha256(path)}}))

    def run(write=lambda name: f"new {name}", proven=True):
        for name in targets:

            def to_file(lowered, path, options, name=name):
                path.write_text(write(name))
                return certificate.artifact.metadata

            row = dataclasses.replace(FORMATS[name], export=to_file)
            monkeypatch.setitem(FORMATS, name, row)
        request = Request(NetworkSource(checkpoint))
        return jobs.export_artifacts(targets, request, proven=proven)

    run.targets = targets
    return run


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def named_bytes_are_there(targets):
    """Whether every certificate names the bytes of the artifact that it lies beside."""
    return all(
        not certificate_path(path).exists()
        or json.loads(certificate_path(path).read_text())["artifact"]["sha256"] == file_sha256(path)
        for path in targets.values()
    )


def test_files_and_certificates_appear(export):
    assert [result.passed for result in export()] == [True, True]
    assert all(path.read_text().startswith("new") for path in export.targets.values())
    assert named_bytes_are_there(export.targets)


@pytest.mark.parametrize("obstacle", [Path.mkdir, os.mkfifo])
@pytest.mark.parametrize("at", ["onnx", "pt2"])
@pytest.mark.parametrize("beside", [True, False])
def test_a_place_that_is_taken_meanwhile_leaves_all_as_it_was(export, obstacle, at, beside):
    place = certificate_path(export.targets[at]) if beside else export.targets[at]
    place.unlink()
    before = contents(place.parent)

    def write(name):
        if name == "pt2":
            obstacle(place)
        return "new"

    with pytest.raises(OutputError, match=f"cannot write {place}: it is a"):
        export(write)
    assert contents(place.parent) == before


@pytest.mark.parametrize("nth", range(1, 5))
def test_a_full_disk_leaves_all_as_it_was(export, monkeypatch, nth):
    folder = export.targets["onnx"].parent
    before, real, calls = contents(folder), os.fsync, []

    def full(handle):
        calls.append(handle)
        if len(calls) == nth:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left on device"):
        export()
    assert contents(folder) == before


def test_no_certificate_ever_lies_beside_other_bytes(export, monkeypatch):
    seen = []
    for name in ("replace", "unlink"):
        real = getattr(Path, name)

        def watched(path, *given, _real=real, **options):
            result = _real(path, *given, **options)
            seen.append(named_bytes_are_there(export.targets))
            return result

        monkeypatch.setattr(Path, name, watched)
    export()
    assert len(seen) > 4
    assert all(seen)


def test_a_wrong_file_keeps_the_earlier_one_and_its_certificate(export):
    right, wrong = export(lambda name: "wrong" if name == "pt2" else "new")
    assert (right.passed, wrong.passed) == (True, False)
    assert export.targets["onnx"].read_text() == "new"
    assert export.targets["pt2"].read_text() == "earlier"
    assert named_bytes_are_there(export.targets)
    assert all(certificate_path(path).exists() for path in export.targets.values())


def test_a_file_that_is_not_proven_has_no_certificate(export):
    export(proven=False)
    assert not any(certificate_path(path).exists() for path in export.targets.values())


def test_calibration_on_digits_is_said_where_the_network_may_be_for_other_images(tmp_path):
    save_checkpoint(CapsNet(preset("tiny")), tmp_path / "tiny.safetensors")
    int8 = ExportSettings("int8")
    tiny = NetworkSource(tmp_path / "tiny.safetensors")
    [doubt] = jobs._calibration_doubts(tiny, int8, None)
    assert "int8 was calibrated on MNIST digits" in doubt
    assert "--calibrate" in doubt
    for network, settings, given in (
        (tiny, int8, "images"),
        (tiny, ExportSettings(), None),
        (NetworkSource(BUNDLED["mnist"]), int8, None),
    ):
        assert jobs._calibration_doubts(network, settings, given) == ()


def test_names_that_are_given_take_the_place_of_those_of_the_checkpoint():
    network = CapsNet(preset("tiny"))
    network.about = About(tuple("abcdefghij"))
    assert jobs._about(network, ()) is network.about
    assert jobs._about(network, tuple("klmnopqrst")).class_names == tuple("klmnopqrst")
    with pytest.raises(DataError, match="the export names 1 classes, and there are 10"):
        jobs._about(network, ("c",))

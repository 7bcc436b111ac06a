"""The command line: exit codes, one message an error, JSON, and files that appear whole."""

import csv
import io
import json
import os
import signal
import struct
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from support.artifacts import edited, golden_outputs, metadata_of, onnx_bytes, with_weight
from support.networks import SMALL, altered, lively_model, random_images
from support.proof import InThisProcess

from capsnet.cli.commands import cli
from capsnet.cli.main import main
from capsnet.data.idx import mnist_test_set
from capsnet.errors import ArtifactError, ExportError, ResultError
from capsnet.files import file_sha256


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder: a checkpoint of the small network, its artifact, and five images."""
    from capsnet.checkpoint import save_checkpoint

    save_checkpoint(lively_model(SMALL), tmp_path / "model.safetensors")
    (tmp_path / "model.onnx").write_bytes(onnx_bytes())
    np.save(tmp_path / "images.npy", random_images(SMALL, 5))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def quick(monkeypatch):
    """Verify in this process, and take the artifact from the cache where one is exported."""
    import capsnet.export.formats.onnx

    def write(lowered, path, options):
        from capsnet.artifact import ArtifactMetadata

        content = quick.content
        path.write_bytes(content)
        return ArtifactMetadata.from_json(json.dumps(metadata_of(content)))

    quick = SimpleNamespace(content=onnx_bytes())
    monkeypatch.setattr(capsnet.export.formats.onnx, "to_onnx", write)
    monkeypatch.setattr("capsnet.jobs.FreshProcess", InThisProcess)
    return quick


@pytest.fixture
def run(capsys):
    """Run a command in this process as the console script would."""

    def command(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        output = capsys.readouterr()
        return SimpleNamespace(code=caught.value.code or 0, out=output.out, err=output.err)

    return command


EXPORT = ("export", "--format", "onnx", "--device", "cpu", "--checkpoint", "model.safetensors")
VERIFY = ("--checkpoint", "model.safetensors", "--images", "images.npy", "--device", "cpu")


def one_message(result):
    """The only line on standard error; there is no traceback."""
    (line,) = result.err.splitlines()
    assert line.startswith("error: ")
    assert "Traceback" not in result.out + result.err
    return line


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def perturb(weights):
    weights.reshape(-1)[0] += 0.01


# Export


@pytest.mark.slow
def test_export_writes_a_proven_file_and_its_certificate(folder, run, quick):
    result = run(*EXPORT, "--output", "out.onnx", "--images", "images.npy")
    assert result.code == 0
    assert (folder / "out.onnx").read_bytes() == onnx_bytes()
    certificate = json.loads((folder / "out.onnx.parity.json").read_text())
    assert certificate["verdict"] == "pass"
    assert certificate["artifact"]["file"] == "out.onnx"
    assert certificate["artifact"]["sha256"] == file_sha256(folder / "out.onnx")
    assert "proven on cpu" in result.out
    assert result.err == ""


def test_export_names_the_file_after_the_format(folder, run, quick):
    (folder / "there").mkdir()
    assert run(*EXPORT, "--images", "images.npy").code == 0
    assert run(*EXPORT, "--images", "images.npy", "--output", "there").code == 0
    for place in (folder, folder / "there"):
        assert (place / "capsnet.onnx").is_file()
        assert (place / "capsnet.onnx.parity.json").is_file()


def test_export_without_verification_says_so_and_writes_no_certificate(folder, run, quick):
    result = run(*EXPORT, "--no-verify", "--output", "out.onnx")
    assert result.code == 0
    assert "not verified" in result.out
    assert (folder / "out.onnx").is_file()
    assert not (folder / "out.onnx.parity.json").exists()


def test_export_without_verification_leaves_no_certificate_of_other_bytes(folder, run, quick):
    run(*EXPORT, "--images", "images.npy", "--output", "out.onnx")
    quick.content = edited(onnx_bytes(), with_weight("primary_capsules.conv.bias", perturb))
    assert run(*EXPORT, "--no-verify", "--output", "out.onnx").code == 0
    assert (folder / "out.onnx").read_bytes() == quick.content
    assert not (folder / "out.onnx.parity.json").exists()


def with_earlier_export(folder):
    (folder / "out.onnx").write_bytes(b"an earlier artifact")
    (folder / "out.onnx.parity.json").write_bytes(b"its certificate")
    return contents(folder)


def test_failed_verification_leaves_the_earlier_files_and_no_others(folder, run, quick):
    earlier = with_earlier_export(folder)
    quick.content = edited(onnx_bytes(), with_weight("primary_capsules.conv.bias", perturb))
    result = run(*EXPORT, "--output", "out.onnx", "--images", "images.npy")
    assert result.code == 1
    assert "above the budget" in result.out
    assert "out.onnx does not compute the same numbers" in one_message(result)
    assert "no file was written" in result.err
    assert contents(folder) == earlier


def test_failed_export_leaves_the_earlier_files_and_no_others(folder, run, monkeypatch):
    def fail(*arguments, **options):
        raise torch.onnx.OnnxExporterError("no such operator")

    earlier = with_earlier_export(folder)
    monkeypatch.setattr(torch.onnx, "export", fail)
    result = run(*EXPORT, "--output", "out.onnx", "--images", "images.npy")
    assert result.code == 4
    assert "no such operator" in one_message(result)
    assert contents(folder) == earlier


def test_interrupted_export_leaves_the_earlier_files_and_no_others(folder, run, quick, monkeypatch):
    def interrupt(judge):
        assert judge.artifacts[0].is_file()
        raise KeyboardInterrupt

    earlier = with_earlier_export(folder)
    monkeypatch.setattr(InThisProcess, "proofs", interrupt)
    result = run(*EXPORT, "--output", "out.onnx", "--images", "images.npy")
    assert result.code == 130
    assert result.err.split() == ["interrupted"]
    assert contents(folder) == earlier


def test_verification_that_crashes_leaves_the_earlier_files_and_no_others(
    folder, run, quick, monkeypatch
):
    def crash(judge):
        raise ResultError("the process crashed")

    earlier = with_earlier_export(folder)
    monkeypatch.setattr(InThisProcess, "proofs", crash)
    result = run(*EXPORT, "--output", "out.onnx", "--images", "images.npy")
    assert (result.code, one_message(result)) == (1, "error: the process crashed")
    assert contents(folder) == earlier


FORMATS = ("--format", "torchscript", "--format", "pt2", *EXPORT[1:], "--images", "images.npy")


def test_formats_of_one_call_share_one_table(folder, run, quick):
    result = run("export", *FORMATS, "--json", "out.json")
    assert result.code == 0
    files = ["capsnet.torchscript.pt", "capsnet.pt2", "capsnet.onnx"]
    documents = json.loads((folder / "out.json").read_text())["artifacts"]
    assert [document["artifact"]["file"] for document in documents] == files
    assert [document["verdict"] for document in documents] == ["pass"] * 3
    assert result.out.count("max error") == 1
    for name in files:
        assert (folder / f"{name}.parity.json").is_file()


def test_formats_that_are_right_appear_beside_one_that_is_wrong(folder, run, quick):
    quick.content = edited(onnx_bytes(), with_weight("primary_capsules.conv.bias", perturb))
    result = run("export", *FORMATS)
    assert result.code == 1
    assert "capsnet.onnx does not compute" in one_message(result)
    assert {name for name in contents(folder) if name.startswith("capsnet.")} == {
        f"{name}{suffix}"
        for name in ("capsnet.torchscript.pt", "capsnet.pt2")
        for suffix in ("", ".parity.json")
    }


def test_several_formats_need_a_folder(folder, run):
    result = run("export", *FORMATS, "--output", "out.onnx")
    assert result.code == 2
    assert "several formats need an existing folder" in result.err


@pytest.mark.parametrize(
    ("output", "match"),
    [("none/out.onnx", "No such file or directory"), ("model.onnx/out.onnx", "Not a directory")],
    ids=["no such folder", "a file as folder"],
)
def test_output_that_cannot_be_written_is_an_environment_error(folder, run, quick, output, match):
    result = run(*EXPORT, "--output", output, "--images", "images.npy")
    assert result.code == 3
    assert match in one_message(result)
    assert output in result.err


def test_network_without_a_decoder_cannot_be_exported_with_reconstruction(folder, run):

    from capsnet.checkpoint import save_checkpoint

    model = lively_model(altered(SMALL, decoder_sizes=None))
    save_checkpoint(model, folder / "model.safetensors")
    result = run(*EXPORT, "--reconstruction")
    assert result.code == 3
    assert "no decoder" in one_message(result)


def test_brackets_in_a_file_name_are_shown(folder, run, quick):
    result = run(*EXPORT, "--no-verify", "--output", "model[dev].onnx")
    assert result.code == 0
    assert "model[dev].onnx" in result.out


# Checkpoints


def save_with(folder, *, change=lambda _: None, **config):
    """A checkpoint with changed tensors, or with a configuration that no class would accept."""
    values = json.loads(SMALL.to_json()) | config
    tensors = {k: v.detach().clone() for k, v in lively_model(SMALL).state_dict().items()}
    change(tensors)
    metadata = {"capsnet": json.dumps({"config": values, "training": {}})}
    save_file(tensors, folder / "model.safetensors", metadata)


NO_ROUTING = [{"kind": "dynamic", "capsules": 5, "dim": 6, "routing_iterations": 0}]


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "No such file"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), "truncated or damaged"),
        (
            lambda folder: save_with(folder, change=lambda t: t["stem.bias"].fill_(torch.nan)),
            "stem.bias holds NaN",
        ),
        (
            lambda folder: save_with(folder, change=lambda t: t.pop("stem.bias")),
            "stem.bias is missing",
        ),
        (lambda folder: save_with(folder, image_shape=[1, 6, 6]), "no pixels are left"),
        (
            lambda folder: save_with(folder, capsule_layers=NO_ROUTING),
            "routing_iterations must be a positive integer, got 0",
        ),
    ],
    ids=["missing", "empty", "NaN", "lacks a tensor", "no pixels", "no routing"],
)
def test_checkpoint_that_cannot_be_used_is_an_environment_error(folder, run, spoil, match):
    spoil(folder)
    before = contents(folder)
    result = run(*EXPORT, "--output", "out.onnx")
    assert result.code == 3
    assert match in one_message(result)
    assert "model.safetensors" in result.err
    assert contents(folder) == before


def test_checkpoint_of_the_test_itself_is_accepted_when_nothing_is_changed(folder, run, quick):
    save_with(folder)
    assert run(*EXPORT, "--images", "images.npy").code == 0


# Images


@pytest.mark.parametrize(
    ("images", "match"),
    [
        (np.zeros((2, 1, 13, 12), np.float32), "[2, 1, 13, 12]"),
        (np.full((2, 1, 12, 12), 200, np.float32), "has values from 200 to 200, expected 0..1"),
        (np.full((2, 1, 12, 12), 300, np.int32), "has integers from 300 to 300, expected 0..255"),
    ],
    ids=["size", "range", "integers"],
)
@pytest.mark.parametrize("command", ["export", "verify", "predict"])
def test_images_of_wrong_size_or_range_are_an_environment_error(
    folder, run, quick, command, images, match
):
    np.save(folder / "images.npy", images)
    before = contents(folder)
    arguments = {
        "export": (*EXPORT, "--images", "images.npy", "--output", "out.onnx"),
        "verify": ("verify", "model.onnx", *VERIFY),
        "predict": ("predict", "model.onnx", "images.npy", "--output", "out.csv"),
    }
    result = run(*arguments[command])
    assert result.code == 3
    assert match in result.err
    assert "Traceback" not in result.err
    assert contents(folder) == before


# Verify


def test_verify_certifies_a_sound_artifact(folder, run, quick):
    result = run("verify", "model.onnx", *VERIFY)
    assert result.code == 0
    assert "proven on cpu" in result.out
    assert json.loads((folder / "model.onnx.parity.json").read_text())["verdict"] == "pass"


def test_verify_certifies_that_a_wrong_artifact_is_wrong(folder, run, quick):
    wrong = edited(onnx_bytes(), with_weight("primary_capsules.conv.bias", perturb))
    (folder / "model.onnx").write_bytes(wrong)
    result = run("verify", "model.onnx", *VERIFY)
    assert result.code == 1
    assert "do not use this file" in one_message(result)
    assert "WRONG" in result.out
    assert json.loads((folder / "model.onnx.parity.json").read_text())["verdict"] == "fail"
    assert (folder / "model.onnx").read_bytes() == wrong


def test_located_fault_is_named_on_the_terminal_and_in_the_json(folder, run, quick):
    wrong = edited(onnx_bytes(), with_weight("primary_capsules.conv.bias", perturb))
    (folder / "model.onnx").write_bytes(wrong)
    result = run("verify", "model.onnx", *VERIFY, "--locate", "--json", "out.json")
    assert result.code == 1
    assert "the fault is in stage primary_capsules" in result.out
    stages = json.loads((folder / "out.json").read_text())["stages"]
    assert [stage["passed"] for stage in stages][:2] == [True, False]
    assert stages[1]["name"] == "primary_capsules"


@pytest.mark.parametrize(
    ("break_it", "match"),
    [
        (
            lambda folder: (folder / "model.onnx").write_bytes(b""),
            "model.onnx is neither onnx, torchscript nor pt2",
        ),
        (lambda folder: (folder / "model.onnx.parity.json").mkdir(), "it is a folder"),
        (lambda folder: (folder / "model.onnx").unlink(), "cannot read model.onnx"),
    ],
    ids=["artifact", "certificate", "no artifact"],
)
def test_what_verify_cannot_read_or_write_is_an_error_before_it_computes(
    folder, run, quick, monkeypatch, break_it, match
):
    def compute(*arguments):
        raise AssertionError("this was to be found before")

    monkeypatch.setattr(InThisProcess, "__init__", compute)
    break_it(folder)
    result = run("verify", "model.onnx", *VERIFY)
    assert result.code == 3
    assert match in one_message(result)


def test_search_that_fails_leaves_the_verdict(folder, run, quick, monkeypatch):
    import capsnet.runtime.proof.locate

    def fail(*arguments):
        raise ArtifactError("no stages here")

    assert run("verify", "model.onnx", *VERIFY).code == 0
    (folder / "model.onnx").write_bytes(
        edited(onnx_bytes(), with_weight("primary_capsules.conv.bias", perturb))
    )
    monkeypatch.setattr(capsnet.runtime.proof.locate, "onnx_stages", fail)
    assert run("verify", "model.onnx", *VERIFY, "--locate").code == 3
    assert json.loads((folder / "model.onnx.parity.json").read_text())["verdict"] == "fail"


@pytest.mark.slow
def test_fault_of_a_fixed_batch_size_is_located_with_fewer_images(folder, run, quick):
    content = onnx_bytes(batch=8)
    (folder / "model.onnx").write_bytes(
        edited(content, with_weight("primary_capsules.conv.bias", perturb))
    )
    result = run("verify", "model.onnx", *VERIFY, "--locate")
    assert "the fault is in stage primary_capsules" in result.out


def test_sound_artifact_has_no_stages_to_locate(folder, run, quick):
    result = run("verify", "model.onnx", *VERIFY, "--locate", "--json", "-")
    assert result.code == 0
    assert "stages" not in json.loads(result.out)


def test_own_limit_tightens_the_budget(folder, run, quick):
    result = run("verify", "model.onnx", *VERIFY, "--atol", "1e-12")
    assert result.code == 1
    assert "where 1e-12 is allowed" in result.out
    certificate = json.loads((folder / "model.onnx.parity.json").read_text())
    assert certificate["parity"]["tolerance"] == {"atol": 1e-12, "rtol": 0.0}
    assert certificate["parity"]["overridden"] is False


def test_own_limit_that_is_looser_than_the_budget_is_recorded(folder, run, quick):
    wrong = edited(
        onnx_bytes(),
        with_weight("primary_capsules.conv.bias", lambda w: w.reshape(-1).fill(w.flat[0])),
    )
    (folder / "model.onnx").write_bytes(wrong)
    assert run("verify", "model.onnx", *VERIFY).code == 1
    result = run("verify", "model.onnx", *VERIFY, "--rtol", "100")
    assert "the error budget was overridden" in result.out
    certificate = json.loads((folder / "model.onnx.parity.json").read_text())
    assert certificate["parity"]["overridden"] is True


def test_report_is_written_for_a_failure_too(folder, run, quick):
    assert run("verify", "model.onnx", *VERIFY, "--report", "good.html").code == 0
    (folder / "model.onnx").write_bytes(
        edited(onnx_bytes(), with_weight("stem.conv.bias", perturb))
    )
    assert run("verify", "model.onnx", *VERIFY, "--report", "bad.html").code == 1
    assert "computes the same numbers" in (folder / "good.html").read_text(encoding="utf-8")
    assert "computes WRONG numbers" in (folder / "bad.html").read_text(encoding="utf-8")
    assert "details" not in json.loads((folder / "model.onnx.parity.json").read_text())


@pytest.mark.parametrize(
    "option",
    ["--report page.html", "--images none", "--samples 8", "--atol 1", "--rtol 1", "--device cuda"],
)
def test_what_is_about_the_proof_is_refused_without_one(folder, run, option):
    before = contents(folder)
    result = run(*EXPORT, "--no-verify", *option.split())
    assert result.code == 2
    assert f"only a proof takes {option.split()[0]}" in " ".join(result.err.split())
    assert contents(folder) == before


def test_an_operator_set_is_refused_where_no_format_has_one(folder, run, quick):
    formats = ("--format", "torchscript", "--format", "pt2", "--no-verify")
    result = run("export", *formats, *EXPORT[3:], "--opset", "18")
    assert result.code == 2
    assert "--opset goes with --format onnx" in result.err
    assert run("export", *formats, *EXPORT[1:], "--opset", "18").code == 0


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("--calibrate", "images.npy"), "--calibrate goes with --precision int8"),
        (("--part", "training", "--profile"), "--profile goes with --part encoder, routing"),
    ],
)
def test_options_of_a_benchmark_that_have_no_effect_are_refused(folder, run, arguments, match):
    result = run("bench", "--checkpoint", "model.safetensors", *arguments)
    assert result.code == 2
    assert match in " ".join(result.err.split())


@pytest.mark.parametrize(
    "arguments",
    [
        (*EXPORT, "--output"),
        (*EXPORT, "--report"),
        (*EXPORT, "--checkpoint"),
        ("predict", "model.onnx"),
        ("train", "--data", ".", "--output"),
        ("bench", "--csv"),
    ],
    ids=" ".join,
)
def test_what_is_no_file_name_is_refused(folder, run, arguments):
    before = contents(folder)
    for name in ("", "-", *(["none/"] if arguments[-1] in ("--output", "--report") else [])):
        result = run(*arguments, name)
        assert result.code == 2
        expected = "there is no folder" if name == "none/" else f"'{name}' is not the name of a"
        assert expected in " ".join(result.err.split())
    assert contents(folder) == before


@pytest.mark.parametrize("number", ["nan", "inf"])
@pytest.mark.parametrize(
    "arguments",
    [
        ("verify", "model.onnx", "--atol"),
        (*EXPORT, "--rtol"),
        ("train", "--data", ".", "--output", "x", "--learning-rate"),
    ],
    ids=["verify", "export", "train"],
)
def test_numbers_that_are_not_finite_are_refused(folder, run, arguments, number):
    result = run(*arguments, number)
    assert result.code == 2
    assert f"'{number}' is not a finite number" in result.err


def test_verify_against_another_checkpoint_is_a_wrong_result(folder, run, quick):

    from capsnet.checkpoint import save_checkpoint

    wider = lively_model(altered(SMALL, stem_channels=5))
    save_checkpoint(wider, folder / "model.safetensors")
    result = run("verify", "model.onnx", *VERIFY)
    assert result.code == 1
    assert "was not exported from" in one_message(result)


# Inspect and predict


def test_inspect_shows_the_metadata_and_where_the_nodes_run(folder, run):
    result = run("inspect", "model.onnx", "--device", "cpu", "--json", "about.json")
    assert result.code == 0
    document = json.loads((folder / "about.json").read_text())
    assert document["file"] == "model.onnx"
    assert document["bytes"] == len(onnx_bytes())
    assert document["sha256"] == file_sha256(folder / "model.onnx")
    assert document["device"] == "cpu"
    assert document["format"] == "onnx"
    assert set(document["providers"]) == {"CPUExecutionProvider"}
    assert document["metadata"] == metadata_of(onnx_bytes())
    for key in ("sha256", "routing_iterations", "opset", "outputs", "providers"):
        assert key in result.out
    assert document["sha256"] in result.out


def expected_rows():
    lengths = golden_outputs(SMALL, random_images(SMALL, 5), ("lengths",))["lengths"]
    return [(f"images.npy[{i}]", int(row.argmax()), row) for i, row in enumerate(lengths)]


def read_rows(text, output_format):
    if output_format == "jsonl":
        rows = [json.loads(line) for line in text.splitlines()]
        return [(row["source"], row["label"], row["lengths"]) for row in rows]
    header, *rows = csv.reader(io.StringIO(text))
    assert header == ["source", "label", *(f"length_{i}" for i in range(5))]
    return [(row[0], int(row[1]), [float(v) for v in row[2:]]) for row in rows]


@pytest.mark.parametrize("to_file", [True, False])
@pytest.mark.parametrize("output_format", ["csv", "jsonl"])
def test_predictions_are_those_of_the_readable_model(folder, run, output_format, to_file):
    options = ("--output", "out.txt") if to_file else ()
    result = run("predict", "model.onnx", "images.npy", "--format", output_format, *options)
    assert result.code == 0
    text = (folder / "out.txt").read_text() if to_file else result.out
    rows = read_rows(text, output_format)
    for (source, label, lengths), expected in zip(rows, expected_rows(), strict=True):
        assert (source, label) == expected[:2]
        np.testing.assert_allclose(lengths, expected[2], rtol=0, atol=2e-6)
    assert ("5 predictions in out.txt" in result.out) is to_file


def test_failed_prediction_leaves_the_earlier_file(folder, run):
    (folder / "out.csv").write_text("earlier")
    images = random_images(SMALL, 200)
    images[150] = np.nan
    np.save(folder / "images.npy", images)
    before = contents(folder)
    result = run("predict", "model.onnx", "images.npy", "--output", "out.csv")
    assert result.code == 3
    assert "images.npy[150] holds NaN" in result.err
    after = contents(folder)
    assert after.pop("out.csv.partial").count(b"\n") == 2 + 128  # whole batches, to be continued
    assert after == before


def test_certified_prediction_refuses_what_is_not_proven(folder, run, quick):
    predict = ("predict", "model.onnx", "images.npy", "--certified", "--device", "cpu")
    result = run(*predict)
    assert result.code == 3
    assert "has no certificate" in one_message(result)
    assert run("verify", "model.onnx", *VERIFY).code == 0
    assert run(*predict).code == 0
    (folder / "model.onnx").write_bytes(
        edited(onnx_bytes(), with_weight("stem.conv.bias", perturb))
    )
    result = run(*predict)
    assert (result.code, result.out) == (3, "")
    assert "belongs to other bytes" in one_message(result)
    assert run("verify", "model.onnx", *VERIFY).code == 1
    result = run(*predict)
    assert (result.code, result.out) == (1, "")
    assert "says that model.onnx is wrong" in one_message(result)


@pytest.mark.parametrize("command", ["inspect", "predict", "verify"])
@pytest.mark.parametrize(
    ("content", "match"),
    [(None, "No such file"), (b"", "is empty"), (onnx_bytes, "truncated or damaged")],
    ids=["missing", "empty", "truncated"],
)
def test_artifact_that_cannot_be_opened_is_an_environment_error(
    folder, run, quick, command, content, match
):
    (folder / "model.onnx").unlink()
    if content is not None:
        data = content if isinstance(content, bytes) else content()[:2000]
        (folder / "model.onnx").write_bytes(data)
    arguments = {"inspect": (), "predict": ("images.npy",), "verify": VERIFY}[command]
    result = run(command, "model.onnx", *arguments)
    assert result.code == 3
    assert match in one_message(result)
    assert "model.onnx" in result.err


# JSON


@pytest.mark.parametrize(
    ("arguments", "keys"),
    [
        ((*EXPORT, "--images", "images.npy"), {"artifacts", "seconds"}),
        ((*EXPORT, "--no-verify"), {"artifacts", "seconds"}),
        (("verify", "model.onnx", *VERIFY), {"verdict", "parity", "artifact", "environment"}),
        (("inspect", "model.onnx"), {"file", "sha256", "metadata", "providers"}),
        (
            ("predict", "model.onnx", "images.npy", "--output", "out.csv"),
            {"artifact", "device", "predictions"},
        ),
    ],
    ids=["export", "no verification", "verify", "inspect", "predict"],
)
def test_json_is_all_that_standard_output_carries(folder, run, quick, arguments, keys):
    result = run(*arguments, "--json", "-")
    assert result.code == 0
    document = json.loads(result.out)
    assert keys <= document.keys()


def test_predictions_and_json_do_not_share_standard_output(folder, run):
    result = run("predict", "model.onnx", "images.npy", "--json", "-")
    assert result.code == 2
    assert "give --output" in result.err
    assert result.out == ""


def test_a_dash_is_standard_output_for_predictions(folder, run):
    result = run("predict", "model.onnx", "images.npy", "--output", "-", "--json", "about.json")
    assert result.code == 0
    assert len(read_rows(result.out, "csv")) == 5
    assert json.loads((folder / "about.json").read_text())["predictions"] == 5
    assert not (folder / "-").exists()
    result = run("predict", "model.onnx", "images.npy", "--output", "-", "--json", "-")
    assert (result.code, result.out) == (2, "")
    result = run("predict", "model.onnx", "images.npy", "--output", "-", "--resume")
    assert result.code == 2


def test_json_file_holds_what_standard_output_would(folder, run, quick):
    run("verify", "model.onnx", *VERIFY, "--json", "out.json")
    shown = json.loads(run("verify", "model.onnx", *VERIFY, "--json", "-").out)
    written = json.loads((folder / "out.json").read_text())
    assert written == shown


def test_json_tells_of_a_failure_too(folder, run, quick):
    quick.content = edited(onnx_bytes(), with_weight("primary_capsules.conv.bias", perturb))
    result = run(*EXPORT, "--images", "images.npy", "--json", "-")
    assert result.code == 1
    (document,) = json.loads(result.out)["artifacts"]
    assert document["verdict"] == "fail"
    assert document["parity"]["failures"]
    assert result.err.splitlines()[-1].startswith("error: ")


def test_json_that_cannot_be_written_is_an_environment_error(folder, run):
    result = run("inspect", "model.onnx", "--json", "none/out.json")
    assert result.code == 3
    assert "none/out.json" in one_message(result)


@pytest.mark.parametrize(
    "arguments",
    [
        ("verify", "model.onnx", *VERIFY, "--report", "none/page.html"),
        ("verify", "model.onnx", *VERIFY, "--json", "none/page.html"),
        (*EXPORT, "--images", "images.npy", "--report", "none/page.html"),
        ("train", "--data", ".", "--output", "none/page.html"),
        ("predict", "model.onnx", "images.npy", "--output", "none/page.html"),
    ],
    ids=["report", "json", "report of an export", "checkpoint", "predictions"],
)
def test_output_is_checked_before_any_work(folder, run, monkeypatch, arguments):
    def work(*arguments, **options):
        raise AssertionError("no work is done for an output that cannot be written")

    for name in (
        "capsnet.checkpoint.load_checkpoint",
        "capsnet.data.training.load_training_data",
        "capsnet.jobs.FreshProcess",
        "capsnet.runtime.sessions.opening.open_session",
    ):
        monkeypatch.setattr(name, work)
    before = contents(folder)
    result = run(*arguments)
    assert result.code == 3
    assert "cannot write none/page.html" in one_message(result)
    assert contents(folder) == before


def test_choices_are_those_of_the_tables():
    from typing import get_args

    from capsnet.formats import FORMATS
    from capsnet.precision import PRECISIONS
    from capsnet.presets import PRESETS
    from capsnet.runtime.sessions.base import Device

    def choices(command, name):
        [param] = [param for param in cli.commands[command].params if param.name == name]
        return list(param.type.choices)

    assert choices("export", "device") == list(get_args(Device))
    assert choices("export", "formats") == list(FORMATS)
    assert choices("export", "precision") == list(PRECISIONS)
    assert choices("train", "preset") == list(PRESETS)


def test_bundled_checkpoints_are_listed(run):
    from capsnet.bundled import BUNDLED

    result = run("export", "--checkpoint", "list")
    assert result.code == 0
    assert result.out.split() == list(BUNDLED) == ["mnist", "efficient-mnist"]
    assert all(path.is_file() for path in BUNDLED.values())


# Usage and errors


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("expert",), "No such command 'expert'"),
        (("export",), "Missing option '--format'"),
        ((*EXPORT, "--format", "coreml"), "'coreml' is not one of"),
        ((*EXPORT, "--batch", "0"), "'0' is neither a positive number nor 'dynamic'"),
        ((*EXPORT, "--batch", "some"), "'some' is neither a positive number nor 'dynamic'"),
        ((*EXPORT, "--samples", "-3"), "'-3' is neither a positive number nor 'all'"),
        ((*EXPORT, "--opset", "16"), "16 is not in the range 17<=x<=23"),
        ((*EXPORT, "--device", "tpu"), "'tpu' is not one of"),
        ((*EXPORT, "--surplus"), "No such option"),
        (("predict", "model.onnx"), "Missing argument"),
        (("train",), "Missing option '--data'"),
        (("train", "--data", ".", "--output", "x", "--epochs", "0"), "0 is not in the range"),
        (("train", "--data", ".", "--output", "x", "--preset", "huge"), "'huge' is not one of"),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, tuple) else "",
)
def test_wrong_command_line_exits_with_2(folder, run, arguments, match):
    before = contents(folder)
    result = run(*arguments)
    assert result.code == 2
    assert match in result.err
    assert "Traceback" not in result.err
    assert contents(folder) == before


@pytest.mark.parametrize(
    "error", [ExportError("broken"), RuntimeError("broken"), OSError("broken")]
)
@pytest.mark.parametrize("debug", [False, True])
def test_traceback_is_shown_with_debug_alone(folder, run, monkeypatch, error, debug):
    def fail(*arguments):
        raise error

    monkeypatch.setattr("capsnet.runtime.sessions.opening.open_session", fail)
    result = run("inspect", "model.onnx", *(["--debug"] if debug else []))
    assert result.code == (4 if isinstance(error, ExportError) else 3)
    assert "broken" in result.err.splitlines()[-1]
    assert ("Traceback (most recent call last)" in result.err) is debug
    if not debug:
        one_message(result)


def test_cuda_that_is_not_there_is_an_environment_error(folder, run, monkeypatch):
    from capsnet.runtime.sessions import cuda

    monkeypatch.setattr(cuda, "why_no_cuda", lambda: "this machine has none")
    result = run("inspect", "model.onnx", "--device", "cuda")
    assert result.code == 3
    assert "this machine has none; set the device to cpu or auto" in one_message(result)


def test_training_without_data_is_an_environment_error(folder, run):
    result = run("train", "--data", "none", "--output", "x.safetensors", "--preset", "tiny")
    assert result.code == 3
    assert "there is no such file or folder" in one_message(result)
    assert result.out == ""
    assert not (folder / "x.safetensors").exists()


def test_training_that_is_refused_shows_no_progress(folder, run):
    idx_folder(folder / "digits", 20, 5)
    options = ("--output", "x.safetensors", "--preset", "tiny", "--resize", "8", "--device", "cpu")
    result = run("train", "--data", "digits", *options)
    assert result.code == 3
    assert "or choose another network" in one_message(result)
    assert result.out == ""


def test_training_that_is_interrupted_before_a_step_does_not_say_it_is_saved(
    folder, run, monkeypatch
):
    from capsnet.training import trainer

    def interrupt(*arguments):
        raise KeyboardInterrupt

    idx_folder(folder / "digits", 20, 5)
    monkeypatch.setattr(trainer, "CapsNet", interrupt)
    before = contents(folder)
    options = ("--output", "x.safetensors", "--preset", "tiny", "--device", "cpu")
    result = run("train", "--data", "digits", *options)
    assert (result.code, result.out, result.err.split()) == (130, "", ["interrupted"])
    assert contents(folder) == before


@pytest.mark.parametrize("command", [*sorted(set(cli.commands) - {"deploy"}), "deploy triton"])
def test_every_command_has_help_json_and_debug(command):
    result = CliRunner().invoke(cli, [*command.split(), "--help"])
    assert result.exit_code == 0
    for option in ("--json", "--debug", "--help"):
        assert option in result.output


COMMANDS = {
    *("bench", "config", "deploy", "doctor", "export", "import", "inspect"),
    *("predict", "serve", "show", "train", "verify"),
}


def test_commands_are_those_of_the_documentation():
    assert set(cli.commands) == COMMANDS
    assert CliRunner().invoke(cli, ["--help"]).output.count("\n") > len(cli.commands)


def test_export_command_is_also_called_capsnet_export(folder, capsys, monkeypatch):
    from capsnet.cli.main import export_main

    monkeypatch.setattr(sys, "argv", ["capsnet-export", "--format", "onnx", "--opset", "3"])
    with pytest.raises(SystemExit) as caught:
        export_main()
    assert caught.value.code == 2
    assert "Usage: capsnet export" in capsys.readouterr().err


# Real processes


def capsnet(*arguments, **options):
    command = [sys.executable, "-P", "-W", "error", "-m", "capsnet", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def idx_folder(folder, train, test):
    """A folder with the first MNIST test images as both splits."""
    folder.mkdir()
    images, labels = mnist_test_set()
    for split, part in (("train", slice(train)), ("t10k", slice(train, train + test))):
        for name, array in (("images-idx3", images[part, 0]), ("labels-idx1", labels[part])):
            header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            path = folder / f"{split}-{name}-ubyte"
            path.write_bytes(header + array.astype(np.uint8).tobytes())
    return folder


@pytest.mark.slow
def test_network_is_trained_exported_and_verified(tmp_path):
    idx_folder(tmp_path / "digits", 300, 100)
    options = ("--preset", "tiny", "--epochs", "2", "--device", "cpu", "--json", "training.json")
    result = capsnet(
        "train", "--data", "digits", "--output", "t.safetensors", *options, cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    trained = json.loads((tmp_path / "training.json").read_text())
    history = trained["val_accuracy"]
    assert len(trained["epoch_seconds"]) == len(history)
    assert len(history) == 2
    assert all(0 <= accuracy <= 1 for accuracy in (*history, trained["test_accuracy"]))

    images = ("--images", "digits", "--samples", "8", "--device", "cpu")
    source = ("--checkpoint", "t.safetensors")
    result = capsnet("export", "--format", "onnx", *source, *images, "--json", "-", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (document,) = json.loads(result.stdout)["artifacts"]
    assert document["verdict"] == "pass"
    assert document["artifact"]["sha256"] == file_sha256(tmp_path / "capsnet.onnx")
    assert document["checkpoint_sha256"] == file_sha256(tmp_path / "t.safetensors")
    assert document["artifact"]["metadata"]["checkpoint_sha256"] == document["checkpoint_sha256"]
    certificate = json.loads((tmp_path / "capsnet.onnx.parity.json").read_text())
    assert certificate == document
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "capsnet.onnx",
        "capsnet.onnx.parity.json",
        "digits",
        "t.safetensors",
        "t.safetensors.log.jsonl",
        "training.json",
    ]

    result = capsnet("verify", "capsnet.onnx", *source, *images, "--in-process", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "proven on cpu" in result.stdout
    assert result.stderr == ""


@pytest.mark.slow
def test_errors_of_a_real_process_are_one_message_and_the_documented_code(folder):
    missing = capsnet("inspect", "none.onnx", cwd=folder)
    assert missing.returncode == 3
    (line,) = missing.stderr.splitlines()
    assert line.startswith("error: cannot read none.onnx")
    usage = capsnet("export", "--format", "none", cwd=folder)
    assert usage.returncode == 2
    assert "Traceback" not in usage.stderr
    wrong = edited(onnx_bytes(), with_weight("primary_capsules.conv.bias", perturb))
    (folder / "model.onnx").write_bytes(wrong)
    failed = capsnet("verify", "model.onnx", *VERIFY, "--in-process", cwd=folder)
    assert failed.returncode == 1
    assert failed.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT to another process")
def test_interrupted_training_exits_with_130_and_says_how_to_resume(tmp_path):
    idx_folder(tmp_path / "digits", 64, 20)
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from capsnet.cli.main import main; main()"
    )
    options = ("--preset", "tiny", "--epochs", "100000", "--device", "cpu")
    child = subprocess.Popen(
        [
            sys.executable,
            "-P",
            "-c",
            code,
            "train",
            "--data",
            "digits",
            "--output",
            "t.st",
            *options,
        ],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "t.st.state").exists():
            assert child.poll() is None, child.communicate()[1]
            assert time.monotonic() < deadline, "no epoch ended in two minutes"
            time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode == 130
    assert "interrupted; the run is saved in t.st.state" in out
    assert "with --resume to continue" in out
    assert err.split() == ["interrupted"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("digits", "t.st", "t.st.log.jsonl", "t.st.state")
    ]

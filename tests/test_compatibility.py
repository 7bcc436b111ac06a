"""The command that compares runtimes sees wrong numbers: it can fail."""

import json

import numpy as np
import pytest
from compatibility import __main__ as command
from compatibility.one import RUNTIMES, largest_error
from support.artifacts import golden_outputs, onnx_bytes
from support.networks import SMALL, random_images


def document(images, golden):
    def values(array):
        return {"shape": list(array.shape), "values": array.ravel().tolist()}

    named = {name: values(array) for name, array in golden.items()}
    return {"batches": [3, 1], "images": values(images), "golden": named}


@pytest.fixture
def artifact(tmp_path):
    path = tmp_path / "small.onnx"
    path.write_bytes(onnx_bytes(SMALL))
    images = random_images(SMALL, 3)
    return str(path), images, golden_outputs(SMALL, images, ("lengths", "capsules"))


@pytest.mark.parametrize("runtime", ["onnxruntime", "reference"])
def test_error_is_small_where_a_runtime_is_right(artifact, runtime):
    path, images, golden = artifact
    assert 0 < largest_error(RUNTIMES[runtime](path), document(images, golden)) < 1e-6


def test_error_is_that_of_the_worst_value(artifact):
    path, images, golden = artifact
    golden["capsules"] = golden["capsules"].copy()
    golden["capsules"][0, 2, 1] += 0.5
    run = RUNTIMES["onnxruntime"](path)
    assert largest_error(run, document(images, golden)) == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda found: found * np.nan, "not finite"),
        (lambda found: found.astype(np.float64), "float64"),
        (lambda found: found[:1], "is float32"),
    ],
)
def test_wrong_outputs_are_refused(artifact, damage, message):
    path, images, golden = artifact
    run = RUNTIMES["onnxruntime"](path)
    with pytest.raises(ValueError, match=message):
        largest_error(
            lambda given: {name: damage(values) for name, values in run(given).items()},
            document(images, golden),
        )


def test_table_tells_wrong_from_right_and_from_failed():
    found = {
        "mnist-fp32": {"error": 1e-3},
        "mnist-fp16": {"error": 1e-3},
        "mnist-int8": {"failure": "no such operator"},
    }
    lines = command.table({"A": found, "B": {"not run": "there is no compiler"}}).splitlines()
    assert lines[0] == "| | A | B |"
    assert lines[2] == "| mnist-fp32 | **wrong by 1.0e-03** | not run |"
    assert lines[3] == "| mnist-fp16 | 1.0e-03 | not run |"
    assert lines[4] == "| mnist-int8 | fails | not run |"


@pytest.mark.parametrize(
    ("error", "code"), [(1e-6, 0), (1e-3, 1)], ids=["right numbers", "wrong numbers"]
)
def test_exit_code_is_that_of_the_bundled_networks_in_fp32(tmp_path, monkeypatch, error, code):
    found = {name: {"error": error} for name in (*command.BUNDLED, *command.OTHERS)}
    monkeypatch.setattr(command, "write_artifacts", lambda _: None)
    monkeypatch.setattr(command, "try_runtime", lambda *_: found)
    with pytest.raises(SystemExit) as ended:
        command.main(
            ["--work", str(tmp_path), "--json", str(tmp_path / "a.json")], standalone_mode=False
        )
    assert ended.value.code == code
    assert set(json.loads((tmp_path / "a.json").read_text())) == set(command.RUNTIMES)

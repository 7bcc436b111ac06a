"""The script for machines with a GPU, run through the same functions on the CPU."""

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path

import pytest
from support.networks import SMALL, lively_model, random_images

from capsnet.checkpoint import save_checkpoint
from capsnet.documents import to_values
from capsnet.precision import PRECISIONS
from capsnet.runtime.bench import harness
from capsnet.runtime.bench.candidates import Compiled, Eager, PlainOnnx

ROOT = Path(__file__).parents[3]
IMAGES = random_images(SMALL, 6)


@pytest.fixture(scope="module")
def gpu():
    spec = importlib.util.spec_from_file_location("gpu_script", ROOT / ".ci" / "gpu.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("gpu") / "model.safetensors"
    save_checkpoint(lively_model(SMALL), path)
    return path


@pytest.fixture(scope="module")
def groups(gpu, checkpoint, tmp_path_factory):
    return gpu.candidates(checkpoint, tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def speeds(gpu, checkpoint, groups):
    chosen = {
        "torch": [c for c in groups["torch"] if not isinstance(c, Compiled)],
        "onnx fp16": groups["onnx fp16"],
    }
    settings = harness.Settings((3,), rounds=2, device="cpu", threads=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "TRAINED", 4)
        patch.setattr(harness, "_BURST", 0.005)
        patch.setattr(harness, "_LONGEST_WARM_UP", 2)
        return dict(gpu.measured(checkpoint, chosen, IMAGES, settings))


@pytest.mark.slow
def test_every_part_is_timed_where_the_cpu_can(speeds):
    parts = [f"{g}, {w}" for g in ("torch", "onnx fp16") for w in ("on the device", "with copies")]
    assert list(speeds) == [*parts, "training"]
    for results in speeds.values():
        for result in results:
            if "CUDA graph" in result.candidate:
                assert "need every node there" in result.failure
            else:
                assert result.failure is None, result
                assert result.device == "cpu"
    assert list(speeds["training"][1].ratios) == ["literal"]
    assert list(speeds["onnx fp16, with copies"][1].ratios) == ["eager fp32"]


def test_all_that_was_measured_before_is_among_the_candidates(gpu, groups):
    named = {c.name: c for group in groups.values() for c in group}
    assert set(named) == {
        *(f"{name} {p}" for name in ("eager", "compile", "torchscript") for p in ("fp32", "fp16")),
        *("compile max-autotune fp32", "compile max-autotune fp16"),
        *("onnx fp32", "onnx fp32, direct convolution", "onnx fp32, direct, NHWC"),
        *("onnx fp32, heuristic search", "onnx fp32, TF32", "onnx fp32, NHWC"),
        *("onnx fp32, CUDA graph", "onnx fp16", "onnx fp16, NHWC", "onnx fp16, CUDA graph"),
    }
    assert all(group[0].name == "eager fp32" and group[0].baseline for group in groups.values())
    tf32 = named["onnx fp32, TF32"]
    assert (tf32.cuda_options, tf32.precision) == ({"use_tf32": "1"}, "fp16")
    assert gpu.BATCHES == (1, 32, 256, 1024)
    assert (gpu.TRAINED, gpu.EPOCH) == (256, 60_000)


def test_page_shows_speeds_and_epochs(gpu, speeds):
    page = gpu.page(speeds)
    tables, _, epochs = page.partition("\n- ")
    assert all(line == "" or line.startswith("    ") for line in tables.splitlines())
    assert len(epochs.splitlines()) == 2
    for title, results in speeds.items():
        assert title in page
        for result in results:
            if result.latency is not None:
                assert f"{1e3 * result.latency.p50:.2f}" in page
    trainer = speeds["training"][1]
    assert f"trainer: {60_000 / trainer.images_per_second:.1f} s for 60000 images" in page
    assert json.loads(json.dumps(to_values(speeds["training"])))[1]["candidate"] == "trainer"
    assert gpu.page({}) == "\n"


def test_every_format_and_precision_is_exported_and_proven(gpu, tmp_path):
    commands = list(gpu.commands(tmp_path))
    exports = [command for command in commands if "export" in command]
    asked = {
        (option.removeprefix("--format="), precision)
        for command in exports
        for precision in PRECISIONS
        if f"--precision={precision}" in command
        for option in command
        if option.startswith("--format=")
    }
    assert asked == {
        *(("onnx", precision) for precision in ("fp32", "fp16", "int8")),
        *((name, precision) for name in ("torchscript", "pt2") for precision in ("fp32", "fp16")),
    }
    for command in exports:
        assert command[-3:] == ("--samples=1000", "--device", "cuda")
    assert len(commands) == len(exports) + 2


def test_command_that_fails_is_recorded(gpu):
    found = gpu.ran([sys.executable, "-c", "print('one'); raise SystemExit(4)"])
    assert found["code"] == 4
    assert found["output"] == ["one"]
    assert found["seconds"] >= 0


def test_results_are_written_after_every_part(gpu, speeds, tmp_path, monkeypatch):
    """An interruption in the third part leaves the first two."""
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu.torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(gpu, "commands", lambda _: [(sys.executable, "-c", "pass")])
    monkeypatch.setattr(gpu, "candidates", lambda *_: {})

    def interrupted(*_):
        yield from list(speeds.items())[:2]
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu, "measured", interrupted)
    monkeypatch.setattr(sys, "argv", ["gpu.py", str(tmp_path / "results")])
    with pytest.raises(KeyboardInterrupt):
        gpu.main()
    document = json.loads((tmp_path / "results.json").read_text())
    assert (document["device"], document["checks"][0]["code"]) == ("a GPU", 0)
    assert list(document["speeds"]) == list(speeds)[:2]
    assert list(speeds)[1] in (tmp_path / "results.md").read_text()


@pytest.mark.parametrize("wrong", [False, True])
def test_exit_code_says_whether_all_was_right(gpu, speeds, tmp_path, monkeypatch, wrong):
    results = [dataclasses.replace(r, device="cuda") for r in speeds["torch, with copies"]]
    if wrong:
        results[0] = dataclasses.replace(results[0], failure="parity", latency=None)
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu.torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(gpu, "commands", lambda _: [])
    monkeypatch.setattr(gpu, "candidates", lambda *_: {})
    monkeypatch.setattr(gpu, "measured", lambda *_: [("torch", tuple(results))])
    monkeypatch.setattr(sys, "argv", ["gpu.py", str(tmp_path / "results")])
    with pytest.raises(SystemExit) as caught:
        gpu.main()
    assert caught.value.code == int(wrong)


def test_without_a_gpu_it_says_what_to_do(gpu, monkeypatch, capsys):
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as caught:
        gpu.main()
    assert caught.value.code == 3
    assert "capsnet doctor --device cuda" in capsys.readouterr().err


def test_candidates_may_stay_on_the_device(groups):
    kinds = {type(candidate) for group in groups.values() for candidate in group}
    assert {Eager, Compiled, PlainOnnx} <= kinds
    for group in groups.values():
        for candidate in group:
            assert dataclasses.replace(candidate, resident=True).resident

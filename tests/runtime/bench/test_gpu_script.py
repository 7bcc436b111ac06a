"""The script for machines with a GPU: what it asks exists, and nothing that fails ends it."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click import Context

from capsnet.cli.candidates import BUILT_IN
from capsnet.cli.commands import cli
from capsnet.data.idx import load_split
from capsnet.runtime.bench.candidates import PlainOnnx

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def gpu():
    spec = importlib.util.spec_from_file_location("gpu_script", ROOT / ".ci" / "gpu.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there for their annotations
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def options(command):
    """The values of a command line by option."""
    found = [word.partition("=")[::2] for word in command if word.startswith("--candidate=")]
    return [value for _, value in found]


@pytest.mark.parametrize("dry", [False, True])
def test_every_command_is_one_that_the_command_line_takes(gpu, tmp_path, dry):
    found = gpu.parts(tmp_path, dry)
    assert len({part.name for part in found}) == len(found)
    for part in found:
        if part.command[0] == "-m":
            continue
        name, *words = part.command
        subcommand = cli.get_command(Context(cli), name)
        subcommand.make_context(name, [*words, "--json", str(tmp_path / "found.json")])
        if name == "bench":
            timed = words[words.index("--part") + 1]
            for candidate in options(words):
                assert timed in BUILT_IN[candidate].parts
        if name != "train":
            device = words[words.index("--device") + 1]
            assert device == ("cpu" if dry else "cuda")


def test_every_candidate_on_a_device_is_timed_and_makes_itself(gpu, tmp_path):
    asked = {name for part in gpu.parts(tmp_path, dry=False) for name in options(part.command)}
    rows = {name: row for name, row in BUILT_IN.items() if row.parts == ("resident",)}
    assert rows.keys() <= asked | {"resident-eager"}  # which is always timed
    made = {
        name: row.opened_as(name, tmp_path, baseline=row.baseline) for name, row in rows.items()
    }
    assert all(candidate.resident for candidate in made.values())
    assert [name for name, candidate in made.items() if candidate.baseline] == [
        "resident-eager",
        "resident-onnx-naive",
    ]
    for name, candidate in made.items():
        assert candidate.precision == ("fp16" if name.endswith(("fp16", "tf32")) else "fp32")
        assert not isinstance(candidate, PlainOnnx) or candidate.cuda_graphs == ("graph" in name)
    assert made["resident-onnx-tf32"].cuda_options == {"use_tf32": "1"}
    assert BUILT_IN["resident-onnx-tf32"].recipe.precision == "fp32"


def test_parts_fit_in_ten_minutes_and_a_dry_run_has_every_kind(gpu, tmp_path):
    real, dry = (gpu.parts(tmp_path, dry) for dry in (False, True))
    assert gpu.SECONDS < 600
    assert [part.name for part in real[:2]] == ["doctor", "proof"]
    assert {part.command[:3] for part in real if part.command[0] == "bench"} == {
        part.command[:3] for part in dry if part.command[0] == "bench"
    }
    assert {part.rows for part in dry} == {part.rows for part in real}
    assert dry[0].command[0] == "train"  # the others read what it writes


def test_training_data_is_what_the_trainer_reads(gpu, tmp_path):
    gpu.training_data(tmp_path, dry=True)
    train, test = load_split(tmp_path, "train"), load_split(tmp_path, "t10k")
    assert (len(train.images), len(test.images)) == (256, 16)
    assert (train.images[:16] == test.images).all()
    assert (train.labels[:16] == test.labels).all()
    gpu.training_data(tmp_path, dry=False)
    assert len(load_split(tmp_path, "train").images) == 60_000


@pytest.fixture
def ran(gpu, tmp_path):
    """Run a piece of Python as a part."""

    def run(code, seconds=30.0):
        part = gpu.Part("one", seconds, ("-c", code))
        return gpu.run(part, seconds, tmp_path, tmp_path / "log.txt", dict(os.environ))

    return run


def test_a_part_that_fails_leaves_its_code_and_last_words(ran):
    found = ran("print('first'); print('why'); raise SystemExit(4)")
    assert (found["code"], found["problem"], found["output"]) == (4, "why", ["first", "why"])
    assert ran("pass")["problem"] == ""


def test_a_part_that_takes_too_long_is_stopped_with_its_children_and_keeps_its_words(ran):
    code = (
        "import subprocess, sys, time\n"
        "print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid)\n"
        "sys.stdout.flush()\n"
        "time.sleep(60)"
    )
    found = ran(code, 2.0)
    assert (found["code"], found["problem"]) == (None, "stopped after 2 s")
    assert found["seconds"] < 30
    [child] = found["output"]
    deadline = time.monotonic() + 10
    while running(int(child)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not running(int(child))


def test_a_script_that_is_ended_ends_what_it_runs(gpu, tmp_path):
    script = [sys.executable, str(ROOT / ".ci" / "gpu.py"), str(tmp_path), "--dry"]
    process = subprocess.Popen(script, stdout=subprocess.DEVNULL)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 60
    while not (found := children.read_text().split()) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.terminate()
    assert process.wait(30) == 143
    assert found
    assert not running(int(found[0]))


def running(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_every_part_is_tried_and_written(gpu, tmp_path, monkeypatch, capsys):
    """One is right, one is wrong, one says what cannot be read; the last one has no time left."""
    seen = []

    def run(part, *_):
        seen.append((tmp_path / "out" / "results.json").is_file())
        found = {"findings": [{"subject": "a|b", "status": "good", "detail": "c\nd"}]}
        results = {"right": {"found": found}, "odd": {"found": {}}, "wrong": {}}
        code = int(part.name == "wrong")
        if part.name == "odd":
            monkeypatch.setattr(gpu, "FEWEST", 1e9)
        problem = "bad" if code else ""
        return {"code": code, "seconds": 1.0, "problem": problem, **results[part.name]}

    parts = [gpu.Part(n, 9, ("doctor",), gpu.findings) for n in ("right", "wrong", "odd", "late")]
    monkeypatch.setattr(gpu, "run", run)
    monkeypatch.setattr(gpu, "parts", lambda *_: parts)
    monkeypatch.setattr(sys, "argv", ["gpu.py", str(tmp_path / "out"), "--dry"])
    assert gpu.main() == 1
    assert seen == [False, True, True]  # written after each
    document = json.loads((tmp_path / "out" / "results.json").read_text())
    problems = {name: part["problem"] for name, part in document["parts"].items()}
    assert problems == {
        "right": "",
        "wrong": "bad",
        "odd": "no table: KeyError('findings')",
        "late": "not started: no time left",
    }
    page = (tmp_path / "out" / "summary.md").read_text()
    assert "| a/b | good | c d |" in page
    assert "Exit code 1: bad" in page
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "log.txt",
        "results.json",
        "summary.md",
    ]


def test_speeds_that_are_missing_show_the_reason(gpu):
    latency = {"p50": 0.001, "p90": 0.002, "p99": 0.003, "calls": 9}
    common = {"batch": 8, "device": "cuda", "peak_bytes": 2e6, "device_bytes": 3e6}
    ratio = {"estimate": 2.0, "low": 1.5, "high": 2.5}
    results = [
        {**common, "candidate": "a", "latency": latency, "images_per_second": 8e3, "ratios": {}},
        {**common, "candidate": "b", "latency": latency, "images_per_second": 16e3}
        | {"ratios": {"a": ratio}},
        {**common, "candidate": "c", "latency": None, "failure": "parity", "ratios": {}},
    ]
    lines = gpu.table(gpu.speeds({"results": results})).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[3] == "| 8 | b | cuda | 1.000 | 3.000 | 16000 | 2.00 (1.50-2.50) | 2 | 3 |"
    assert re.fullmatch(r"\| 8 \| c \| cuda \| parity \|[ |]+", lines[4])


def test_a_checkout_that_is_not_installed_has_a_version(gpu, tmp_path, monkeypatch):
    def absent(_):
        raise gpu.PackageNotFoundError

    monkeypatch.setattr(gpu, "version", absent)
    environment = gpu.surroundings(tmp_path)
    code = "import capsnet.export, importlib.metadata as m; print(m.version('capsnet-export'))"
    isolated = [sys.executable, "-S", "-c", code]
    done = subprocess.run(isolated, env=environment, capture_output=True, text=True, check=False)
    assert re.fullmatch(r"\d+\.\d+\S*\n", done.stdout), done.stderr

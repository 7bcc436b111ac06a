"""The campaign sees what must not happen: it can fail."""

import importlib.util
import json
import random
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def campaign():
    path = Path(__file__).with_name("campaign.py")
    spec = importlib.util.spec_from_file_location("campaign", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["campaign"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_mutations_are_reproducible_and_change_something(campaign):
    content = bytes(range(256)) * 8
    first = [campaign.mutate(content, random.Random(seed)) for seed in range(200)]
    again = [campaign.mutate(content, random.Random(seed)) for seed in range(200)]
    assert first == again
    assert sum(mutated != content for mutated in first) > 150
    assert len(set(first)) > 150


@pytest.mark.parametrize(
    ("opener", "words"),
    [
        (lambda path: {}["missing"] if path.read_bytes() != b"sound" else None, "KeyError"),
        (lambda path: path.read_bytes(), ""),
    ],
    ids=["an undocumented error", "nothing"],
)
def test_errors_of_an_undocumented_kind_are_seen(
    campaign, monkeypatch, capsys, tmp_path, opener, words
):
    (tmp_path / "file").write_bytes(b"sound")
    monkeypatch.setitem(campaign.OPENERS, "file", opener)
    campaign.work(tmp_path, "file", 0)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == {"ready": True}
    wrong = [line["wrong"] for line in lines[1:] if line["wrong"]]
    assert bool(wrong) is bool(words)
    assert all(words in line for line in wrong)


def test_a_crash_is_seen(campaign, tmp_path):
    tally = campaign.Tally()
    campaign._mutate_in_process(tmp_path, "model.onnx", 0, tally)  # there is no sound file
    assert len(tally.wrong) == 1
    assert "the process ended with" in tally.wrong[0]


def test_table_has_a_row_for_every_part(campaign):
    tally = campaign.Tally(cases=3, wrong=["something"])
    tally.outcomes.update(["opened", "opened", "ArtifactError"])
    row = campaign.table({"damaged files": tally}).splitlines()[-1]
    assert row == "| damaged files | 3 | 2 opened, 1 ArtifactError | 1 |"

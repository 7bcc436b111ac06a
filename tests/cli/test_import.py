"""``capsnet import``: a checkpoint of foreign weights, what was assumed, and every refusal."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.foreign import TORCH

import capsnet
from capsnet.bundled import BUNDLED
from capsnet.checkpoint import assumptions, load_checkpoint
from capsnet.cli.main import main
from capsnet.importers import LAYOUTS


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run the command, as the console script would, in a folder with foreign weights."""
    state = {k: torch.from_numpy(v) for k, v in TORCH["adambielski"].weights().items()}
    torch.save(state, tmp_path / "theirs.pt")
    monkeypatch.chdir(tmp_path)

    def command(*arguments):
        with pytest.raises(SystemExit) as caught:
            main(["import", *arguments])
        output = capsys.readouterr()
        return SimpleNamespace(code=caught.value.code or 0, out=output.out, err=output.err)

    return command


IMPORT = ("theirs.pt", "--layout", "adambielski", "--output", "ours.safetensors")


def test_a_checkpoint_is_written_and_says_what_was_assumed(run):
    result = run(*IMPORT)
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines() == [
        "ours.safetensors: a network of adambielski/CapsNet-pytorch for images of 1x12x12, "
        "3 classes",
        "assumed: 3 routing iterations, that project's default (--routing-iterations)",
    ]
    model = load_checkpoint("ours.safetensors")
    assert model.config.capsule_layers[0].routing_iterations == 4


def test_what_the_file_does_not_say_is_an_option(run):
    options = ("--routing-iterations", "0", "--image-shape", "1,12,12", "--json", "-")
    result = run(*IMPORT, *options)
    assert result.code == 0
    document = json.loads(result.out)
    assert document["assumed"] == []
    assert document["config"]["capsule_layers"][0]["routing_iterations"] == 1
    assert document["config"] == json.loads(load_checkpoint("ours.safetensors").config.to_json())


def test_the_layouts_are_listed_without_a_source(run):
    result = run("--layout", "list")
    assert result.code == 0
    assert [line.split(maxsplit=1) for line in result.out.splitlines()] == [
        [layout.name, layout.project] for layout in LAYOUTS.values()
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((*IMPORT[:2], "gram-ai", *IMPORT[3:]), 3, "conv1.weight is missing"),
        ((*IMPORT[:2], "toy", *IMPORT[3:]), 2, "'toy' is not one of 'readable_capsnet'"),
        (("none.pt", *IMPORT[1:]), 3, "cannot read none.pt: No such file"),
        ((*IMPORT, "--image-shape", "28,28"), 2, "expected channels, height and width"),
        ((*IMPORT, "--image-shape", "1,28,28"), 3, "say which images (--image-shape)"),
        ((*IMPORT, "--routing-iterations", "-1"), 2, "-1 is not in the range"),
        ((*IMPORT[:3], "--output", "theirs.pt"), 2, "theirs.pt"),
        (IMPORT[:3], 2, "Missing option '--output'"),
        ((*IMPORT[:2], "mapping", *IMPORT[3:]), 2, "--layout mapping go together"),
        ((*IMPORT, "--mapping", "theirs.pt"), 2, "--layout mapping go together"),
    ],
)
def test_what_cannot_be_imported_is_one_message_and_no_file(arguments, code, words, run, tmp_path):
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    result = run(*arguments)
    assert (result.code, result.out) == (code, "")
    assert words in result.err
    assert "Traceback" not in result.err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_foreign_weights_are_no_checkpoint_until_they_are_imported(run):
    message = r"import them first, with `capsnet import --layout adambielski theirs.pt --output"
    with pytest.raises(capsnet.CheckpointError, match=message):
        load_checkpoint("theirs.pt")


@pytest.mark.slow
def test_what_is_assumed_of_weights_that_need_no_import_is_said_in_a_line(run, capsys):
    weights = TORCH["readable_capsnet"].weights()
    state = {name.removeprefix("encoder."): torch.from_numpy(v) for name, v in weights.items()}
    torch.save(state, "readable.pt")
    arguments = ("--format", "torchscript", "--checkpoint", "readable.pt", "--no-verify")
    with pytest.raises(SystemExit) as caught:
        main(["export", *arguments, "--json", "found.json"])
    assert not caught.value.code
    [line] = [line for line in capsys.readouterr().out.splitlines() if "assumed" in line]
    assert line == (
        "assumed of readable.pt: images of 12x12 (--image-shape), 3 routing iterations, that "
        "project's default (--routing-iterations); where that is not so, run capsnet import first"
    )
    document = json.loads(Path("found.json").read_text(encoding="utf-8"))
    assert document["assumed"] == list(assumptions(Path("readable.pt")))


def test_nothing_is_assumed_of_a_checkpoint_of_this_toolkit():
    assert assumptions(BUNDLED["mnist"]) == ()

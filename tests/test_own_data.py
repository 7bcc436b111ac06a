"""Data of one's own, the whole way: folders of PNG files to a proven file that names classes."""

import json

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from PIL import Image
from support.proof import InThisProcess

from capsnet.checkpoint import load_checkpoint
from capsnet.cli.commands import cli

COLOURS = {"blue": (20, 30, 200), "green": (30, 190, 40), "red": (210, 30, 20)}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """RGB images, 32x32, in a subfolder for each class."""
    random = np.random.default_rng(0)
    for split, each in (("train", 16), ("test", 6)):
        for name, colour in COLOURS.items():
            place = tmp_path / "pictures" / split / name
            place.mkdir(parents=True)
            for number in range(each):
                noise = random.integers(0, 40, (32, 32, 3))
                pixels = np.clip(np.array(colour) + noise - 20, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def capsnet(*arguments):
    result = CliRunner().invoke(cli, [*map(str, arguments), "--device", "cpu", "--json", "a.json"])
    assert result.exit_code == 0, result.output
    with open("a.json") as file:  # noqa: PTH123 - the folder of the test
        return result, json.load(file)


@pytest.mark.slow
def test_folders_of_images_become_a_proven_file_that_names_classes(folder, monkeypatch):
    monkeypatch.setattr("capsnet.jobs.FreshProcess", InThisProcess)
    options = ("--preset", "tiny", "--epochs", 8, "--batch-size", 8, "--learning-rate", 0.01)
    data = ("--data", "pictures", "--output", "own.safetensors")
    result, found = capsnet("train", *data, *options)
    assert "measured once" in result.stdout
    assert found["test_accuracy"] > 0.9
    about = load_checkpoint("own.safetensors").about
    assert about.class_names == ("blue", "green", "red")
    assert about.training_inputs.colour == "RGB"

    source = ("--checkpoint", "own.safetensors", "--images", "pictures")
    _, found = capsnet("export", "--format", "onnx", "--output", "own.onnx", *source)
    [certificate] = found["artifacts"]
    assert certificate["verdict"] == "pass"
    assert certificate["artifact"]["metadata"]["class_names"] == ["blue", "green", "red"]
    assert "Classes in order: blue, green, red." in onnx.load("own.onnx").doc_string

    _, found = capsnet("verify", "own.onnx", *source, "--in-process")
    assert found["parity"]["accuracy"]["candidate"] > 0.9

    result, found = capsnet("predict", "own.onnx", "pictures", "--output", "own.csv", "--top", 1)
    rows = (folder / "own.csv").read_text().splitlines()
    assert rows[0] == "source,label,name,label_1,name_1,length_1"
    assert len(rows) == 1 + 18
    assert found["accuracy"] > 0.9
    assert np.array(found["confusion"]).sum() == found["scored"] == 18
    assert "with a known class" in result.stderr

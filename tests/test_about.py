"""What checkpoints know of their network besides its weights: names, and training images."""

import json

import numpy as np
import pytest
from safetensors.torch import load, save
from support.networks import SMALL, lively_model, random_images

from capsnet.about import About
from capsnet.bundled import BUNDLED
from capsnet.checkpoint import load_checkpoint, read_safetensors, save_checkpoint
from capsnet.data.names import read_names
from capsnet.errors import CheckpointError, DataError
from capsnet.training.describe import describe_inputs


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.safetensors"


def described(names=("a", "b", "c", "d", "e")):
    model = lively_model(SMALL)
    pixels = (random_images(SMALL, 20) * 255).astype(np.uint8)
    model.about = About(names, describe_inputs(pixels, np.linspace(0, 1, 101)))
    return model


def test_names_and_training_inputs_come_back(path):
    model = described()
    save_checkpoint(model, path)
    about = load_checkpoint(path).about
    assert about == model.about
    inputs = about.training_inputs
    assert (inputs.images, inputs.colour, inputs.polarity) == (20, "grey", "mixed")
    assert inputs.mean.mean == pytest.approx(0.5, abs=0.02)
    assert inputs.deviation.mean == pytest.approx(12**-0.5, abs=0.02)
    assert inputs.longest["25"] == pytest.approx(0.25)


def test_border_is_that_of_the_outermost_pixels():
    pixels = np.full((3, 1, 8, 8), 51, np.uint8)
    pixels[:, :, 1:-1, 1:-1] = 255
    inputs = describe_inputs(pixels, np.ones(3))
    assert inputs.border.mean == pytest.approx(0.2)
    assert inputs.polarity == "bright on dark"
    assert describe_inputs(255 - pixels, np.ones(3)).polarity == "dark on bright"


def test_checkpoint_without_them_knows_nothing(path):
    save_checkpoint(lively_model(SMALL), path)
    assert load_checkpoint(path).about == About()


@pytest.mark.parametrize("names", [7, ["a", 5], "abc"])
def test_names_that_are_damaged_are_refused(path, names):
    save_checkpoint(lively_model(SMALL), path)
    content = path.read_bytes()
    metadata, _ = read_safetensors(content)
    document = json.loads(metadata["capsnet"]) | {"class_names": names}
    path.write_bytes(save(load(content), {"capsnet": json.dumps(document)}))
    with pytest.raises(CheckpointError, match="its classes and inputs is damaged: class_names"):
        load_checkpoint(path)


def test_names_cannot_act_on_a_terminal(path):
    save_checkpoint(described(("a", "b", "c", "d", "\x1b[2J")), path)
    assert load_checkpoint(path).about.class_names[4] == "\\x1b[2J"


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_networks_know_what_they_were_trained_on(name):
    inputs = load_checkpoint(BUNDLED[name]).about.training_inputs
    assert (inputs.colour, inputs.polarity) == ("grey", "bright on dark")
    assert inputs.mean.mean == pytest.approx(0.13, abs=0.01)


def test_names_are_read_from_a_file(tmp_path):
    (tmp_path / "names.txt").write_text(" cat\n\nbig dog \n")
    assert read_names(tmp_path / "names.txt") == ("cat", "big dog")
    with pytest.raises(DataError, match="names 2 classes, and there are 3"):
        read_names(tmp_path / "names.txt", 3)
    (tmp_path / "names.txt").write_text("cat\ncat\n")
    with pytest.raises(DataError, match="the class 'cat' more than once"):
        read_names(tmp_path / "names.txt")

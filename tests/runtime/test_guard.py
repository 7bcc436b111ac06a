"""The guard finds the usual mistakes, by name, and leaves ordinary images alone."""

import json
import re

import numpy as np
import pytest
from click.testing import CliRunner
from support.artifacts import edited, metadata_of, onnx_bytes
from support.networks import SMALL, TINY

from capsnet.about import About
from capsnet.bundled import BUNDLED
from capsnet.checkpoint import load_checkpoint
from capsnet.cli.commands import cli
from capsnet.data.idx import mnist_test_set
from capsnet.documents import to_values
from capsnet.errors import DataError
from capsnet.runtime.guard import FEWEST, Guard, mnist_is_foreign, unlike
from capsnet.runtime.sessions.images import require_unit_range
from capsnet.runtime.sessions.opening import open_session
from capsnet.training.describe import describe_inputs

MNIST = load_checkpoint(BUNDLED["mnist"]).about.training_inputs
DIGITS = mnist_test_set().images.astype(np.float32) / np.float32(255)
INVERTED, TWICE = 1 - DIGITS[:500], DIGITS[:500] / np.float32(255)


def test_digits_are_left_alone():
    random = np.random.default_rng(0)
    for _ in range(200):
        assert unlike(MNIST, DIGITS[random.choice(10_000, 32, replace=False)]) is None


def test_digits_of_one_kind_are_left_alone():
    labels = mnist_test_set().labels
    for label in range(10):
        assert unlike(MNIST, DIGITS[labels == label][:300]) is None


@pytest.mark.parametrize("count", [FEWEST, 500])
@pytest.mark.parametrize(
    ("images", "cause"),
    [(INVERTED, "look inverted .*--invert"), (TWICE, "look scaled twice .*255 once")],
    ids=["inverted", "scaled twice"],
)
def test_mistakes_are_named(images, cause, count):
    assert unlike(MNIST, images[: FEWEST - 1]) is None  # too few to say
    assert re.search(cause, unlike(MNIST, images[:count]))


def test_images_of_another_kind_have_no_likely_cause():
    noise = np.random.default_rng(0).random((20, 1, 28, 28), np.float32)
    assert "in place of 0.129" in unlike(MNIST, noise)


def test_exchanged_channels_are_named():
    random = np.random.default_rng(0)
    pixels = random.random((400, 3, 8, 8)) * np.array([0.9, 0.6, 0.5])[:, None, None]
    pixels *= random.uniform(0.5, 1, (400, 1, 1, 1))
    inputs = describe_inputs((255 * pixels).astype(np.uint8), np.ones(3))
    images = pixels.astype(np.float32)
    assert unlike(inputs, images[:100]) is None
    assert "BGR in place of RGB" in unlike(inputs, images[:100, ::-1])


def test_capsules_that_are_short_are_noticed():
    guard, lengths = Guard(MNIST), np.full((32, 10), 0.5, np.float32)
    guard.see(DIGITS[:32], lengths)
    assert "shorter than all but 1 %" in guard.finding()
    guard.see(DIGITS[:40], np.full((40, 10), 0.9, np.float32))
    assert guard.finding() is None


@pytest.mark.parametrize(
    ("low", "high", "cause"),
    [
        (-0.42, 2.8, "look normalised"),
        (0, 255, "look like 0..255: divide by 255"),
        (0, 4000, "as the training images were"),
        (0, np.nan, "repair them"),
        (0, np.inf, "repair them"),
    ],
)
def test_values_outside_the_unit_range_are_refused(low, high, cause):
    images = np.array([low, high] * 8, np.float32).reshape(1, 1, 4, 4)
    with pytest.raises(DataError, match=rf"expected 0..1: .*{cause}.*any_range=True"):
        require_unit_range(images)


@pytest.mark.parametrize("value", [0.0, 1.0, 1.000001])
def test_the_ends_of_the_range_are_in_it(value):
    require_unit_range(np.full((1, 1, 2, 2), value, np.float32))


def test_session_takes_any_range_where_told(tmp_path):
    (tmp_path / "a.onnx").write_bytes(onnx_bytes())
    session = open_session(tmp_path / "a.onnx", "cpu")
    images = np.full((2, *SMALL.image_shape), 200, np.float32)
    with pytest.raises(DataError, match=r"look like 0\.\.255"):
        session.run(images)
    assert session.run(images, any_range=True)["lengths"].shape == (2, 5)


def test_digits_are_foreign_where_the_training_images_are_unknown_or_others():
    assert mnist_is_foreign(About((), MNIST)) is None
    assert "not known what the network was trained on" in mnist_is_foreign(About())
    dark_on_bright = describe_inputs(255 - mnist_test_set().images[:500], np.ones(3))
    assert "another kind" in mnist_is_foreign(About((), dark_on_bright))


@pytest.fixture
def artifact(tmp_path, monkeypatch):
    """A network for digits that says it was trained on MNIST."""
    content = onnx_bytes(TINY)
    inputs = to_values(MNIST) | {"longest": {"1": 0.0}}  # of fresh weights any length is usual
    document = metadata_of(content) | {"training_inputs": inputs}

    def describe(model):
        model.metadata_props[0].value = json.dumps(document)

    (tmp_path / "a.onnx").write_bytes(edited(content, describe))
    np.save(tmp_path / "inverted.npy", INVERTED[:40])
    monkeypatch.chdir(tmp_path)
    return "a.onnx"


def predict(*arguments):
    return CliRunner().invoke(cli, ["predict", *arguments, "--device", "cpu"])


def test_predict_warns_and_the_option_that_it_names_helps(artifact):
    result = predict(artifact, "inverted.npy", "--output", "a.csv", "--json", "a.json")
    assert result.exit_code == 0
    assert "warning: the 40 images do not look like" in result.stderr
    with open("a.json") as file:  # noqa: PTH123 - the folder of the test
        assert "--invert" in json.load(file)["warnings"][0]
    result = predict(artifact, "inverted.npy", "--output", "b.csv", "--invert", "--strict")
    assert (result.exit_code, result.stderr) == (0, "")


def test_strict_prediction_of_odd_images_is_a_wrong_result(artifact, tmp_path):
    result = predict(artifact, "inverted.npy", "--output", "a.csv", "--strict")
    assert result.exception.exit_code == 1
    assert "look inverted" in str(result.exception)
    assert (tmp_path / "a.csv").exists()

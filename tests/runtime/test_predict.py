import csv
import io
import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from capsnet.errors import ArtifactError, DataError, ResultError
from capsnet.runtime.predict import Prediction, predict
from capsnet.runtime.rows import write_csv, write_jsonl


class FakeSession:
    """The length of class i is pixel i of the image."""

    def __init__(self, decision="lengths"):
        self.batches = []
        self.metadata = SimpleNamespace(decision=decision, image_shape=(1, 4, 5), class_names=())

    def run(self, images):
        assert images.dtype == np.float32
        self.batches.append(images.shape)
        return {"lengths": images[:, 0, 0, :3], "capsules": images}


def images(count):
    rng = np.random.default_rng(0)
    return [(f"x.npy[{i}]", rng.random((1, 4, 5), np.float32)) for i in range(count)]


def test_predictions_in_order():
    inputs = images(7)
    session = FakeSession()
    predictions = list(predict(session, inputs, batch_size=3))
    assert session.batches == [(3, 1, 4, 5), (3, 1, 4, 5), (1, 1, 4, 5)]
    for (source, image), prediction in zip(inputs, predictions, strict=True):
        lengths = [float(v) for v in image[0, 0, :3]]
        assert prediction == Prediction(source, lengths.index(max(lengths)), tuple(lengths))
        assert type(prediction.label) is int
        assert all(type(v) is float for v in prediction.lengths)


@pytest.mark.parametrize("batch_size", [1, 6, 7, 8, 64])
def test_batch_size_does_not_change_predictions(batch_size):
    assert list(predict(FakeSession(), images(7), batch_size)) == list(
        predict(FakeSession(), images(7))
    )


@pytest.mark.parametrize("kind", [str, Path])
def test_a_file_is_read_as_a_stream(tmp_path, kind):
    path = tmp_path / "digits.npy"
    array = np.stack([image for _, image in images(7)])
    np.save(path, array)
    predictions = list(predict(FakeSession(), kind(path)))
    expected = predict(FakeSession(), [(f"{path}[{i}]", image) for i, image in enumerate(array)])
    assert predictions == list(expected)
    with pytest.raises(DataError, match="no such file or folder"):
        next(predict(FakeSession(), kind(tmp_path / "none")))


def test_the_class_is_that_of_the_output_that_the_artifact_names():
    class Session(FakeSession):
        def run(self, images):
            return {"lengths": 1 - images[:, 0, 0, :3], "scores": images[:, 0, 0, :3]}

    predictions = list(predict(Session("scores"), images(7)))
    assert predictions == list(predict(FakeSession(), images(7)))
    assert predictions != list(predict(Session("lengths"), images(7)))


def test_a_network_that_classifies_nothing_is_refused():
    with pytest.raises(ArtifactError, match=r"classifies nothing.*run its session"):
        next(predict(FakeSession(None), images(1)))


def test_first_of_equal_lengths():
    image = np.full((1, 4, 5), 0.5, np.float32)
    (prediction,) = predict(FakeSession(), [("x", image)])
    assert prediction.label == 0


def test_no_images():
    session = FakeSession()
    assert list(predict(session, [])) == []
    assert session.batches == []


def test_no_more_than_a_batch_is_read_ahead():
    taken = itertools.count()
    endless = (("x", np.full((1, 4, 5), next(taken), np.float32)) for _ in itertools.count())
    predictions = predict(FakeSession(), endless, batch_size=4)
    for _ in range(5):
        next(predictions)
    assert next(taken) == 8


@pytest.mark.parametrize("batch_size", [0, -1])
def test_batch_size_must_be_positive(batch_size):
    with pytest.raises(ValueError, match="batch_size must be positive"):
        next(predict(FakeSession(), images(1), batch_size))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_lengths_must_be_finite(value):
    inputs = images(3)
    inputs[1][1][0, 0, 2] = value
    predictions = predict(FakeSession(), inputs)
    assert next(predictions).source == "x.npy[0]"
    with pytest.raises(ResultError, match=r"NaN or infinity for x\.npy\[1\].*capsnet verify"):
        next(predictions)


def test_missing_predictions_are_noticed():
    class Short(FakeSession):
        def run(self, images):
            return {"lengths": np.zeros((len(images) - 1, 3), np.float32)}

    with pytest.raises(ValueError, match="shorter"):
        list(predict(Short(), images(3)))


AWKWARD = ["plain.npy[0]", 'a "quoted", name.png', "two\nlines.png", "größe/δ.png", " "]
LENGTHS = [0.1, 1 / 3, 1e-8, 1e-45, 0.0, 1.0, 0.99999994]


def awkward_predictions():
    lengths = tuple(np.array(LENGTHS, np.float32).tolist())
    return [Prediction(source, i, lengths) for i, source in enumerate(AWKWARD)]


def test_csv():
    file = io.StringIO(newline="")
    assert write_csv(iter(awkward_predictions()), file) == len(AWKWARD)
    header, *rows = csv.reader(io.StringIO(file.getvalue(), newline=""))
    assert header == ["source", "label", *(f"length_{i}" for i in range(len(LENGTHS)))]
    assert [row[0] for row in rows] == AWKWARD
    assert [row[1] for row in rows] == ["0", "1", "2", "3", "4"]
    for row in rows:
        np.testing.assert_array_equal(np.array(row[2:], np.float32), np.array(LENGTHS, np.float32))
    assert rows[0][2:4] == ["0.1", "0.33333334"]
    assert file.getvalue().startswith("source,label,length_0,")
    assert "\r" not in file.getvalue()


def test_jsonl():
    file = io.StringIO()
    assert write_jsonl(iter(awkward_predictions()), file) == len(AWKWARD)
    lines = file.getvalue().splitlines()
    assert len(lines) == len(AWKWARD)
    for i, (line, source) in enumerate(zip(lines, AWKWARD, strict=True)):
        row = json.loads(line)
        assert list(row) == ["source", "label", "lengths"]
        assert (row["source"], row["label"]) == (source, i)
        np.testing.assert_array_equal(np.float32(row["lengths"]), np.float32(LENGTHS))
    assert '"lengths": [0.1, 0.33333334, 1e-08,' in lines[0]


def test_random_lengths_round_trip():
    lengths = np.random.default_rng(0).random(1000, np.float32)
    file = io.StringIO()
    write_jsonl([Prediction("x", 0, tuple(lengths.tolist()))], file)
    np.testing.assert_array_equal(np.float32(json.loads(file.getvalue())["lengths"]), lengths)


@pytest.mark.parametrize("write", [write_csv, write_jsonl])
def test_nothing_is_written_without_predictions(write):
    file = io.StringIO()
    assert write([], file) == 0
    assert file.getvalue() == ""


@pytest.mark.parametrize("write", [write_csv, write_jsonl])
def test_predictions_are_written_as_they_come(write):
    file = io.StringIO()

    def predictions():
        yield Prediction("first", 0, (0.5, 0.25))
        assert "first" in file.getvalue()
        yield Prediction("second", 1, (0.25, 0.5))

    assert write(predictions(), file) == 2

"""What a run leaves to look at: a line for each epoch, curves, events; and fewer images."""

import json
import sys

import numpy as np
import pytest
import torch

from capsnet.config import preset
from capsnet.data.split import split_validation
from capsnet.data.training import training_data
from capsnet.errors import ResourceError
from capsnet.training.fit import Fitting
from capsnet.training.job import train_on
from capsnet.training.log import Curves, TensorBoard, log_path
from capsnet.training.trainer import TrainingConfig

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 1, 28, 28), np.uint8)
DATA = training_data(PIXELS, np.arange(30) % 3)
OPTIONS = TrainingConfig(epochs=2, batch_size=16)


def run(folder, *watching, **others):
    output = folder / "model.safetensors"
    cpu = torch.device("cpu")
    return train_on(
        DATA, Fitting(preset("tiny")), OPTIONS, output, device=cpu, watching=watching, **others
    )


def lines(folder):
    text = log_path(folder / "model.safetensors").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_every_epoch_and_the_result_are_lines(tmp_path):
    result = run(tmp_path)
    *epochs, last = lines(tmp_path)
    assert [line["epoch"] for line in epochs] == [1, 2]
    assert tuple(line["val_accuracy"] for line in epochs) == result.val_accuracy
    assert last == {"kept_epoch": result.epoch, "test_accuracy": None}
    run(tmp_path)  # a new run
    assert len(lines(tmp_path)) == 3


def test_a_run_that_is_resumed_goes_on_in_its_log(tmp_path):
    def interrupt(progress):
        if progress.epoch == 1 and progress.val_accuracy is not None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, on_progress=interrupt)
    assert len(lines(tmp_path)) == 1
    run(tmp_path, resume=True)
    assert [line.get("epoch") for line in lines(tmp_path)] == [1, 2, None]


def test_curves_are_drawn_anew_after_every_epoch(tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "curves.png"
    sizes = []
    curves = Curves(picture, log_path(tmp_path / "model.safetensors"))
    run(tmp_path, curves.epoch, lambda _: sizes.append(picture.read_bytes()))
    assert len(set(sizes)) == 2
    assert sizes[0].startswith(b"\x89PNG")


def test_events_are_written(tmp_path):
    pytest.importorskip("tensorboard")
    run(tmp_path, TensorBoard(tmp_path / "events").epoch)
    assert len(list((tmp_path / "events").glob("events.out.tfevents.*"))) == 2


@pytest.mark.parametrize(
    ("module", "make"),
    [
        ("matplotlib.figure", lambda path: Curves(path, path)),
        ("torch.utils.tensorboard", TensorBoard),
    ],
)
def test_libraries_that_are_not_there_are_named(tmp_path, monkeypatch, module, make):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ResourceError, match=r"pip install 'capsnet-export\["):
        make(tmp_path)


def test_fewer_images_are_chosen_by_the_seed():
    learned, held_out = split_validation(DATA.train, 0.2, 0, 20)
    assert len(learned.images) + len(held_out.images) == 20
    again, _ = split_validation(DATA.train, 0.2, 0, 20)
    np.testing.assert_array_equal(learned.images, again.images)
    assert len(split_validation(DATA.train, 0.2, 0, 99)[0].images) == 24

"""Training: it learns, repeats bit for bit, survives interruption, and refuses what it must."""

import dataclasses
import json
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import safetensors.torch
import torch
from support.networks import altered, network

from capsnet.checkpoint import load_checkpoint, save_checkpoint
from capsnet.config import preset
from capsnet.data.idx import LabelledImages, mnist_test_set
from capsnet.errors import CheckpointError, DataError, OutputError, ResultError
from capsnet.layers.dynamic import DynamicConfig
from capsnet.model import CapsNet
from capsnet.training import trainer as training
from capsnet.training.loss import margin_loss
from capsnet.training.trainer import Progress, TrainingConfig, evaluate, state_path, train

CPU = torch.device("cpu")
CONFIG = network(
    image_shape=(1, 10, 12),
    stem_channels=6,
    stem_kernel=3,
    primary_groups=2,
    primary_dim=4,
    primary_kernel=3,
    primary_activation="squash",  # learns faster than "scale"
    capsule_layers=(DynamicConfig(3, 4),),
    decoder_sizes=(8,),
)
OPTIONS = TrainingConfig(epochs=3, batch_size=16, learning_rate=1e-2, shift=1, seed=5)
STEPS = 6  # of an epoch: 5 whole batches and one of 10 images


def bars(images, seed):
    """Noise with a bright bar: at the top, at the bottom, or upright."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 60, (images, 1, 10, 12), np.uint8)
    labels = random.integers(0, 3, images)
    for image, label in zip(pixels[:, 0], labels, strict=True):
        (image[1:3], image[7:9], image[:, 5:7])[label][:] = 230
    return LabelledImages(pixels, labels)


TRAIN, TEST = bars(90, 0), bars(40, 1)


def fitness(model, test_set):
    """A stand-in for the accuracy that every epoch improves and every weight changes.

    With it the checkpoint is that of the last epoch: to compare two is to compare whole runs.
    """
    images, labels = (torch.from_numpy(array) for array in test_set)
    with torch.no_grad():
        return 1 - margin_loss(model(images / 255)[0], labels).item()


def run(
    output,
    options=OPTIONS,
    *,
    config=CONFIG,
    train_set=TRAIN,
    validation=TEST,
    accuracy=fitness,
    **others,
):
    """The validation accuracies of a run."""
    return list(trained(output, options, config, train_set, validation, accuracy, **others)[0])


def trained(output, options, config, train_set, validation, accuracy, **others):
    with mock.patch.object(training, "evaluate", accuracy):
        result = train(config, options, train_set, validation, output, device=CPU, **others)
    return dataclasses.astuple(result)


def weights(path):
    return safetensors.torch.load_file(path)


def same(path, other):
    first, second = weights(path), weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def interrupt(at):
    """Ctrl-C in the progress callback of step number ``at`` of the run."""
    seen = []

    def on_progress(progress):
        seen.append(progress)
        if len(seen) == at:
            raise KeyboardInterrupt

    return on_progress


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The checkpoint, the history and the progress of one uninterrupted run."""
    torch.set_num_threads(1)
    output, progress = tmp_path_factory.mktemp("finished") / "model.safetensors", []
    history = run(output, on_progress=progress.append)
    assert history[0] < history[1] < history[2]
    return output, history, progress


@pytest.fixture
def output(tmp_path):
    return tmp_path / "model.safetensors"


@pytest.fixture
def interrupted(output):
    """A run stopped by Ctrl-C in its second epoch."""
    with pytest.raises(KeyboardInterrupt):
        run(output, on_progress=interrupt(STEPS + 3))
    return output


@pytest.mark.parametrize("decoder", [(8,), None])
def test_the_network_learns(output, decoder):
    ends, config = [], altered(CONFIG, decoder_sizes=decoder)
    history = run(
        output,
        dataclasses.replace(OPTIONS, epochs=8),
        config=config,
        accuracy=evaluate,
        on_progress=lambda p: ends.append(p) if p.val_accuracy is not None else None,
    )
    losses = [p.loss for p in ends]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.3 * losses[0]
    assert ends[-1].accuracy > 0.9
    assert history[-1] > 0.9
    lengths, _ = load_checkpoint(output)(torch.from_numpy(TEST.images) / 255)
    predicted = lengths.argmax(-1).numpy()
    assert np.mean(predicted == TEST.labels) == max(history)


def test_the_tiny_preset_learns_mnist(output):
    images, labels = mnist_test_set()
    train_set = LabelledImages(images[:256], labels[:256])
    test_set = LabelledImages(images[256:320], labels[256:320])
    options = TrainingConfig(epochs=4, batch_size=32, learning_rate=1e-2)
    history = run(
        output,
        options,
        config=preset("tiny"),
        train_set=train_set,
        validation=test_set,
        accuracy=evaluate,
    )
    assert max(history) > 0.4  # guessing gives 0.1


def test_progress_is_told_after_every_step_and_every_epoch(finished):
    _, history, progress = finished
    expected = []
    for epoch in (1, 2, 3):
        expected += [(epoch, step, STEPS, None) for step in range(1, STEPS + 1)]
        expected.append((epoch, STEPS, STEPS, history[epoch - 1]))
    found = [(p.epoch, p.step, p.steps_per_epoch, p.val_accuracy) for p in progress]
    assert found == expected
    assert all(isinstance(p, Progress) and p.loss > 0 and 0 <= p.accuracy <= 1 for p in progress)
    seconds = [p.seconds for p in progress[: STEPS + 1]]
    assert 0 < seconds[0] < seconds[-2] == seconds[-1]  # without the test after the epoch


def test_a_finished_run_leaves_only_its_checkpoint(finished):
    output, history, _ = finished
    assert list(output.parent.iterdir()) == [output]
    with safetensors.safe_open(output, framework="pt") as file:
        notes = json.loads(file.metadata()["capsnet"])["training"]
    best = history.index(max(history))
    assert notes == {
        **dataclasses.asdict(OPTIONS),
        "epoch": best + 1,
        "val_accuracy": history[: best + 1],
    }


def test_the_same_seed_gives_the_same_bytes(finished, output):
    torch.rand(7)  # whatever the caller has drawn does not matter
    assert run(output) == finished[1]
    assert output.read_bytes() == finished[0].read_bytes()


def test_another_seed_gives_other_weights(finished, output):
    run(output, dataclasses.replace(OPTIONS, seed=6))
    assert not same(output, finished[0])


def scripted(accuracies):
    """A stand-in for the measurement, and on what it was called."""
    given, seen = iter(accuracies), []

    def accuracy(model, images):
        seen.append(images)
        return next(given)

    return accuracy, seen


def test_test_images_are_scored_once_on_the_chosen_epoch(output):
    accuracy, seen = scripted([0.5, 0.9, 0.8, 0.7])
    result = trained(output, OPTIONS, CONFIG, TRAIN, TEST, accuracy, test_set=(other := bars(8, 2)))
    assert result == ((0.5, 0.9, 0.8), 2, 0.7)
    assert seen[:3] == [TEST] * 3
    assert seen[3] is other
    with safetensors.safe_open(output, framework="pt") as file:
        notes = json.loads(file.metadata()["capsnet"])["training"]
    assert (notes["epoch"], notes["test_accuracy"]) == (2, 0.7)
    assert notes["val_accuracy"] == [0.5, 0.9]


@pytest.mark.parametrize(
    ("patience", "epochs"), [(1, 3), (2, 5), (None, 6)], ids=["one", "two", "never"]
)
def test_training_stops_after_so_many_epochs_without_a_better_one(output, patience, epochs):
    accuracy, _ = scripted([0.5, 0.6, 0.6, 0.5, 0.7, 0.7][: epochs if patience != 2 else 6])
    if patience == 2:
        accuracy, _ = scripted([0.5, 0.6, 0.7, 0.7, 0.6])
    options = dataclasses.replace(OPTIONS, epochs=6, patience=patience)
    history, *_ = trained(output, options, CONFIG, TRAIN, TEST, accuracy)
    assert len(history) == epochs
    assert not state_path(output).exists()


def test_the_best_epoch_is_kept(output):
    seen, accuracies = [], iter([0.5, 0.9, 0.7])

    def accuracy(model, test_set):
        seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return next(accuracies)

    assert run(output, accuracy=accuracy) == [0.5, 0.9, 0.7]
    for name, tensor in weights(output).items():
        assert torch.equal(tensor, seen[1][name])
    assert not torch.equal(seen[1]["stem.weight"], seen[2]["stem.weight"])


def test_of_equal_epochs_the_last_is_kept(output):
    accuracy, _ = scripted([0.9, 0.9, 0.7])
    assert trained(output, OPTIONS, CONFIG, TRAIN, TEST, accuracy)[1] == 2


@pytest.mark.parametrize("at", [1, STEPS, STEPS + 1, STEPS + 2, 2 * STEPS, 3 * (STEPS + 1)])
def test_ctrl_c_saves_the_run_and_resuming_ends_with_the_same_weights(finished, output, at):
    with pytest.raises(KeyboardInterrupt):
        run(output, on_progress=interrupt(at))
    assert state_path(output).is_file()
    assert run(output, resume=True) == finished[1]
    assert output.read_bytes() == finished[0].read_bytes()
    assert not state_path(output).exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("when", ["before", "after"])
def test_ctrl_c_inside_an_optimizer_step_waits_for_its_end(
    finished, output, monkeypatch, when, number
):
    step, calls = torch.optim.Adam.step, []

    def interrupted_step(self):
        calls.append(None)
        if len(calls) == STEPS + 2 and when == "before":
            signal.raise_signal(number)
        step(self)
        if len(calls) == STEPS + 2 and when == "after":
            signal.raise_signal(number)

    if number == signal.SIGTERM:  # as the command line handles it
        signal.signal(number, signal.default_int_handler)
    handler = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", interrupted_step)
        with pytest.raises(KeyboardInterrupt):
            run(output)
    assert len(calls) == STEPS + 2
    assert signal.getsignal(number) is handler
    run(output, resume=True)
    assert same(output, finished[0])


def test_ctrl_c_during_the_evaluation_repeats_only_the_evaluation(finished, output):
    def stop(model, test_set):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(output, accuracy=stop)
    assert not output.exists()
    told = []
    assert run(output, resume=True, on_progress=told.append) == finished[1]
    assert len(told) == 2 * (STEPS + 1)
    assert same(output, finished[0])


KILLED_RUN = """
import os
import signal
import sys
from pathlib import Path
import torch
sys.path[:0] = [sys.argv[1], str(Path(sys.argv[1]).parent)]
import test_trainer as t
from capsnet.training import trainer as training

torch.set_num_threads(1)
torch.optim.Adam([torch.zeros(1)])  # imports much, once for all children
training._SAVE_EVERY_SECONDS = 0
sync = os.fsync
for kind, at in (argument.split() for argument in sys.argv[3:]):
    if os.fork() == 0:
        calls = []

        def die(*_):
            calls.append(None)
            if len(calls) == int(at):
                os.kill(os.getpid(), signal.SIGKILL)

        output = Path(sys.argv[2]) / f"{kind}-{at}"
        if kind == "step":
            t.run(output, on_progress=die)
        os.fsync = lambda file: (sync(file), die())
        t.run(output)
        os._exit(1)
    print(os.WTERMSIG(os.wait()[1]))
"""
# In the first epoch, in the second, at its end, and between writing a state and renaming it
KILLS = ["step 4", "step 10", "step 14", "sync 9"]


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Folder of runs that SIGKILL ended; each saved its state after every step."""
    folder = tmp_path_factory.mktemp("killed")
    command = [
        sys.executable,
        "-P",
        "-c",
        KILLED_RUN,
        str(Path(__file__).parent),
        str(folder),
        *KILLS,
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert result.stdout.split() == [str(int(signal.SIGKILL))] * len(KILLS), result.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kill", KILLS)
def test_a_killed_run_resumes_and_ends_with_the_same_weights(finished, killed, kill):
    output = killed / kill.replace(" ", "-")
    assert state_path(output).is_file()
    told = []
    assert run(output, resume=True, on_progress=told.append) == finished[1]
    assert 0 < len(told) < 3 * (STEPS + 1)
    assert same(output, finished[0])


@pytest.mark.parametrize(
    ("config", "options", "named"),
    [
        (CONFIG, dataclasses.replace(OPTIONS, seed=6), "training"),
        (altered(CONFIG, stem_channels=7), OPTIONS, "config"),
    ],
)
def test_a_run_with_other_options_is_not_resumed(interrupted, config, options, named):
    before = state_path(interrupted).read_bytes()
    with pytest.raises(CheckpointError, match="belongs to another run") as caught:
        run(interrupted, options, config=config, resume=True)
    assert named in str(caught.value)
    assert state_path(interrupted).read_bytes() == before


def test_without_a_state_there_is_nothing_to_resume(output):
    with pytest.raises(CheckpointError, match="nothing to resume") as caught:
        run(output, resume=True)
    assert str(state_path(output)) in str(caught.value)


def test_without_resume_an_interrupted_run_is_not_overwritten(interrupted, finished):
    before = state_path(interrupted).read_bytes()
    with pytest.raises(OutputError, match=r"resume it \(--resume\), or remove the file"):
        run(interrupted)
    assert state_path(interrupted).read_bytes() == before
    state_path(interrupted).unlink()
    assert run(interrupted) == finished[1]
    assert same(interrupted, finished[0])


def test_training_starts_from_the_initial_weights(output):
    initial = CapsNet(CONFIG)
    start = {name: tensor.clone() for name, tensor in initial.state_dict().items()}
    options = dataclasses.replace(OPTIONS, epochs=1, learning_rate=1e-12)
    run(output, options, initial=initial)
    trained = load_checkpoint(output).state_dict()
    assert all(torch.allclose(trained[name], start[name], atol=1e-8) for name in start)


def test_initial_weights_of_another_network_are_refused(output):
    other = CapsNet(altered(CONFIG, stem_channels=7))
    with pytest.raises(CheckpointError, match="of another network"):
        run(output, initial=other)
    assert not output.exists()


def state_of(document, **tensors):
    return safetensors.torch.save(tensors or {"model.x": torch.zeros(1)}, {"run": document})


RUN = {"config": json.loads(CONFIG.to_json()), "training": dataclasses.asdict(OPTIONS)}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"rubbish" * 100,
        safetensors.torch.save({"x": torch.zeros(1)}),
        safetensors.torch.save({"x": torch.zeros(1)}, {"capsnet": "{}"}),
        state_of("{"),
        state_of("[1]"),
        state_of(json.dumps(RUN)),
        state_of(json.dumps({**RUN, "state": {}})),
    ],
)
def test_a_damaged_state_is_not_resumed(output, content):
    state_path(output).write_bytes(content)
    with pytest.raises(
        CheckpointError, match=re.escape(f"cannot resume from {output}.state: damaged")
    ):
        run(output, resume=True)


@pytest.mark.parametrize("name", ["model.stem.weight", "exp_avg.primary.bias", "step.stem.bias"])
def test_a_state_with_a_missing_tensor_is_not_resumed(interrupted, name):
    path = state_path(interrupted)
    with safetensors.safe_open(path, framework="pt") as file:
        notes = file.metadata()
    tensors = weights(path)
    del tensors[name]
    safetensors.torch.save_file(tensors, path, notes)
    with pytest.raises(CheckpointError, match="damaged"):
        run(interrupted, resume=True)


def test_a_truncated_state_is_not_resumed(interrupted):
    path = state_path(interrupted)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="damaged"):
        run(interrupted, resume=True)


def test_a_state_that_is_no_regular_file_is_refused_without_waiting(output):
    os.mkfifo(state_path(output))
    with pytest.raises(CheckpointError, match=r"cannot resume from .*: It is a pipe"):
        run(output, resume=True)


def test_a_checkpoint_is_no_state(output):
    save_checkpoint(CapsNet(CONFIG), state_path(output))
    with pytest.raises(CheckpointError, match="damaged"):
        run(output, resume=True)


def test_other_epochs_and_finished_runs_name_what_extends_them(interrupted, tmp_path):
    with pytest.raises(CheckpointError, match=r"started with 3 epochs, now 4, .*with --init"):
        run(interrupted, dataclasses.replace(OPTIONS, epochs=4), resume=True)
    run(interrupted, resume=True)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is finished; .*give --init"):
        run(interrupted, resume=True)


@pytest.mark.parametrize("split", ["train_set", "validation", "test_set"])
@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((4, 1, 12, 10), np.uint8), [0, 1, 2, 0], "[1, 12, 10] (channels, height, width)"),
        (np.zeros((4, 3, 10, 12), np.uint8), [0, 1, 2, 0], "the network takes [1, 10, 12]"),
        (np.zeros((4, 1, 10, 12), np.uint8), [0, 1, 2, 3], "run from 0 to 3, the network has 3"),
        (np.zeros((4, 1, 10, 12), np.uint8), [0, 1, 2, -1], "the labels run from -1 to 2"),
        (np.zeros((0, 1, 10, 12), np.uint8), [], "there are 0 images and 0 labels"),
        (np.zeros((4, 1, 10, 12), np.uint8), [0, 1], "there are 4 images and 2 labels"),
    ],
)
def test_images_that_do_not_fit_are_refused_before_training(output, split, images, labels, message):
    wrong = LabelledImages(images, np.array(labels, np.int64))
    with pytest.raises(DataError, match=re.escape(message)):
        run(output, **{split: wrong})
    assert list(output.parent.iterdir()) == []


def test_a_diverging_run_stops_and_says_so(output):
    with pytest.raises(ResultError, match=r"diverged in epoch 1, step 2: .*--learning-rate"):
        run(output, dataclasses.replace(OPTIONS, learning_rate=1e38))
    assert not output.exists()


def test_an_output_that_cannot_be_written_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match="No such file or directory"):
        run(tmp_path / "absent" / "model.safetensors")


def numbered(images):
    """Images that are told apart by the value of all their pixels."""
    pixels = np.arange(images, dtype=np.uint8)[:, None, None, None].repeat(10, 2).repeat(12, 3)
    return LabelledImages(pixels, np.arange(images) % 3)


@pytest.fixture
def batches(output, monkeypatch):
    """Numbers and labels of the images in every batch of two epochs."""
    seen = []

    def step(model, optimizer, images, labels):
        numbers = (images[:, 0, 5, 5] * 255).round().long()
        seen.append((numbers, labels))
        return torch.zeros(()), torch.zeros((), dtype=torch.int64)

    monkeypatch.setattr(training, "training_step", step)
    run(output, dataclasses.replace(OPTIONS, epochs=2), train_set=numbered(90))
    return seen


def test_every_epoch_uses_every_image_once_the_last_partial_batch_too(batches):
    assert [len(numbers) for numbers, _ in batches] == [16, 16, 16, 16, 16, 10] * 2
    epochs = [torch.cat([n for n, _ in batches[i : i + STEPS]]) for i in (0, STEPS)]
    for numbers in epochs:
        assert numbers.sort().values.tolist() == list(range(90))
    assert not torch.equal(*epochs)
    assert all(torch.equal(numbers % 3, labels) for numbers, labels in batches)


def test_the_learning_rate_rises_and_falls_to_zero(output, monkeypatch):
    rates = []

    def step(model, optimizer, images, labels):
        rates.append(optimizer.param_groups[0]["lr"])
        return torch.zeros(()), torch.zeros((), dtype=torch.int64)

    monkeypatch.setattr(training, "training_step", step)
    run(output, dataclasses.replace(OPTIONS, epochs=20, batch_size=30), train_set=numbered(90))
    assert len(rates) == 60
    assert rates[:3] == pytest.approx([1e-2 / 3, 2e-2 / 3, 1e-2])
    assert max(rates) <= 1e-2
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert 0 < rates[-1] < 1e-4
    assert rates[31] == pytest.approx(1e-2 * (1 + math.cos(math.pi * (31 / 60 - 0.05) / 0.95)) / 2)


@pytest.mark.parametrize("largest", [1, 2, 3])
def test_a_shift_moves_pixels_up_and_left_and_zeros_in(largest):
    images = torch.rand(40, 2, 5, 4)
    shifts = torch.randint(-largest, largest + 1, (40, 2))
    moved = torch.zeros_like(images)
    for image, (rows, columns) in enumerate(shifts.tolist()):
        for row in range(5):
            for column in range(4):
                if 0 <= row + rows < 5 and 0 <= column + columns < 4:
                    moved[image, :, row, column] = images[image, :, row + rows, column + columns]
    assert torch.equal(training._shift(images, shifts, largest), moved)


def test_a_shift_of_zero_changes_nothing():
    images = torch.rand(3, 2, 5, 4)
    _, shifts = training._epoch_plan(dataclasses.replace(OPTIONS, shift=0), 0, 3, CPU)
    assert torch.equal(training._shift(images, shifts, 0), images)


def test_shifts_reach_as_far_as_asked_in_every_direction():
    _, shifts = training._epoch_plan(dataclasses.replace(OPTIONS, shift=2), 0, 500, CPU)
    assert shifts.shape == (500, 2)
    assert {tuple(shift) for shift in shifts.tolist()} == {
        (rows, columns) for rows in range(-2, 3) for columns in range(-2, 3)
    }

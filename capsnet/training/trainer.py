"""Training: margin loss plus reconstruction, resumable at any step, reproducible from a seed.

Everything random (order, shifts) is a function of the seed and the epoch, and every save holds the
optimizer, so a run that was killed continues as if it had not been.
"""

import contextlib
import dataclasses
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import safetensors
import torch
from safetensors.torch import save
from torch import Tensor

from capsnet.about import About
from capsnet.checkpoint import load_checkpoint, read_safetensors, save_checkpoint
from capsnet.config import CapsNetConfig
from capsnet.data.idx import LabelledImages
from capsnet.documents import to_values
from capsnet.errors import CheckpointError, ConfigError, DataError, OutputError, ResultError
from capsnet.files import atomic_path, read_file
from capsnet.model import CapsNet, head
from capsnet.training.describe import describe_inputs
from capsnet.training.forms import encode
from capsnet.training.step import reuse_freed_memory, training_step

__all__ = ["Progress", "TrainingConfig", "TrainingResult", "evaluate", "state_path", "train"]

_SAVE_EVERY_SECONDS = 60.0
_WARM_UP = 0.05  # share of the steps in which the learning rate rises
_EVALUATION_BATCH = 64


@dataclass(frozen=True)
class TrainingConfig:
    """How to train.

    Attributes:
        epochs: passes over the training images.
        batch_size: images per step.
        learning_rate: peak rate of Adam; it rises over the first steps, then falls to zero along a
            cosine.
        shift: largest random translation of a training image, in pixels, along each axis.
        seed: of the weights, the order, the shifts, and the choice of validation images.
        val_split: share of the training images that is held out, of every class alike, to choose
            the epoch.
        limit: most images to train on, chosen by the seed; None takes all.
        patience: stop after so many epochs without a better validation accuracy; None never does.

    Raises:
        ConfigError: if a value is out of range.
    """

    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 1e-3
    shift: int = 2
    seed: int = 0
    val_split: float = 0.1
    patience: int | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        counts = {"epochs": 1, "batch_size": 1, "shift": 0, "seed": 0}
        counts |= {n: 1 for n in ("patience", "limit") if getattr(self, n) is not None}
        for name, least in counts.items():
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ConfigError(f"{name} must be an integer of at least {least}, got {value!r}")
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"learning_rate must be positive, got {self.learning_rate!r}")
        if not 0 < self.val_split < 1:
            raise ConfigError(f"val_split must be between 0 and 1, got {self.val_split!r}")


@dataclass(frozen=True)
class Progress:
    """Where a training run stands after a step, or after an epoch.

    Attributes:
        epoch: the current epoch, from 1.
        step: steps done in this epoch.
        steps_per_epoch: steps of an epoch.
        loss: mean loss of this epoch's steps since the start or the resumption.
        accuracy: the same for the share of training images classified correctly.
        seconds: that these steps took.
        val_accuracy: on the validation images, after an epoch; None after a step.
    """

    epoch: int
    step: int
    steps_per_epoch: int
    loss: float
    accuracy: float
    seconds: float
    val_accuracy: float | None = None


@dataclass(frozen=True)
class TrainingResult:
    """How a run went.

    Attributes:
        val_accuracy: on the validation images (0..1), after each epoch.
        epoch: the one that was chosen by it, from 1.
        test_accuracy: of that epoch, on the test images, which were not looked at before; None
            where there are none.
    """

    val_accuracy: tuple[float, ...]
    epoch: int
    test_accuracy: float | None


@dataclass
class _State:
    """What a resumed run needs besides the tensors."""

    epoch: int = 0
    step: int = 0
    val_accuracy: list[float] = dataclasses.field(default_factory=list)

    def best_epoch(self) -> int:
        """The epoch, from 1, of the best validation accuracy; of equals, the last."""
        best = max(self.val_accuracy)
        return max(n for n, accuracy in enumerate(self.val_accuracy, 1) if accuracy == best)

    def ended(self, options: TrainingConfig) -> bool:
        """Whether all epochs are done, or none of the last ones was better."""
        if self.epoch >= options.epochs:
            return True
        if options.patience is None or not self.val_accuracy:
            return False
        reached = self.val_accuracy.index(max(self.val_accuracy)) + 1  # an equal is not better
        return self.epoch - reached >= options.patience


class _Splits(NamedTuple):
    train: LabelledImages
    validation: LabelledImages
    test: LabelledImages | None


def state_path(output: Path) -> Path:
    """The file that holds an unfinished run whose result will be ``output``."""
    return output.with_name(output.name + ".state")


def train(
    config: CapsNetConfig,
    options: TrainingConfig,
    train_set: LabelledImages,
    validation: LabelledImages,
    output: Path,
    *,
    device: torch.device,
    test_set: LabelledImages | None = None,
    initial: CapsNet | None = None,
    class_names: Sequence[str] = (),
    resume: bool = False,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> TrainingResult:
    """Train a CapsNet; ``output`` always holds the epoch of the best validation accuracy so far.

    The run's state is saved every minute, after every epoch, and on Ctrl-C, to
    :func:`state_path`; the file is removed when the run ends. On CUDA the step runs under bfloat16
    autocast.

    Args:
        config: the network.
        options: how to train it.
        train_set: images to learn from.
        validation: images to choose the epoch with: their accuracy is measured after each one.
        output: the checkpoint to write.
        device: where to train.
        test_set: images to score the chosen epoch on, once, at the end.
        initial: a network of this configuration whose weights to start from, for fine-tuning; None
            starts from random weights.
        class_names: of the classes, for the checkpoint; empty where they have none.
        resume: continue the run whose state is beside ``output``.
        on_progress: called after every step and every epoch.

    Returns:
        The accuracies, and which epoch was chosen.

    Raises:
        DataError: if the images do not fit the network.
        CheckpointError: if there is no state to resume, or it belongs to another run, or the
            initial weights are of another configuration.
        OutputError: if a file cannot be written, or an interrupted run would be overwritten.
        ResultError: if the loss becomes NaN or infinite.
    """
    splits = _Splits(train_set, validation, test_set)
    for split in splits:
        if split is not None:
            _check_fits(config, split)
    if device.type == "cpu":
        reuse_freed_memory()
    torch.manual_seed(options.seed)
    model = CapsNet(config).to(device)
    model.about = About(tuple(class_names))
    if initial is not None:
        if initial.config != config:
            raise CheckpointError(
                f"the initial weights are of another network: {initial.config}, expected {config}"
            )
        model.load_state_dict(initial.state_dict())
    optimizer = torch.optim.Adam(model.parameters(), lr=options.learning_rate, fused=True)
    run = _Run(options, model, optimizer, state_path(output))
    if run.file.exists() and not resume:
        raise OutputError(
            f"{run.file} holds an interrupted run: resume it (--resume), or remove the file to "
            "start anew"
        )
    if resume:
        run.load()
    try:
        while not run.state.ended(options):
            progress = run.epoch(train_set, on_progress)
            accuracy = evaluate(model, validation)
            history = [*run.state.val_accuracy, accuracy]
            if accuracy >= max(history):
                save_checkpoint(model, output, training=_notes(options, history))
            run.state = _State(run.state.epoch + 1, 0, history)
            run.save()
            if progress is not None:
                on_progress(dataclasses.replace(progress, val_accuracy=accuracy))
        result = _completed(output, options, run.state, splits, device)
    except KeyboardInterrupt:
        run.save()
        raise
    run.file.unlink(missing_ok=True)
    return result


def _completed(
    output: Path,
    options: TrainingConfig,
    state: _State,
    splits: _Splits,
    device: torch.device,
) -> TrainingResult:
    """Score the chosen epoch on the test images, where there are some, and complete its file."""
    best = load_checkpoint(output).to(device)
    history = state.val_accuracy
    notes = _notes(options, history[: state.best_epoch()])
    accuracy = None
    if splits.test is not None:
        accuracy = evaluate(best, splits.test)
        notes["test_accuracy"] = accuracy
    longest = [lengths.amax(-1).cpu() for lengths in _lengths(best, splits.validation.images)]
    inputs = describe_inputs(splits.train.images, torch.cat(longest).numpy())
    best.about = dataclasses.replace(best.about, training_inputs=inputs)
    save_checkpoint(best, output, training=notes)
    return TrainingResult(tuple(history), state.best_epoch(), accuracy)


def _notes(options: TrainingConfig, history: list[float]) -> dict[str, Any]:
    """What a checkpoint says of how its weights came to be."""
    return dataclasses.asdict(options) | {"epoch": len(history), "val_accuracy": history}


class _Run:
    """A run of training: what it needs to go on, in memory and in its file.

    Args:
        options: how to train.
        model: the network.
        optimizer: of its parameters.
        file: of the state, while the run is not finished.
    """

    def __init__(
        self,
        options: TrainingConfig,
        model: CapsNet,
        optimizer: torch.optim.Optimizer,
        file: Path,
    ) -> None:
        self.options, self.model, self.optimizer, self.file = options, model, optimizer, file
        self.state = _State()
        self._identity = {
            "config": to_values(model.config),
            "training": dataclasses.asdict(options),
        }

    def epoch(
        self, train_set: LabelledImages, on_progress: Callable[[Progress], None]
    ) -> Progress | None:
        """Do the steps of the current epoch that are left; the last step's progress, if any."""
        options, state, progress = self.options, self.state, None
        device = next(self.model.parameters()).device
        images, labels = (torch.from_numpy(array).to(device) for array in train_set)
        steps = -(-len(images) // options.batch_size)
        order, shifts = _epoch_plan(options, state.epoch, len(images), device)
        losses, correct, seen = torch.zeros((), device=device), torch.zeros_like(labels[0]), 0
        first_step, started = state.step, time.monotonic()
        saved_at = started
        while state.step < steps:
            start = state.step * options.batch_size
            position = slice(start, start + options.batch_size)
            chosen = order[position]
            batch = _shift(images[chosen].float() / 255, shifts[position], options.shift)
            _set_learning_rate(self.optimizer, options, state, steps)
            with _interrupts_held_back():
                loss, hits = training_step(self.model, self.optimizer, batch, labels[chosen])
                state.step += 1
            losses, correct, seen = losses + loss, correct + hits, seen + len(chosen)
            if not math.isfinite(losses.item()):
                raise ResultError(
                    f"training diverged in epoch {state.epoch + 1}, step {state.step}: the "
                    "loss is not finite; use a smaller learning rate (--learning-rate)"
                )
            running = (losses.item() / (state.step - first_step), correct.item() / seen)
            seconds = time.monotonic() - started
            progress = Progress(state.epoch + 1, state.step, steps, *running, seconds)
            on_progress(progress)
            if time.monotonic() - saved_at > _SAVE_EVERY_SECONDS:
                self.save()
                saved_at = time.monotonic()
        return progress

    def save(self) -> None:
        """Write the state to the file, whole or not at all."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"{key}.{name}"] = value
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        document = {**self._identity, "state": dataclasses.asdict(self.state)}
        with atomic_path(self.file) as temporary:
            temporary.write_bytes(save(tensors, {"run": json.dumps(document)}))

    def load(self) -> None:
        """Continue from the file.

        Raises:
            CheckpointError: if there is none, or it is damaged, or of another run.
        """
        document, tensors = _read_state(self.file)
        for part, values in self._identity.items():
            _check_same_run(self.file, part, document.get(part), values)
        device = next(self.model.parameters()).device
        tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
        own = {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
        try:
            self.model.load_state_dict(own)
            if len(tensors) > len(own):  # saved after a step of the optimizer
                for name, parameter in self.model.named_parameters():
                    keys = ("step", "exp_avg", "exp_avg_sq")
                    self.optimizer.state[parameter] = {
                        key: tensors[f"{key}.{name}"] for key in keys
                    }
            self.state = _State(**document["state"])
        except (RuntimeError, KeyError, TypeError) as error:
            raise CheckpointError(f"cannot resume from {self.file}: damaged ({error})") from error


def _check_same_run(file: Path, part: str, saved: Any, values: dict[str, Any]) -> None:
    """Raise CheckpointError where a part of what identifies a run is not what was saved."""
    if saved == values:
        return
    epochs = saved.get("epochs") if isinstance(saved, dict) else None
    if epochs is not None and {**saved, "epochs": values["epochs"]} == values:
        raise CheckpointError(
            f"cannot resume from {file}: it was started with {epochs} epochs, now "
            f"{values['epochs']}, and the learning rate falls to zero over all of them; give "
            f"--epochs {epochs}, and train the result further with --init"
        )
    raise CheckpointError(
        f"cannot resume from {file}: it belongs to another run. Its {part} options were {saved}, "
        f"now {values}; give the same options, or start anew, without resuming (--resume)"
    )


def _read_state(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        metadata, tensors = read_safetensors(read_file(path))
        return dict(json.loads(metadata["run"])), tensors
    except FileNotFoundError as error:
        output = path.with_suffix("")
        if output.exists():
            raise CheckpointError(
                f"nothing to resume: there is no {path}, and {output} is finished; to train it "
                f"further, give --init {output}, and another --output"
            ) from error
        raise CheckpointError(
            f"nothing to resume: there is no {path}; start without resuming (--resume), or name "
            "the output (--output) of the run that was interrupted"
        ) from error
    except OSError as error:
        raise CheckpointError(f"cannot resume from {path}: {error.strerror}") from error
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"cannot resume from {path}: damaged ({error})") from error


def evaluate(model: CapsNet, images: LabelledImages) -> float:
    """Share of the images that the model classifies correctly, in evaluation mode."""
    predicted = torch.cat([lengths.argmax(-1).cpu() for lengths in _lengths(model, images.images)])
    return int((predicted == torch.from_numpy(images.labels)).sum()) / len(predicted)


def _lengths(model: CapsNet, images: npt.NDArray[np.uint8]) -> Iterator[Tensor]:
    """The lengths ``[batch, classes]`` of the images' class capsules, batch by batch."""
    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    with torch.no_grad():
        for start in range(0, len(images), _EVALUATION_BATCH):
            batch = torch.from_numpy(images[start : start + _EVALUATION_BATCH]).to(device)
            yield head(encode(model, batch.float() / 255), model.activated)[0]
    model.train(was_training)


def _check_fits(config: CapsNetConfig, split: LabelledImages) -> None:
    images, labels = split
    if images.shape[1:] != config.image_shape:
        raise DataError(
            f"the images are {list(images.shape[1:])} (channels, height, width), "
            f"the network takes {list(config.image_shape)}; choose another network"
        )
    if len(images) == 0 or len(images) != len(labels):
        raise DataError(
            f"there are {len(images)} images and {len(labels)} labels; "
            "give at least one image, and one label for each"
        )
    if labels.min() < 0 or labels.max() >= config.classes:
        raise DataError(
            f"the labels run from {labels.min()} to {labels.max()}, "
            f"the network has {config.classes} classes"
        )


def _epoch_plan(
    options: TrainingConfig, epoch: int, images: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Order of the images, and one shift (rows, columns) for each position of that order."""
    generator = torch.Generator().manual_seed(options.seed * 1_000_003 + epoch)
    order = torch.randperm(images, generator=generator)
    shifts = torch.randint(-options.shift, options.shift + 1, (images, 2), generator=generator)
    return order.to(device), shifts.to(device)


def _shift(images: Tensor, shifts: Tensor, largest: int) -> Tensor:
    """Move each image ``[batch, c, h, w]`` up and left by its (rows, columns); zeros move in."""
    height, width = images.shape[-2:]
    padded = torch.nn.functional.pad(images, [largest] * 4)
    offsets = (shifts + largest).unsqueeze(-1)
    rows = offsets[:, 0] + torch.arange(height, device=images.device)
    columns = offsets[:, 1] + torch.arange(width, device=images.device)
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    return padded[batch, :, rows[:, :, None], columns[:, None, :]].movedim(-1, 1).contiguous()


def _set_learning_rate(
    optimizer: torch.optim.Optimizer, options: TrainingConfig, state: _State, steps_per_epoch: int
) -> None:
    done = (state.epoch * steps_per_epoch + state.step) / (options.epochs * steps_per_epoch)
    if done < _WARM_UP:
        factor = (done + 1 / (options.epochs * steps_per_epoch)) / _WARM_UP
    else:
        factor = (1 + math.cos(math.pi * (done - _WARM_UP) / (1 - _WARM_UP))) / 2
    for group in optimizer.param_groups:
        group["lr"] = options.learning_rate * min(factor, 1.0)


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait until the block has ended: half a step cannot be resumed."""
    if threading.current_thread() is not threading.main_thread():  # signals arrive in the main one
        yield
        return
    waiting: list[int] = []

    def hold(number: int, _: FrameType | None) -> None:
        waiting.append(number)

    # What has no handler of Python's interrupts nothing that could be resumed.
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if callable(signal.getsignal(n))]
    earlier = {number: signal.signal(number, hold) for number in numbers}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
        if waiting:
            signal.raise_signal(waiting[0])

"""What a run of training leaves to look at: a log, curves, and events for TensorBoard."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from capsnet.errors import OutputError, ResourceError, first_line
from capsnet.files import atomic_path, cannot_write
from capsnet.training.trainer import Progress, TrainingResult

__all__ = ["Curves", "TensorBoard", "TrainingLog", "log_path"]


def log_path(output: Path) -> Path:
    """The log of the run whose result is ``output``."""
    return output.with_name(output.name + ".log.jsonl")


class TrainingLog:
    """A JSON line for each epoch, in a file beside the checkpoint, and one for the result.

    Args:
        path: the file; there is none before the first epoch has ended.
        resume: add to the file of an interrupted run; else a new one takes its place.
    """

    def __init__(self, path: Path, *, resume: bool) -> None:
        self._path = path
        self._mode = "a" if resume else "w"

    def epoch(self, progress: Progress) -> None:
        """Note an epoch: its loss, accuracies and seconds."""
        values = dataclasses.asdict(progress)
        self._write({name: values[name] for name in _NOTED})

    def result(self, result: TrainingResult) -> None:
        """Note which epoch was kept, and its test accuracy."""
        self._write({"kept_epoch": result.epoch, "test_accuracy": result.test_accuracy})

    def _write(self, document: dict[str, Any]) -> None:
        try:
            with self._path.open(self._mode, encoding="utf-8") as file:
                file.write(json.dumps(document) + "\n")
        except OSError as error:
            raise OutputError(cannot_write(self._path, error)) from error
        self._mode = "a"


_NOTED = ("epoch", "loss", "accuracy", "val_accuracy", "seconds")


class Curves:
    """A picture of loss and accuracy by epoch, drawn anew after each.

    Args:
        path: the file (``.png``, ``.svg``, ``.pdf``).
        log: of the run, which the curves are drawn from.

    Raises:
        ResourceError: if matplotlib is not there.
    """

    def __init__(self, path: Path, log: Path) -> None:
        try:
            import matplotlib.figure  # noqa: F401
        except ImportError as error:
            raise ResourceError(
                f"curves need matplotlib ({first_line(error)}): pip install 'capsnet-export[plot]'"
            ) from error
        self._path, self._log = path, log

    def epoch(self, _: Progress) -> None:
        """Draw what the log holds."""
        from matplotlib.figure import Figure

        lines = map(json.loads, self._log.read_text(encoding="utf-8").splitlines())
        rows = [line for line in lines if "epoch" in line]
        epochs = [row["epoch"] for row in rows]
        figure = Figure(figsize=(9, 3.5), layout="constrained")
        loss, accuracy = figure.subplots(1, 2)
        loss.plot(epochs, [row["loss"] for row in rows], marker=".")
        loss.set(title="loss", xlabel="epoch")
        for name, label in (("accuracy", "training"), ("val_accuracy", "validation")):
            accuracy.plot(epochs, [100 * row[name] for row in rows], marker=".", label=label)
        accuracy.set(title="accuracy, %", xlabel="epoch")
        accuracy.legend()
        with atomic_path(self._path) as temporary:
            figure.savefig(temporary, format=self._path.suffix.lstrip(".") or "png")


class TensorBoard:
    """Loss and accuracies by epoch as events that TensorBoard shows.

    Args:
        folder: where they are written.

    Raises:
        ResourceError: if tensorboard is not there.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ResourceError(
                f"events need tensorboard ({first_line(error)}): pip install "
                "'capsnet-export[tensorboard]'"
            ) from error
        self._folder, self._writer = folder, SummaryWriter

    def epoch(self, progress: Progress) -> None:
        """Write the numbers of an epoch."""
        with self._writer(str(self._folder)) as writer:
            for name in _NOTED[1:]:
                writer.add_scalar(name, getattr(progress, name), progress.epoch)

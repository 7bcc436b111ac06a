"""``capsnet train``: train a network, resumably."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from capsnet.cli.options import FILE, FiniteRange, Output, OutputFile, device_option, with_output
from capsnet.presets import PRESETS

if TYPE_CHECKING:
    from capsnet.device import Device
    from capsnet.training.trainer import Progress as TrainingProgress

__all__ = ["train_command"]


@click.command("train")
@click.option("--data", type=FILE, required=True, help="Folder with the IDX files of both splits.")
@click.option(
    "--output", type=OutputFile(), required=True, help="Checkpoint to write (.safetensors)."
)
@click.option("--preset", type=click.Choice(list(PRESETS)), default="mnist", show_default=True)
@click.option("--epochs", type=click.IntRange(min=1), default=10, show_default=True)
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True)
@click.option(
    "--learning-rate",
    type=FiniteRange(min=0, min_open=True),
    default=1e-3,
    show_default=True,
    help="Peak rate of Adam.",
)
@click.option(
    "--shift",
    type=click.IntRange(min=0),
    default=2,
    show_default=True,
    help="Largest random translation, in pixels.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--init", type=FILE, help="Start from the weights of this checkpoint.")
@click.option("--resume", is_flag=True, help="Continue the interrupted run of this output.")
@device_option
@with_output
def train_command(
    out: Output,
    data: Path,
    output: Path,
    preset: str,
    init: Path | None,
    resume: bool,
    device: "Device",
    **options: Any,
) -> None:
    """Train a capsule network; the best epoch is kept, and an interrupted run can be resumed."""
    import torch

    from capsnet.checkpoint import load_checkpoint
    from capsnet.config import preset as network
    from capsnet.data.idx import load_split
    from capsnet.device import choose_device, why_torch_has_no_cuda
    from capsnet.training.trainer import TrainingConfig, state_path, train

    out.reserve({"the state of the run": state_path(output)})
    chosen = choose_device(device, why_torch_has_no_cuda(), "training").device
    config = TrainingConfig(**options)
    splits = load_split(data, "train"), load_split(data, "t10k")
    epochs: list[TrainingProgress] = []
    with _training_display(out, config.epochs, epochs) as on_progress:
        try:
            history = train(
                network(preset),
                config,
                *splits,
                output,
                device=torch.device(chosen),
                initial=None if init is None else load_checkpoint(init),
                resume=resume,
                on_progress=on_progress,
            )
        except KeyboardInterrupt:
            if state_path(output).exists():  # there is none before the first step
                out.console.print(
                    f"interrupted; the run is saved in {state_path(output)}. "
                    "Give the same command with --resume to continue.",
                    markup=False,
                )
            raise
    best = f"best test accuracy {max(history):.2%}, written to {output}"
    out.console.print(best, markup=False)
    seconds = [epoch.seconds for epoch in epochs]  # of the epochs that this run has ended
    found = {"test_accuracy": history, "epoch_seconds": seconds}
    out.write_json({"output": str(output), "device": chosen} | found)


@contextlib.contextmanager
def _training_display(
    out: Output, epochs: int, ended: "list[TrainingProgress]"
) -> Iterator[Callable[["TrainingProgress"], None]]:
    """A progress bar from the first step on; a line after each epoch, which goes into the list."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}  accuracy {task.fields[accuracy]:.2%}"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=out.console)
    task = bar.add_task("", total=None, epoch=1, epochs=epochs, loss=0.0, accuracy=0.0)

    def show(now: "TrainingProgress") -> None:
        bar.start()
        bar.update(
            task,
            completed=(now.epoch - 1) * now.steps_per_epoch + now.step,
            total=epochs * now.steps_per_epoch,
            epoch=now.epoch,
            loss=now.loss,
            accuracy=now.accuracy,
        )
        if now.test_accuracy is not None:
            ended.append(now)
            bar.console.print(
                f"epoch {now.epoch}: loss {now.loss:.4f}, accuracy {now.accuracy:.2%}, "
                f"test accuracy {now.test_accuracy:.2%}"
            )

    try:
        yield show
    finally:
        if bar.live.is_started:
            bar.stop()

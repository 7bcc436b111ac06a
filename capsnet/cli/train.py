"""``capsnet train``: train a network, resumably."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from capsnet.cli.options import (
    FILE,
    FiniteRange,
    Output,
    OutputFile,
    OutputPath,
    arrays_option,
    classes_option,
    device_option,
    given_options,
    invert_option,
    settings_option,
    with_output,
)
from capsnet.presets import PRESETS

if TYPE_CHECKING:
    from capsnet.config import CapsNetConfig
    from capsnet.device import Device
    from capsnet.model import CapsNet
    from capsnet.training.fit import Fitting
    from capsnet.training.trainer import Progress as TrainingProgress
    from capsnet.training.trainer import TrainingResult

    Watch = Callable[[TrainingProgress], None]

__all__ = ["train_command"]


@click.command("train")
@click.option(
    "--data",
    type=FILE,
    required=True,
    help="Images in a subfolder for each class, .npz, or a data set's folder (IDX, CIFAR, "
    "SmallNORB, torchvision:NAME:FOLDER).",
)
@click.option(
    "--output", type=OutputFile(), required=True, help="Checkpoint to write (.safetensors)."
)
@click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    default="mnist",
    show_default=True,
    help="Network; its input and classes become those of the images.",
)
@click.option(
    "--config",
    "config_file",
    type=FILE,
    help="Network, as `capsnet config` prints it, in place of a preset.",
)
@settings_option
@click.option(
    "--resize", "size", type=click.IntRange(min=1), help="Height and width to resize images to."
)
@invert_option
@arrays_option
@classes_option
@click.option("--epochs", type=click.IntRange(min=1), default=10, show_default=True)
@click.option(
    "--val-split",
    type=FiniteRange(0, 1, min_open=True, max_open=True),
    default=0.1,
    show_default=True,
    help="Share of the training images that chooses the epoch.",
)
@click.option(
    "--patience",
    type=click.IntRange(min=1),
    help="Stop after so many epochs without a better one.  [default: never]",
)
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
@click.option("--limit", type=click.IntRange(min=1), help="Most images to train on.")
@click.option("--plot", type=OutputFile(), help="Draw loss and accuracy (needs [plot]).")
@click.option(
    "--tensorboard",
    type=OutputPath(),
    help="Folder for TensorBoard's events (needs [tensorboard]).",
)
@click.option("--init", type=FILE, help="Start from the weights of this checkpoint.")
@click.option("--resume", is_flag=True, help="Continue the interrupted run of this output.")
@device_option
@with_output
def train_command(
    out: Output,
    data: Path,
    output: Path,
    preset: str,
    config_file: Path | None,
    settings: tuple[str, ...],
    size: int | None,
    invert: bool,
    arrays: tuple[str, str] | None,
    classes: Path | None,
    plot: Path | None,
    tensorboard: Path | None,
    init: Path | None,
    resume: bool,
    device: "Device",
    **options: Any,
) -> None:
    """Train a capsule network on labelled images.

    A share of the training images, never the test images, chooses the epoch that is kept; the test
    split, where there is one, is scored once, at the end. An interrupted run can be resumed. Every
    epoch is a line of OUTPUT.log.jsonl.
    """
    import torch

    from capsnet.checkpoint import load_checkpoint
    from capsnet.data.options import ImageOptions
    from capsnet.data.training import load_training_data
    from capsnet.device import choose_device, why_torch_has_no_cuda
    from capsnet.training.job import train_on
    from capsnet.training.log import Curves, TensorBoard, log_path
    from capsnet.training.trainer import TrainingConfig, state_path

    log = log_path(output)
    out.reserve({"the state of the run": state_path(output), "the log of the run": log})
    out.reserve({} if tensorboard is None else {"--tensorboard": tensorboard})
    watching: list[Watch] = [] if plot is None else [Curves(plot, log).epoch]
    watching += [] if tensorboard is None else [TensorBoard(tensorboard).epoch]
    chosen = choose_device(device, why_torch_has_no_cuda(), "training").device
    config = TrainingConfig(**options)
    initial = None if init is None else load_checkpoint(init)
    network = _network(preset, config_file, settings, initial)
    reading = ImageOptions(invert=invert, arrays=arrays)
    images = load_training_data(data, size=size, options=reading, classes=classes)
    epochs: list[TrainingProgress] = []
    with _interruption_noted(out, output), _training_display(out, config.epochs, epochs) as show:
        result = train_on(
            images,
            network,
            config,
            output,
            device=torch.device(chosen),
            initial=initial,
            resume=resume,
            watching=watching,
            on_progress=show,
        )
    _report(out, result, output)
    seconds = [epoch.seconds for epoch in epochs]  # of the epochs that this run has ended
    found = dataclasses.asdict(result) | {"epoch_seconds": seconds}
    out.write_json({"output": str(output), "device": chosen} | found)


def _network(
    preset: str, config_file: Path | None, settings: tuple[str, ...], initial: "CapsNet | None"
) -> "CapsNetConfig | Fitting":
    """The network that the options describe; but for a file's, it is made to fit the images."""
    from capsnet.config import preset as network
    from capsnet.config_file import changed, config_values, network_of, read_values
    from capsnet.training.fit import Fitting

    given = given_options()
    if config_file is not None:
        if "--preset" in given:
            raise click.UsageError("--config and --preset both name a network: give one of them")
        values, lines = read_values(config_file)
        config = network_of(changed(values, settings), str(config_file), lines)
        return config if "image_shape" in values else Fitting(config)
    if initial is not None and not {"--preset", "--set"} & given:
        return initial.config
    return Fitting(network_of(changed(config_values(network(preset)), settings)))


@contextlib.contextmanager
def _interruption_noted(out: Output, output: Path) -> Iterator[None]:
    """Say how to go on where the block is interrupted after a step."""
    from capsnet.training.trainer import state_path

    try:
        yield
    except KeyboardInterrupt:
        if state_path(output).exists():  # there is none before the first step
            out.console.print(
                f"interrupted; the run is saved in {state_path(output)}. "
                "Give the same command with --resume to continue.",
                markup=False,
            )
        raise


def _report(out: Output, result: "TrainingResult", output: Path) -> None:
    """Say which epoch was kept, chosen by what, and how good it is."""
    best = max(result.val_accuracy)
    out.console.print(
        f"epoch {result.epoch} written to {output}: validation accuracy {best:.2%}", markup=False
    )
    if result.test_accuracy is None:
        note = "no test split: the validation images chose the epoch, so their accuracy flatters it"
        out.console.print(note, markup=False)
    else:
        out.console.print(
            f"test accuracy {result.test_accuracy:.2%}, measured once, on this epoch", markup=False
        )


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
        if now.val_accuracy is not None:
            ended.append(now)
            bar.console.print(
                f"epoch {now.epoch}: loss {now.loss:.4f}, accuracy {now.accuracy:.2%}, "
                f"validation accuracy {now.val_accuracy:.2%}"
            )

    try:
        yield show
    finally:
        if bar.live.is_started:
            bar.stop()

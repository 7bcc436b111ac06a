"""From a data set to a checkpoint: the network that fits it, the split, the run."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from capsnet.config import CapsNetConfig
from capsnet.data.split import split_validation
from capsnet.data.training import TrainingData
from capsnet.model import CapsNet
from capsnet.training.fit import Fitting, fitted
from capsnet.training.log import TrainingLog, log_path
from capsnet.training.trainer import Progress, TrainingConfig, TrainingResult, train

__all__ = ["train_on"]


def train_on(
    data: TrainingData,
    config: CapsNetConfig | Fitting,
    options: TrainingConfig,
    output: Path,
    *,
    device: torch.device,
    initial: CapsNet | None = None,
    resume: bool = False,
    watching: Sequence[Callable[[Progress], None]] = (),
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> TrainingResult:
    """Train a network on a data set; see :func:`capsnet.training.trainer.train`.

    Args:
        data: training images, of which a share chooses the epoch; and perhaps test images.
        config: the network; or one whose input and classes become those of the images.
        options: how to train.
        output: the checkpoint to write.
        device: where to train.
        initial: a network of this configuration whose weights to start from.
        resume: continue the run whose state is beside ``output``.
        watching: called after every epoch, when it is in the log (:func:`log_path`).
        on_progress: called after every step and every epoch.

    Raises:
        ConfigError: if it cannot be made to fit.
        CapsNetError: as of the trainer.
    """
    if isinstance(config, Fitting):
        config = fitted(config.config, data.image_shape, data.classes)
    learned, validation = split_validation(
        data.train, options.val_split, options.seed, options.limit
    )
    log = TrainingLog(log_path(output), resume=resume)

    def told(progress: Progress) -> None:
        if progress.val_accuracy is not None:  # the end of an epoch
            log.epoch(progress)
            for watch in watching:
                watch(progress)
        on_progress(progress)

    result = train(
        config,
        options,
        learned,
        validation,
        output,
        device=device,
        test_set=data.test,
        class_names=data.names,
        initial=initial,
        resume=resume,
        on_progress=told,
    )
    log.result(result)
    return result

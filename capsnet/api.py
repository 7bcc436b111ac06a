"""The front door: load, train, export and prove, verify, predict, compare speeds.

Everything that a user has in memory becomes a file here: the process that proves sees nothing else.
What loads slowly is imported where it is needed.
"""

import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from capsnet.bundled import BUNDLED, checkpoint_file
from capsnet.definitions import own_definitions, refuse_while_loading
from capsnet.errors import ConfigError, ResultError
from capsnet.formats import FORMATS
from capsnet.jobs import ExportSettings, export_artifacts, prove
from capsnet.networks import NetworkSource
from capsnet.precision import PRECISIONS
from capsnet.runtime.predict import Prediction
from capsnet.runtime.predict import predict as classify
from capsnet.runtime.proof.request import Request
from capsnet.runtime.proof.results import Certificate, Tolerance
from capsnet.runtime.sessions.opening import open_session

if TYPE_CHECKING:
    from torch import nn

    from capsnet.config import CapsNetConfig
    from capsnet.model import CapsNet
    from capsnet.runtime.bench.harness import Result
    from capsnet.runtime.sessions.base import Device, Session

__all__ = [
    "compare",
    "export_model",
    "load",
    "open_session",
    "predict",
    "train",
    "verify",
]

Inputs = npt.ArrayLike | Mapping[str, npt.ArrayLike]


def load(checkpoint: str | Path = "mnist") -> "CapsNet":
    """Read a trained network.

    >>> import capsnet
    >>> capsnet.load("mnist").config.classes
    10

    Args:
        checkpoint: a file, or the name of a bundled one: ``"mnist"``.

    Returns:
        The network in float32, on the CPU, in evaluation mode.

    Raises:
        CheckpointError: if it cannot be read, or is damaged.
    """
    from capsnet.checkpoint import load_checkpoint

    return load_checkpoint(checkpoint_file(checkpoint))


def train(
    images: Any,
    labels: npt.ArrayLike | None = None,
    *,
    config: "CapsNetConfig | str" = "mnist",
    output: str | Path | None = None,
    device: "Device" = "auto",
    **options: Any,
) -> "CapsNet":
    """Train a network; a tenth of the images of each class chooses the best epoch.

    >>> import capsnet, numpy
    >>> images = numpy.zeros((20, 1, 28, 28), numpy.uint8)
    >>> model = capsnet.train(images, numpy.arange(20) % 10, config="tiny", epochs=1)
    >>> model.config.image_shape
    (1, 28, 28)

    Args:
        images: uint8 ``[n, channels, height, width]`` with values 0..255, or floats with values
            0..1, as an array or a tensor; a ``torch.utils.data.Dataset`` of pairs (image, label);
            or the path of a data set, as ``capsnet train --data`` takes it.
        labels: integers ``[n]``, from 0; None where the images have them.
        config: the network; or the name of a preset, whose input and number of classes become
            those of the images.
        output: checkpoint to write; None keeps the network in memory only.
        device: where to train.
        **options: of :class:`capsnet.training.trainer.TrainingConfig`: ``epochs``, ``batch_size``,
            ``learning_rate``, ``shift``, ``seed``, ``val_split``, ``patience``.

    Returns:
        The network of the best epoch, in evaluation mode.

    Raises:
        DataError: if the images do not fit the network, or the labels not the images.
        ConfigError: if there is no such preset or option.
    """
    import torch

    from capsnet.checkpoint import load_checkpoint
    from capsnet.config import preset
    from capsnet.data.training import load_training_data, training_data
    from capsnet.device import choose_device, why_torch_has_no_cuda
    from capsnet.training.fit import Fitting
    from capsnet.training.job import train_on
    from capsnet.training.trainer import TrainingConfig

    try:
        settings = TrainingConfig(**options)
    except TypeError as error:
        raise ConfigError(f"training has no such option: {error}") from error
    if isinstance(images, str | Path):
        data = load_training_data(Path(images))
    else:
        data = training_data(images, labels)
    where = choose_device(device, why_torch_has_no_cuda() if device != "cpu" else "", "training")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.safetensors") if output is None else Path(output)
        network = Fitting(preset(config)) if isinstance(config, str) else config
        train_on(data, network, settings, path, device=torch.device(where.device))
        return load_checkpoint(path)


def export_model(
    model: "nn.Module | str | Path",
    path: str | Path,
    *,
    format: str | None = None,  # noqa: A002 - the word of the command line
    precision: str = "fp32",
    reconstruction: bool = False,
    batch: int | None = None,
    opset: int | None = None,
    forms: Mapping[str, str] | None = None,
    input_dtype: str = "float32",
    layout: str = "nchw",
    images: Inputs | str | Path | None = None,
    labels: npt.ArrayLike | None = None,
    samples: int | None = 64,
    calibration: npt.ArrayLike | str | Path | None = None,
    tolerance: Tolerance | None = None,
    device: "Device" = "auto",
) -> Certificate:
    """Export a network to one file, and prove that the file computes the same numbers.

    >>> import capsnet
    >>> capsnet.export_model("mnist", "capsnet.onnx", samples=8, device="cpu").verdict
    'pass'

    Args:
        model: a network in memory, any ``torch.nn.Module``; a checkpoint file, the name of a
            bundled one, or ``"FILE.py:FACTORY"``.
        path: the file to write; its certificate appears beside it.
        format: name of the format; None takes it from the suffix, ``.onnx``, ``.pt`` or ``.pt2``.
        precision: ``"fp32"``, ``"fp16"`` or ``"int8"``.
        reconstruction: output the decoded image as well.
        batch: a fixed batch size, or None for any.
        opset: ONNX operator set; None for the oldest that fits.
        forms: forms to lower to where there is a choice, such as ``{"routing": "votes"}``.
        input_dtype: what the file takes: ``"float32"``, values 0..1, or ``"uint8"``, values 0..255.
        layout: of the images that it takes, ``"nchw"`` or ``"nhwc"``.
        images: to prove it on: float32 ``[n, channels, height, width]``, values 0..1, or a file or
            folder of images; None for the bundled MNIST test set. Of a network of your own, what
            its ``forward`` takes: an array, or arrays by name, or a file of them.
        labels: their classes, integers ``[n]``, where they are known.
        samples: how many of the images to compare, spread evenly; None for all.
        calibration: training images for int8: float32 ``[n, channels, height, width]``, or a file
            or folder; None for 256 of MNIST.
        tolerance: a limit of your own on the errors.
        device: where to run the proof.

    Returns:
        The certificate, whose verdict is ``"pass"``.

    Raises:
        ResultError: if the file computes other numbers; then it is not written.
        CapsNetError: if anything else goes wrong.
    """
    target = Path(path)
    name = _format_of(target) if format is None else format
    if name not in FORMATS:
        raise ConfigError(f"format must be one of {', '.join(FORMATS)}, got {name!r}")
    settings = ExportSettings(
        precision,
        reconstruction,
        batch,
        opset,
        forms or {},
        input_dtype=input_dtype,
        layout=layout,
    )
    with tempfile.TemporaryDirectory() as folder:
        request = _request(
            model, images, labels, Path(folder),
            samples=samples, tolerance=tolerance, device=device,
        )  # fmt: skip
        [exported] = export_artifacts(
            {name: target},
            request,
            settings,
            calibration=calibration,
        )
    for doubt in exported.warnings:
        warnings.warn(doubt, stacklevel=2)
    assert exported.proof is not None
    certificate = exported.proof.certificate
    if not certificate.passed:
        raise ResultError(
            f"{target} does not compute the same numbers as its model, and was not written: "
            f"{certificate.failures[0]}"
        )
    return certificate


def verify(
    artifact: str | Path,
    checkpoint: "nn.Module | str | Path" = "mnist",
    *,
    images: Inputs | str | Path | None = None,
    labels: npt.ArrayLike | None = None,
    samples: int | None = 64,
    tolerance: Tolerance | None = None,
    device: "Device" = "auto",
) -> Certificate:
    """Prove again, in a fresh process, that an artifact computes the same numbers as its network.

    >>> import capsnet
    >>> capsnet.verify("capsnet.onnx", samples=8, device="cpu").passed
    True

    Args:
        artifact: the file; its certificate is written beside it, whatever the verdict.
        checkpoint: the network that it was exported from, as of :func:`export_model`.
        images: as of :func:`export_model`.
        labels: their classes, where they are known.
        samples: how many of the images to compare, spread evenly; None for all.
        tolerance: a limit of your own on the errors.
        device: where to run.

    Returns:
        The certificate; ``passed`` says whether the numbers are the same.

    Raises:
        CapsNetError: if something cannot be read or run, or the file is of another network.
    """
    artifact = Path(artifact)
    with tempfile.TemporaryDirectory() as folder:
        request = _request(
            checkpoint, images, labels, Path(folder),
            samples=samples, tolerance=tolerance, device=device,
        )  # fmt: skip
        return prove(artifact, request).certificate


def compare(
    *artifacts: str | Path,
    checkpoint: "CapsNet | str | Path" = "mnist",
    images: npt.ArrayLike | str | Path | None = None,
    batches: Sequence[int] = (1, 8, 32, 128),
    rounds: int = 9,
    device: "Device" = "auto",
) -> "tuple[Result, ...]":
    """Compare the speed of artifacts with that of their network in eager torch.

    Every candidate is proven first, and runs in a process of its own.

    >>> import capsnet
    >>> results = capsnet.compare("capsnet.onnx", batches=[1], rounds=7, device="cpu")
    >>> [result.candidate for result in results]
    ['eager', 'capsnet.onnx']

    Args:
        *artifacts: the files.
        checkpoint: the network that they were exported from: in memory, a file, or a bundled one.
        images: to run, as of :func:`export_model`.
        batches: batch sizes.
        rounds: how often each candidate is timed at each batch size, at least 2; with fewer than 7
            the intervals of the ratios say little.
        device: where to run.

    Returns:
        A result for each candidate and batch size; one that computes wrong numbers has a
        ``failure`` in place of a speed.

    Raises:
        CapsNetError: if something cannot be read.
    """
    import torch

    from capsnet.checkpoint import load_checkpoint
    from capsnet.runtime.bench.candidates import Artifact, Eager
    from capsnet.runtime.bench.encoder import benchmark_encoder
    from capsnet.runtime.bench.harness import IMAGES, Settings
    from capsnet.runtime.proof.images import load_images
    from capsnet.runtime.proof.reference import EagerModel

    with tempfile.TemporaryDirectory() as folder:
        request = _request(checkpoint, images, None, Path(folder), samples=IMAGES)
        where = request.network.checkpoint
        if where is None:
            raise ConfigError("speeds are compared of a CapsNet alone, or of a checkpoint's")
        model = load_checkpoint(where)
        given = load_images(request, model.config, "").images
        candidates = [
            Eager("eager", where, baseline=True),
            *(Artifact(str(path), Path(path)) for path in artifacts),
        ]
        references = (EagerModel(model, torch.float64), EagerModel(model, torch.float32))
        settings = Settings(tuple(batches), rounds, device, definitions=request.network.definitions)
        return benchmark_encoder(candidates, *references, given, settings)


def predict(
    artifact: "Session | str | Path",
    images: npt.ArrayLike | str | Path,
    *,
    device: "Device" = "auto",
) -> list[Prediction]:
    """Classify images with an artifact. Imports neither torch nor onnx for an ONNX file.

    >>> import capsnet, numpy
    >>> session = capsnet.open_session("capsnet.onnx", "cpu")
    >>> images = numpy.zeros((2, 1, 28, 28), numpy.float32)
    >>> [prediction.source for prediction in capsnet.predict(session, images)]
    ['0', '1']

    Args:
        artifact: an opened session, or the file.
        images: float32 ``[n, channels, height, width]``, values 0..1, or a file or folder.
        device: where to run a file.

    Returns:
        A prediction for each image, in order.

    Raises:
        CapsNetError: if something cannot be read or run, or does not fit.
    """
    session = open_session(artifact, device) if isinstance(artifact, str | Path) else artifact
    if isinstance(images, str | Path):
        return list(classify(session, images))
    named = ((str(index), image) for index, image in enumerate(np.asarray(images)))
    return list(classify(session, named))


def _format_of(path: Path) -> str:
    """The format whose files have this suffix."""
    for name, row in FORMATS.items():
        if Path(row.file).suffix == path.suffix:
            return name
    suffixes = ", ".join(Path(row.file).suffix for row in FORMATS.values())
    raise ConfigError(f"no format has the suffix of {path}, expected {suffixes}; give format=")


def _own_code(module: "nn.Module | None") -> tuple[Path, ...]:
    """Files of the user's own that define parts of a network, or rows of the tables."""
    found: list[Any] = []
    if module is not None:
        from capsnet.config import CapsNetConfig

        config = getattr(module, "config", None)
        if isinstance(config, CapsNetConfig):
            found += [type(layer) for layer in config.layers().values()]
        found += [type(part) for part in module.modules()]
    for form in FORMATS.values():
        found += [form.export, form.open]
    for precision in PRECISIONS.values():
        found += [precision.convert, *([] if precision.finish is None else [precision.finish])]
    return own_definitions(found)


def _network(model: "nn.Module | str | Path", folder: Path) -> NetworkSource:
    """Where a fresh process finds a network; one in memory is written to the folder."""
    from torch import nn

    from capsnet.model import CapsNet

    if isinstance(model, str) and model.rpartition(":")[0].endswith(".py"):
        return NetworkSource(None, model, definitions=_own_code(None))
    if isinstance(model, str | Path):
        bundled = str(model) in BUNDLED
        definitions = _own_code(None if bundled else load(model))
        return NetworkSource(checkpoint_file(model), definitions=definitions)
    if not isinstance(model, nn.Module):
        raise ConfigError(
            "model must be a torch.nn.Module, a checkpoint file, the name of a bundled one or "
            f"FILE.py:FACTORY, got {type(model).__name__}"
        )
    definitions = _own_code(model)
    if type(model) is CapsNet:
        from capsnet.checkpoint import save_checkpoint

        save_checkpoint(model, folder / "model.safetensors")
        return NetworkSource(folder / "model.safetensors", definitions=definitions)
    from capsnet.own import write_module

    write_module(model, folder / "model.pickle")
    search = tuple(str(Path(entry).resolve()) for entry in sys.path)
    return NetworkSource(pickled=folder / "model.pickle", definitions=definitions, search=search)


def _request(
    model: "nn.Module | str | Path",
    images: Inputs | str | Path | None,
    labels: npt.ArrayLike | None,
    folder: Path,
    **options: Any,
) -> Request:
    """What a fresh process needs: everything as files; what is in memory goes into the folder."""
    refuse_while_loading()
    return Request(
        _network(model, folder),
        images=_as_file(images, folder / "images"),
        labels=_as_file(labels, folder / "labels"),
        **options,
    )


def _as_file(given: Inputs | str | Path | None, file: Path) -> Path | None:
    """A path as it is; arrays saved to a file."""
    if given is None:
        return None
    if isinstance(given, str | Path):
        return Path(given)
    if isinstance(given, Mapping):
        arrays: dict[str, Any] = {name: np.asarray(rows) for name, rows in given.items()}
        np.savez(file.with_suffix(".npz"), **arrays)
        return file.with_suffix(".npz")
    np.save(file.with_suffix(".npy"), np.asarray(given))
    return file.with_suffix(".npy")

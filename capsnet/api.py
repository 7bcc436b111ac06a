"""The front door: load, train, export and prove, verify, compare speeds.

What loads slowly is imported where it is needed, so that the process which proves an export starts
before this one imports torch.
"""

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from capsnet.bundled import BUNDLED, checkpoint_file
from capsnet.definitions import own_definitions
from capsnet.errors import CapsNetError, ConfigError, DataError, OutputError, ResultError
from capsnet.files import StagedFile, clash, file_sha256
from capsnet.formats import DEFAULT_OPSET, FORMATS
from capsnet.precision import PRECISIONS, find_precision
from capsnet.runtime.certificate import certificate_path, write_certificate
from capsnet.runtime.predict import Prediction
from capsnet.runtime.predict import predict as classify
from capsnet.runtime.proof.fresh import FreshProcess
from capsnet.runtime.proof.request import Request
from capsnet.runtime.proof.results import ArtifactFile, Certificate, Proof, Tolerance
from capsnet.runtime.sessions.opening import open_session

if TYPE_CHECKING:
    from capsnet.config import CapsNetConfig
    from capsnet.model import CapsNet
    from capsnet.runtime.bench.harness import Result
    from capsnet.runtime.proof.locate import Stage
    from capsnet.runtime.sessions.base import Device, Session

__all__ = [
    "ExportSettings",
    "Exported",
    "compare",
    "export_artifacts",
    "export_model",
    "load",
    "locate_fault",
    "open_session",
    "predict",
    "prove",
    "train",
    "verify",
]

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

_LOCATED_ON = 8  # images
_BENCH_IMAGES = 32  # real images that candidates are proven on, and that batches repeat


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
    images: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    config: "CapsNetConfig | str" = "mnist",
    output: str | Path | None = None,
    device: "Device" = "auto",
    **options: Any,
) -> "CapsNet":
    """Train a network on arrays; a tenth of the images chooses the best epoch.

    >>> import capsnet, numpy
    >>> images = numpy.zeros((20, 1, 28, 28), numpy.uint8)
    >>> model = capsnet.train(images, numpy.arange(20) % 10, config="tiny", epochs=1)
    >>> model.config.image_shape
    (1, 28, 28)

    Args:
        images: uint8 ``[n, channels, height, width]``, values 0..255.
        labels: integers ``[n]``, from 0.
        config: the network, or the name of a preset.
        output: checkpoint to write; None keeps the network in memory only.
        device: where to train.
        **options: of :class:`capsnet.training.trainer.TrainingConfig`: ``epochs``, ``batch_size``,
            ``learning_rate``, ``shift``, ``seed``.

    Returns:
        The network of the best epoch, in evaluation mode.

    Raises:
        DataError: if the images do not fit the network, or the labels not the images.
        ConfigError: if there is no such preset or option.
    """
    import torch

    from capsnet.checkpoint import load_checkpoint
    from capsnet.config import preset
    from capsnet.data.idx import LabelledImages
    from capsnet.device import choose_device, why_torch_has_no_cuda
    from capsnet.training.trainer import TrainingConfig, train

    pixels, classes = np.asarray(images), np.asarray(labels)
    if pixels.dtype != np.uint8 or pixels.ndim != 4:
        raise DataError(
            f"the images are {pixels.dtype} {list(pixels.shape)}, expected uint8 "
            "[n, channels, height, width] with values 0..255"
        )
    if classes.dtype.kind not in "iu" or classes.shape != pixels.shape[:1]:
        raise DataError(
            f"the labels are {classes.dtype} {list(classes.shape)}, expected integers "
            f"[{len(pixels)}], one for each image"
        )
    try:
        settings = TrainingConfig(**options)
    except TypeError as error:
        raise ConfigError(f"training has no such option: {error}") from error
    everything = LabelledImages(pixels, classes.astype(np.int64))
    held_out = np.arange(len(pixels)) % 10 == 9
    if not held_out.any():
        raise DataError(f"there are {len(pixels)} images, training takes at least 10")
    where = choose_device(device, why_torch_has_no_cuda() if device != "cpu" else "", "training")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.safetensors") if output is None else Path(output)
        train(
            preset(config) if isinstance(config, str) else config,
            settings,
            LabelledImages(*(array[~held_out] for array in everything)),
            LabelledImages(*(array[held_out] for array in everything)),
            path,
            device=torch.device(where.device),
        )
        return load_checkpoint(path)


@dataclass(frozen=True)
class ExportSettings:
    """What is exported, whatever the format.

    Attributes:
        precision: of weights and arithmetic, a row of :mod:`capsnet.precision`.
        reconstruction: whether the artifact decodes images as well.
        batch: a fixed batch size, or None for any.
        opset: ONNX operator set.
        forms: forms to lower to where there is a choice, see :mod:`capsnet.forms`.
    """

    precision: str = "fp32"
    reconstruction: bool = False
    batch: int | None = None
    opset: int = DEFAULT_OPSET
    forms: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Exported:
    """One artifact of an export.

    Attributes:
        path: its place; where the proof failed, nothing was written there.
        artifact: what was written.
        proof: None where none was asked for.
    """

    path: Path
    artifact: ArtifactFile
    proof: Proof | None

    @property
    def passed(self) -> bool:
        """Whether it was not found wrong."""
        return self.proof is None or self.proof.certificate.passed


def export_artifacts(
    targets: Mapping[str, Path],
    checkpoint: Path,
    settings: ExportSettings = ExportSettings(),
    *,
    request: Request | None,
    calibration: npt.ArrayLike | str | Path | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
) -> list[Exported]:
    """Export a checkpoint to files, and prove each: a file appears only if it passes.

    Args:
        targets: where to write each format, by name.
        checkpoint: the network's.
        settings: what to export.
        request: what to prove the files against; None leaves them unproven, and removes the
            certificate of the file that is replaced.
        calibration: training images for a precision that is calibrated, as of
            :func:`export_model`.
        on_progress: called with what is going on, in words.

    Returns:
        One result for each target, in order.

    Raises:
        OutputError: if a file would overwrite the checkpoint, the images, or another file.
        CapsNetError: whatever else goes wrong, but for wrong numbers, which are a result.
    """
    _check_places(targets, checkpoint, request, calibration)
    with contextlib.ExitStack() as stack:
        staged = {name: stack.enter_context(StagedFile(path)) for name, path in targets.items()}
        # It computes the reference while this process exports.
        judge = None if request is None else stack.enter_context(FreshProcess(request))
        written = []
        for name, facts in _write(staged, checkpoint, settings, calibration, targets, on_progress):
            written.append(facts)
            if judge is not None:
                judge.submit(staged[name].path)
        proofs: Sequence[Proof | None] = [None] * len(written)
        if judge is not None:
            on_progress("verifying")
            names = {file.path: targets[name].name for name, file in staged.items()}
            with _calling(names):
                proofs = judge.proofs()
        results = []
        for (name, file), facts, proof in zip(staged.items(), written, proofs, strict=True):
            results.append(_finish(file, targets[name], facts, proof))
        return results


def _check_places(
    targets: Mapping[str, Path],
    checkpoint: Path,
    request: Request | None,
    calibration: npt.ArrayLike | str | Path | None,
) -> None:
    inputs = {"the checkpoint": checkpoint}
    if request is not None and request.images is not None:
        inputs["the images"] = request.images
    if isinstance(calibration, str | Path):
        inputs["the calibration images"] = Path(calibration)
    outputs = {f"the {name} file": path for name, path in targets.items()}
    beside = {f"the certificate of {name}": certificate_path(p) for name, p in targets.items()}
    problem = clash(outputs | beside, inputs)
    if problem is not None:
        raise OutputError(problem)


def _write(
    staged: Mapping[str, StagedFile],
    checkpoint: Path,
    settings: ExportSettings,
    calibration: npt.ArrayLike | str | Path | None,
    targets: Mapping[str, Path],
    on_progress: Callable[[str], None],
) -> Iterator[tuple[str, ArtifactFile]]:
    """Write every format to its staged file."""
    from capsnet.checkpoint import load_checkpoint
    from capsnet.data.calibration import calibration_images
    from capsnet.export.lower import lower
    from capsnet.export.options import ExportOptions

    model = load_checkpoint(checkpoint)
    images = None
    if find_precision(settings.precision).calibrated:
        images = calibration_images(calibration, model.config.image_shape)
    lowered = lower(
        model,
        reconstruction=settings.reconstruction,
        precision=settings.precision,
        forms=settings.forms or {},
    )
    options = ExportOptions(settings.batch, settings.opset, file_sha256(checkpoint), images)
    for name, file in staged.items():
        on_progress(f"exporting {targets[name].name}")
        metadata = FORMATS[name].export(lowered, file.path, options)
        size, digest = file.path.stat().st_size, file_sha256(file.path)
        yield name, ArtifactFile(targets[name].name, size, digest, name, metadata)


def _finish(file: StagedFile, target: Path, facts: ArtifactFile, proof: Proof | None) -> Exported:
    """Put a file that is not wrong in its place, and its certificate beside it."""
    if proof is None:
        file.commit()
        certificate_path(target).unlink(missing_ok=True)  # of the file that was replaced
        return Exported(target, facts, None)
    proof = Proof(proof.certificate.renamed(target.name), proof.details)
    if proof.certificate.passed:
        file.commit()
        write_certificate(proof.certificate, target)
    return Exported(target, facts, proof)


@contextlib.contextmanager
def _calling(names: Mapping[Path, str]) -> Iterator[None]:
    """Call staged files by their final names in errors."""
    try:
        yield
    except CapsNetError as error:
        message = str(error)
        for path, name in names.items():
            message = message.replace(str(path), name)
        raise type(error)(message) from error


def export_model(
    model: "CapsNet | str | Path",
    path: str | Path,
    *,
    format: str | None = None,  # noqa: A002 - the word of the command line
    precision: str = "fp32",
    reconstruction: bool = False,
    batch: int | None = None,
    opset: int = DEFAULT_OPSET,
    forms: Mapping[str, str] | None = None,
    images: npt.ArrayLike | str | Path | None = None,
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
        model: a network in memory, a checkpoint file, or the name of a bundled one.
        path: the file to write; its certificate appears beside it.
        format: name of the format; None takes it from the suffix, ``.onnx``, ``.pt`` or ``.pt2``.
        precision: ``"fp32"``, ``"fp16"`` or ``"int8"``.
        reconstruction: output the decoded image as well.
        batch: a fixed batch size, or None for any.
        opset: ONNX operator set.
        forms: forms to lower to where there is a choice, such as ``{"routing": "votes"}``.
        images: to prove it on: float32 ``[n, channels, height, width]``, values 0..1, or a file or
            folder of images; None for the bundled MNIST test set.
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
    settings = ExportSettings(precision, reconstruction, batch, opset, forms)
    with tempfile.TemporaryDirectory() as folder:
        request = _request(
            model, images, labels, Path(folder), _own_code(model, name, precision),
            samples=samples, tolerance=tolerance, device=device,
        )  # fmt: skip
        [exported] = export_artifacts(
            {name: target},
            request.checkpoint,
            settings,
            request=request,
            calibration=calibration,
        )
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
    checkpoint: "CapsNet | str | Path" = "mnist",
    *,
    images: npt.ArrayLike | str | Path | None = None,
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
        checkpoint: the network that it was exported from: in memory, a file, or a bundled one.
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
            checkpoint, images, labels, Path(folder), _own_code(checkpoint),
            samples=samples, tolerance=tolerance, device=device,
        )  # fmt: skip
        return prove(artifact, request).certificate


def prove(artifact: Path, request: Request, *, in_process: bool = False) -> Proof:
    """Prove an artifact against files, and write its certificate beside it.

    Args:
        artifact: the file.
        request: what it is compared with.
        in_process: prove it in this process, for debugging, not in a fresh one.

    Raises:
        CapsNetError: as :func:`verify`.
    """
    if in_process:
        from capsnet.runtime.proof.proof import prove as prove_here

        proof = prove_here(artifact, request)
    else:
        with FreshProcess(request) as judge:
            judge.submit(artifact)
            [proof] = judge.proofs()
    write_certificate(proof.certificate, artifact)
    return proof


def locate_fault(artifact: Path, request: Request) -> "tuple[Stage, ...]":
    """Judge every stage of an artifact: of the graph for ONNX, else of its lowered network.

    Args:
        artifact: the file.
        request: what it is compared with.

    Returns:
        The stages in the order of computation; the first that does not pass is where the fault is.

    Raises:
        CapsNetError: if something cannot be read.
    """
    import torch

    from capsnet.checkpoint import load_checkpoint
    from capsnet.export.lower import lower
    from capsnet.runtime.proof.images import load_images
    from capsnet.runtime.proof.locate import locate, onnx_stages
    from capsnet.runtime.sessions.opening import open_session
    from capsnet.stages import record_stages

    model = load_checkpoint(request.checkpoint)
    session = open_session(artifact, "cpu")
    metadata = session.metadata
    lowered = lower(
        model,
        reconstruction="reconstruction" in {spec.name for spec in metadata.outputs},
        precision=metadata.precision,
        forms=metadata.forms,
    )
    count = metadata.fixed_batch or _LOCATED_ON
    few = dataclasses.replace(request, samples=count)
    images = load_images(few, model.config, file_sha256(request.checkpoint)).images
    images = images[np.arange(count) % len(images)]
    if session.format == "onnx":
        found = {n: torch.from_numpy(a) for n, a in onnx_stages(artifact, images).items()}
    else:
        found = record_stages(lowered, torch.from_numpy(images))
    readable = {name: lowered.to_readable(name, stage).numpy() for name, stage in found.items()}
    return locate(model, readable, images, metadata.precision)


def compare(
    *artifacts: str | Path,
    checkpoint: str | Path = "mnist",
    images: str | Path | None = None,
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
        checkpoint: the network that they were exported from: a file, or a bundled one.
        images: to run, a file or a folder; None for the bundled MNIST test set.
        batches: batch sizes.
        rounds: how often each candidate is timed at each batch size, at least 7.
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
    from capsnet.runtime.bench.harness import Settings
    from capsnet.runtime.proof.images import load_images
    from capsnet.runtime.proof.reference import EagerModel

    file = checkpoint_file(checkpoint)
    model = load_checkpoint(file)
    given = load_images(Request(file, _as_path(images), _BENCH_IMAGES), model.config, "").images
    candidates = [
        Eager("eager", file, baseline=True),
        *(Artifact(str(path), Path(path)) for path in artifacts),
    ]
    references = (EagerModel(model, torch.float64), EagerModel(model, torch.float32))
    return benchmark_encoder(
        candidates, *references, given, Settings(tuple(batches), rounds, device)
    )


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


def _own_code(model: "CapsNet | str | Path", *tables: str) -> tuple[Path, ...]:
    """Files of the user's own that define layers of a network, or rows of the tables."""
    if isinstance(model, str | Path) and str(model) in BUNDLED:
        config = None
    else:
        config = (load(model) if isinstance(model, str | Path) else model).config
    found: list[Any] = []
    if config is not None:
        found += [type(layer) for layer in config.layers().values()]
    for name in tables:
        if name in FORMATS:
            found += [FORMATS[name].export, FORMATS[name].open]
        elif name in PRECISIONS:
            row = PRECISIONS[name]
            found += [row.convert, *([] if row.finish is None else [row.finish])]
    return own_definitions(found)


def _request(
    model: "CapsNet | str | Path",
    images: npt.ArrayLike | str | Path | None,
    labels: npt.ArrayLike | None,
    folder: Path,
    definitions: tuple[Path, ...],
    **options: Any,
) -> Request:
    """What a fresh process needs: everything as files; what is in memory goes into the folder."""
    if isinstance(model, str | Path):
        checkpoint = checkpoint_file(model)
    else:
        from capsnet.checkpoint import save_checkpoint

        checkpoint = folder / "model.safetensors"
        save_checkpoint(model, checkpoint)
    return Request(
        checkpoint,
        images=_as_file(images, folder / "images.npy"),
        labels=_as_file(labels, folder / "labels.npy"),
        definitions=definitions,
        **options,
    )


def _as_path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)


def _as_file(given: npt.ArrayLike | str | Path | None, file: Path) -> Path | None:
    """A path as it is; an array saved to a file."""
    if given is None or isinstance(given, str | Path):
        return _as_path(given)
    np.save(file, np.asarray(given))
    return file

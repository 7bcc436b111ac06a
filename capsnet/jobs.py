"""Jobs from files to files: export and prove, prove again, locate a fault.

The command line and the front door share them. What loads slowly is imported where it is needed, so
that the process which proves an export starts before this one imports torch.
"""

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from capsnet.about import About, about_of
from capsnet.artifact import INPUT_DTYPES, LAYOUTS
from capsnet.data.names import check_names
from capsnet.data.options import ImageOptions
from capsnet.errors import ArtifactError, CapsNetError, ConfigError, OutputError
from capsnet.files import StagedFile, check_writable, clash, file_sha256, read_file
from capsnet.formats import FORMATS, OPSETS
from capsnet.forms import check_forms
from capsnet.networks import NetworkSource
from capsnet.precision import find_precision
from capsnet.runtime.certificate import (
    certificate_path,
    certificate_text,
    write_certificate,
)
from capsnet.runtime.guard import mnist_is_foreign
from capsnet.runtime.proof.fresh import FreshProcess
from capsnet.runtime.proof.request import Request
from capsnet.runtime.proof.results import ArtifactFile, Proof

if TYPE_CHECKING:
    from capsnet.export.lower import LoweredNetwork
    from capsnet.model import CapsNet
    from capsnet.own import OwnNetwork
    from capsnet.runtime.proof.locate import Stage

__all__ = [
    "ExportSettings",
    "Exported",
    "export_artifacts",
    "locate_fault",
    "prove",
    "written_files",
]

_LOCATED_ON = 8  # images
_IMAGE_AXES = 3


@dataclass(frozen=True)
class ExportSettings:
    """What is exported, whatever the format.

    Attributes:
        precision: of weights and arithmetic, a row of :mod:`capsnet.precision`.
        reconstruction: whether the artifact decodes images as well.
        batch: a fixed batch size, or None for any.
        opset: ONNX operator set; None for the oldest that fits.
        forms: forms to lower to where there is a choice, see :mod:`capsnet.forms`.
        class_names: of the classes, in place of those of the checkpoint; empty keeps them.
        input_dtype: of images: ``"float32"``, values 0..1, or ``"uint8"``, values 0..255.
        layout: of images, ``"nchw"`` or ``"nhwc"``.

    Raises:
        ConfigError: if a value is none of those that there are.
    """

    precision: str = "fp32"
    reconstruction: bool = False
    batch: int | None = None
    opset: int | None = None
    forms: Mapping[str, str] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    input_dtype: str = INPUT_DTYPES[0]
    layout: str = LAYOUTS[0]

    def __post_init__(self) -> None:
        find_precision(self.precision)
        check_forms(self.forms)
        if self.opset is not None and self.opset not in OPSETS:
            raise ConfigError(f"opset must be {OPSETS[0]} to {OPSETS[-1]}, got {self.opset!r}")
        if self.batch is not None and (type(self.batch) is not int or self.batch < 1):
            raise ConfigError(f"batch must be a positive integer, or None, got {self.batch!r}")
        if self.input_dtype not in INPUT_DTYPES:
            raise ConfigError(
                f"the input must be {' or '.join(INPUT_DTYPES)}, got {self.input_dtype!r}"
            )
        if self.layout not in LAYOUTS:
            raise ConfigError(f"layout must be {' or '.join(LAYOUTS)}, got {self.layout!r}")


@dataclass(frozen=True)
class Exported:
    """One artifact of an export.

    Attributes:
        path: its place; where the proof failed, nothing was written there.
        artifact: what was written.
        proof: None where none was asked for.
        warnings: what is doubtful about how it was made, in words.
    """

    path: Path
    artifact: ArtifactFile
    proof: Proof | None
    warnings: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether it was not found wrong."""
        return self.proof is None or self.proof.certificate.passed


def export_artifacts(
    targets: Mapping[str, Path],
    request: Request,
    settings: ExportSettings = ExportSettings(),
    *,
    proven: bool = True,
    calibration: npt.ArrayLike | str | Path | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
) -> list[Exported]:
    """Export a network to files, and prove each: a file appears only if it passes.

    The files and their certificates appear together, after all of them were written.

    Args:
        targets: where to write each format, by name.
        request: the network, and what to prove the files against.
        settings: what to export.
        proven: False leaves them unproven, and removes the certificate of the file that is
            replaced.
        calibration: training images for a precision that is calibrated, as of
            :func:`export_model`.
        on_progress: called with what is going on, in words.

    Returns:
        One result for each target, in order.

    Raises:
        OutputError: if a file would overwrite the checkpoint, the images, or another file.
        CapsNetError: whatever else goes wrong, but for wrong numbers, which are a result.
    """
    _check_places(targets, request, calibration)
    with contextlib.ExitStack() as stack:
        places = {name: (path, certificate_path(path)) for name, path in targets.items()}
        staged, beside = (
            {name: stack.enter_context(StagedFile(pair[n])) for name, pair in places.items()}
            for n in (0, 1)
        )
        # It computes the reference while this process exports.
        judge = stack.enter_context(FreshProcess(request)) if proven else None
        written = []
        for name, facts in _write(staged, request, settings, calibration, targets, on_progress):
            written.append(facts)
            if judge is not None:
                judge.submit(staged[name].path)
        proofs: Sequence[Proof | None] = [None] * len(written)
        if judge is not None:
            on_progress("verifying")
            names = {file.path: targets[name].name for name, file in staged.items()}
            with _calling(names):
                proofs = judge.proofs()
        doubts = _calibration_doubts(request.network, settings, calibration)
        results = [
            Exported(path, facts, None if proof is None else proof.renamed(path.name), doubts)
            for path, facts, proof in zip(targets.values(), written, proofs, strict=True)
        ]
        _commit(results, list(staged.values()), list(beside.values()))
        return results


def written_files(targets: Mapping[str, Path]) -> dict[str, Path]:
    """The files of an export to targets, by what the user calls them: artifacts, certificates."""
    files = {f"the {name} file": path for name, path in targets.items()}
    beside = {f"the certificate of {name}": certificate_path(p) for name, p in targets.items()}
    return files | beside


def _check_places(
    targets: Mapping[str, Path],
    request: Request,
    calibration: npt.ArrayLike | str | Path | None,
) -> None:
    """Raise OutputError where a file cannot be written, or would overwrite another one."""
    inputs = dict(request.network.files)
    if request.images is not None:
        inputs["the images"] = request.images
    if isinstance(calibration, str | Path):
        inputs["the calibration images"] = Path(calibration)
    outputs = written_files(targets)
    problem = clash(outputs, inputs)
    if problem is not None:
        raise OutputError(problem)
    for path in outputs.values():
        check_writable(path)


def _write(
    staged: Mapping[str, StagedFile],
    request: Request,
    settings: ExportSettings,
    calibration: npt.ArrayLike | str | Path | None,
    targets: Mapping[str, Path],
    on_progress: Callable[[str], None],
) -> Iterator[tuple[str, ArtifactFile]]:
    """Write every format to its staged file."""
    from capsnet.export.options import ExportOptions
    from capsnet.model import CapsNet
    from capsnet.runtime.proof.networks import RequestedNetwork

    requested = RequestedNetwork(request)
    network = requested.network
    images = None
    if find_precision(settings.precision).calibrated:
        images = _calibration(network, calibration, request.reading)
    elif calibration is not None:
        raise ConfigError(
            f"{settings.precision} is not calibrated: leave the calibration images out, or choose "
            "another precision"
        )
    usual = (settings.input_dtype, settings.layout) == (INPUT_DTYPES[0], LAYOUTS[0])
    if not usual and not isinstance(network, CapsNet):
        raise ConfigError(
            "a network of your own takes what its forward takes: leave the type and the layout of "
            "the input out"
        )
    options = ExportOptions(
        settings.batch,
        settings.opset,
        requested.digest,
        images,
        _about(network, settings.class_names),
        settings.input_dtype,
        settings.layout,
    )
    for name, file in staged.items():
        on_progress(f"exporting {targets[name].name}")
        lowered = _lowered(
            network, name, settings.precision, settings.forms, settings.reconstruction
        )
        metadata = FORMATS[name].export(lowered, file.path, options)
        size, digest = file.path.stat().st_size, file_sha256(file.path)
        yield name, ArtifactFile(targets[name].name, size, digest, name, metadata)


def _calibration(
    network: "CapsNet | OwnNetwork",
    calibration: npt.ArrayLike | str | Path | None,
    reading: ImageOptions,
) -> npt.NDArray[np.float32]:
    """The images to calibrate with: those that were given, or the bundled ones."""
    from capsnet.data.calibration import calibration_images
    from capsnet.model import CapsNet

    [shape, *more] = network.input_shapes.values()
    if more or len(shape) != _IMAGE_AXES:
        raise ConfigError(
            "int8 is calibrated with images alone, and this network takes something else: export "
            "it in fp32 or fp16"
        )
    if calibration is None and not isinstance(network, CapsNet):
        raise ConfigError(
            "a network of your own is calibrated on images of your own: give training images with "
            "--calibrate"
        )
    return calibration_images(calibration, (shape[0], shape[1], shape[2]), reading)


def _lowered(
    network: "CapsNet | OwnNetwork",
    name: str,
    precision: str,
    forms: Mapping[str, str],
    reconstruction: bool,
) -> "LoweredNetwork":
    """A network ready for export to a format."""
    from capsnet.export.lower import lower
    from capsnet.export.lower_own import lower_own
    from capsnet.model import CapsNet

    preferred = FORMATS[name].preferred
    if isinstance(network, CapsNet):
        return lower(
            network,
            reconstruction=reconstruction,
            precision=precision,
            forms=forms,
            preferred=preferred,
        )
    if reconstruction:
        raise ConfigError(
            "a network of your own names its outputs itself: export it without --reconstruction"
        )
    return lower_own(network, precision=precision, forms=forms, preferred=preferred)


def _calibration_doubts(
    source: NetworkSource,
    settings: ExportSettings,
    calibration: npt.ArrayLike | str | Path | None,
) -> tuple[str, ...]:
    """Why MNIST digits may be the wrong images to calibrate with, where they were taken."""
    if calibration is not None or not find_precision(settings.precision).calibrated:
        return ()
    file = source.checkpoint if source.model is None else None
    problem = mnist_is_foreign(About() if file is None else about_of(file, read_file(file)))
    if problem is None:
        return ()
    problem = problem.replace("--images", "--calibrate")
    return (f"{settings.precision} was calibrated on MNIST digits, {problem}",)


def _about(network: "CapsNet | OwnNetwork", names: tuple[str, ...]) -> About:
    """What is known of a network, with the names that were given, if any."""
    about: About = getattr(network, "about", About())
    if not names:
        return about
    if network.classes is None:
        raise ConfigError(
            "the network classifies nothing, so it has no classes to name: leave the names out"
        )
    check_names("the export", names, network.classes)
    return dataclasses.replace(about, class_names=names)


def _commit(
    results: Sequence[Exported], artifacts: Sequence[StagedFile], beside: Sequence[StagedFile]
) -> None:
    """Put the files that are not wrong in their places, and their certificates beside them.

    What can fail is done for all of them first. Then the earlier certificate goes, the artifact
    comes, and its certificate after it: none ever lies beside bytes that it does not name.
    """
    passed = [found for found in zip(results, artifacts, beside, strict=True) if found[0].passed]
    for result, artifact, certificate in passed:
        if result.proof is not None:
            certificate.write_text(certificate_text(result.proof.certificate))
        artifact.prepare()
        certificate.prepare()
    for result, artifact, certificate in passed:
        certificate_path(result.path).unlink(missing_ok=True)
        artifact.commit()
        if result.proof is not None:
            certificate.commit()


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
        # What is wrong with the file or the device is an error before the reference is computed.
        with FreshProcess(request, prepare=False) as judge:
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

    from capsnet.data.batch import Batch, Rows, named
    from capsnet.model import CapsNet
    from capsnet.runtime.proof.locate import locate, onnx_stages
    from capsnet.runtime.proof.networks import RequestedNetwork
    from capsnet.runtime.sessions.images import as_input, from_bytes, to_bytes
    from capsnet.runtime.sessions.opening import open_session
    from capsnet.stages import record_stages

    session = open_session(artifact, "cpu")
    content = read_file(artifact)
    if hashlib.sha256(content).hexdigest() != session.sha256:
        raise ArtifactError(f"{artifact} was changed while it was read; verify it again")
    metadata = session.metadata
    count = metadata.fixed_batch or _LOCATED_ON
    requested = RequestedNetwork(dataclasses.replace(request, samples=count))
    network, images = requested.network, requested.given.images
    images = images[np.arange(count) % len(images)]
    taken: Rows | npt.NDArray[np.uint8] = images
    if not isinstance(images, Batch):
        taken = as_input(images, metadata, "the artifact")
        images = from_bytes(to_bytes(images)) if taken.dtype == np.uint8 else images
    reconstruction = "reconstruction" in {spec.name for spec in metadata.outputs}
    decodes = reconstruction and isinstance(network, CapsNet)
    lowered = _lowered(network, session.format, metadata.precision, metadata.forms, decodes)
    if session.format == "onnx":
        found = {n: torch.from_numpy(a) for n, a in onnx_stages(content, taken).items()}
    else:
        found = record_stages(lowered, *map(torch.from_numpy, named(images).values()))
    readable = {name: lowered.to_readable(name, stage).numpy() for name, stage in found.items()}
    return locate(network, readable, images, metadata.precision, request.tolerance)

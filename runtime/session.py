"""One way to run every artifact: images in, named arrays out, on the device that was asked for."""

import zipfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from capsnet.artifact import ArtifactMetadata
from capsnet.errors import ArtifactError, DataError
from capsnet.runtime import certificate

__all__ = ["Arrays", "Device", "Images", "Session", "artifact_format", "open_session"]

Device = Literal["auto", "cpu", "cuda"]
Images = npt.NDArray[np.float32]
Arrays = dict[str, npt.NDArray[np.float32]]

_CPU_BATCH = 32
"""Images that a CPU computes at once: 128 take a quarter longer each in torch, more memory in both.

Measured with ``capsnet bench``; 16 and 64 differ from 32 by less than 5 %.
"""

# Every lowered iteration but the first takes one of these, for its coupling.
_COUPLINGS = {
    *("Exp", "Softmax"),
    *("aten::exp", "aten::softmax"),
    *("aten.exp.default", "aten.softmax.int", "aten._softmax.default"),
}

_QUANTISERS = {"QuantizeLinear", "QLinearConv"}
_CASTS = {"Cast", "aten::to", "aten.to.dtype", "aten._to_copy.default"}


class Session(ABC):
    """An opened artifact.

    Attributes:
        format: ``"onnx"``, ``"torchscript"`` or ``"pt2"``.
        device: where it really runs, ``"cpu"`` or ``"cuda"``.
        device_reason: why there.
        metadata: what the artifact says about itself.
        largest_batch: images that are computed at once; more run in parts. None for no limit.
        notes: where this environment differs from that of the certificate that was required.
    """

    format: str
    device: str
    device_reason: str
    metadata: ArtifactMetadata
    largest_batch: int | None = None
    notes: tuple[str, ...] = ()

    @property
    @abstractmethod
    def placement(self) -> Mapping[str, str]:
        """The provider (or device) that each node of the graph runs on."""

    @property
    @abstractmethod
    def operators(self) -> Mapping[str, int]:
        """How often each operator occurs in the graph."""

    @abstractmethod
    def _compute(self, images: Images) -> Arrays:
        """Run the graph once on a batch that it accepts."""

    def run(self, images: Images) -> Arrays:
        """Run the network.

        An artifact with a fixed batch size runs as often as the images need; the last batch is
        filled with zero images, whose results are dropped. On the CPU a large batch runs in parts
        of 32: what lies between the layers stays in the caches, and memory stays bounded.

        Args:
            images: float32 ``[batch, channels, height, width]``, values 0..1; ``batch`` may be 0.

        Returns:
            The artifact's outputs by name, float32 with ``batch`` first, in their order.

        Raises:
            DataError: if shape or dtype are not those of the artifact's input.
            ArtifactError: if the backend fails.
        """
        fixed, *image_shape = self.metadata.inputs[0].shape
        if images.dtype != np.float32 or list(images.shape[1:]) != image_shape:
            raise DataError(
                f"the images are {images.dtype} {list(images.shape)}, the artifact takes float32 "
                f"[batch, {', '.join(map(str, image_shape))}] with values 0..1"
            )
        if len(images) == 0:
            return {
                spec.name: np.empty((0, *(int(n) for n in spec.shape[1:])), np.float32)
                for spec in self.metadata.outputs
            }
        size, given = len(images), images
        if isinstance(fixed, int):
            size, given = fixed, np.pad(images, [(0, -len(images) % fixed), (0, 0), (0, 0), (0, 0)])
        elif self.largest_batch is not None:
            size = self.largest_batch
        parts = [self._compute(given[i : i + size]) for i in range(0, len(given), size)]
        if len(parts) == 1:
            return {name: values[: len(images)] for name, values in parts[0].items()}
        return {
            name: np.concatenate([part[name] for part in parts])[: len(images)] for name in parts[0]
        }

    def _take_metadata(self, path: Path, document: str | None) -> None:
        """Parse the document inside the file; raise ArtifactError where there is none to trust."""
        if document is None:
            raise ArtifactError(
                f"{path} is {self.format} without capsnet metadata: export it with capsnet-export"
            )
        try:
            self.metadata = ArtifactMetadata.from_json(document)
        except ArtifactError as error:
            raise ArtifactError(f"{path}: {error}") from error

    def _check_iterations(self, path: Path) -> None:
        """Raise ArtifactError where the graph unrolls other iterations than the metadata says."""
        found = sum(n for name, n in self.operators.items() if name in _COUPLINGS)
        expected = sum(iterations - 1 for iterations in self.metadata.routing_iterations)
        if found != expected:
            raise ArtifactError(
                f"{path}: the metadata contradicts the graph: routing iterations "
                f"{list(self.metadata.routing_iterations)} need {expected} couplings, the graph "
                f"has {found}; export it again"
            )

    def _check_precision(self, path: Path) -> None:
        """Raise ArtifactError where the graph is not of the precision whose budget it claims."""
        quantised = bool(_QUANTISERS & self.operators.keys())
        claimed = self.metadata.precision
        if quantised != (claimed == "int8") or (
            claimed == "fp16" and not _CASTS & self.operators.keys()
        ):
            raise ArtifactError(
                f"{path}: the metadata contradicts the graph, which is not {claimed}; "
                "export it again"
            )

    def providers(self) -> dict[str, int]:
        """How many nodes each provider runs."""
        return dict(Counter(self.placement.values()))


def artifact_format(path: Path) -> str:
    """The format of an artifact file, recognised by its content.

    Raises:
        ArtifactError: if the file cannot be read, or is of no format that the toolkit exports.
    """
    try:
        with path.open("rb") as file:
            head = file.read(8)
        # An ONNX file is a protocol buffer whose first field is the IR version, a small varint.
        if len(head) == 8 and head[0] == 0x08 and head[1] < 0x80:
            return "onnx"
        if head[:2] == b"PK":
            # torch's archives keep everything in one folder, whose name means nothing.
            with zipfile.ZipFile(path) as archive:
                records = {name.partition("/")[2] for name in archive.namelist()}
            if "archive_format" in records:
                return "pt2"
            if "constants.pkl" in records:
                return "torchscript"
            what = "is a zip archive of another kind"
            if "data.pkl" in records:
                what = "holds pickled PyTorch objects, which are never executed"
        else:
            what = f"starts with {head[:4].hex(' ')}" if head else "is empty"
    except OSError as error:
        raise ArtifactError(
            f"cannot read {path}: {error.strerror}; give an artifact that capsnet-export wrote"
        ) from error
    except zipfile.BadZipFile as error:
        raise ArtifactError(f"{path} is truncated or damaged: {error}; export it again") from error
    raise ArtifactError(
        f"{path} is neither ONNX, TorchScript nor a torch.export archive: it {what}; "
        "export it with capsnet-export"
    )


def open_session(
    path: Path,
    device: Device = "auto",
    *,
    threads: int | None = None,
    tf32: bool = False,
    require_certificate: bool = False,
) -> Session:
    """Open an exported artifact.

    Args:
        path: the artifact; its format is recognised by content.
        device: ``"auto"`` takes CUDA where it works, else the CPU; the others insist.
        threads: to compute with; None for all CPUs that this process may use. torch has one pool
            for all of a process.
        tf32: let CUDA round the inputs of float32 products to 10 bits, which is faster and not the
            same numbers; of torch it is one setting for all of a process.
        require_certificate: refuse a file that is not proven by the certificate beside it.

    Returns:
        The session; its ``notes`` say where this environment differs from the one of the proof.

    Raises:
        ArtifactError: if the file is not an artifact of this toolkit, or is damaged, or its
            certificate is missing or belongs to other bytes.
        ResultError: if its certificate says that it is wrong.
        DeviceError: if the device that was asked for is not there.
    """
    notes = certificate.require_certificate(path) if require_certificate else ()
    # Only the backend that is needed is imported: onnxruntime needs no torch, and the reverse.
    session: Session
    match artifact_format(path):
        case "onnx":
            from capsnet.runtime.ort import OrtSession

            session = OrtSession(path, device, threads, tf32)
        case "torchscript":
            from capsnet.runtime.torchscript import TorchScriptSession

            session = TorchScriptSession(path, device, threads, tf32)
        case _:
            from capsnet.runtime.exported_program import ExportedProgramSession

            session = ExportedProgramSession(path, device, threads, tf32)
    session.notes = notes
    if session.device == "cpu":
        session.largest_batch = _CPU_BATCH
    return session

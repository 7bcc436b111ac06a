"""One way to run every artifact: images in, named arrays out, on the device that was asked for."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from capsnet.artifact import ArtifactMetadata
from capsnet.errors import ArtifactError, DataError

__all__ = ["Arrays", "Device", "Images", "Session", "artifact_format", "open_session"]

Device = Literal["auto", "cpu", "cuda"]
Images = npt.NDArray[np.float32]
Arrays = dict[str, npt.NDArray[np.float32]]


class Session(ABC):
    """An opened artifact.

    Attributes:
        format: ``"onnx"``.
        device: where it really runs, ``"cpu"`` or ``"cuda"``.
        metadata: what the artifact says about itself.
    """

    format: str
    device: str
    metadata: ArtifactMetadata

    @property
    @abstractmethod
    def placement(self) -> Mapping[str, str]:
        """The provider (or device) that each node of the graph runs on."""

    @abstractmethod
    def _compute(self, images: Images) -> Arrays:
        """Run the graph once on a batch that it accepts."""

    def run(self, images: Images) -> Arrays:
        """Run the network.

        An artifact with a fixed batch size runs as often as the images need; the last batch is
        filled with zero images, whose results are dropped.

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
        if isinstance(fixed, str):
            return self._compute(images)
        padded = np.pad(images, [(0, -len(images) % fixed), (0, 0), (0, 0), (0, 0)])
        parts = [self._compute(padded[i : i + fixed]) for i in range(0, len(padded), fixed)]
        return {
            name: np.concatenate([part[name] for part in parts])[: len(images)] for name in parts[0]
        }

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
    except OSError as error:
        raise ArtifactError(
            f"cannot read {path}: {error.strerror}; give an artifact that capsnet-export wrote"
        ) from error
    # An ONNX file is a protocol buffer whose first field is the IR version, a small varint.
    if len(head) == 8 and head[0] == 0x08 and head[1] < 0x80:
        return "onnx"
    what = "is empty" if not head else f"starts with {head[:4].hex(' ')}"
    raise ArtifactError(f"{path} is not an ONNX artifact: it {what}; export it with capsnet-export")


def open_session(path: Path, device: Device = "auto") -> Session:
    """Open an exported artifact.

    Args:
        path: the artifact; its format is recognised by content.
        device: ``"auto"`` takes CUDA where it works, else the CPU; the others insist.

    Returns:
        The session.

    Raises:
        ArtifactError: if the file is not an artifact of this toolkit, or is damaged.
        DeviceError: if the device that was asked for is not there.
    """
    artifact_format(path)
    from capsnet.runtime.ort import OrtSession  # only the backend that is needed is imported

    return OrtSession(path, device)

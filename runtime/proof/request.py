"""What to verify artifacts against. Needs neither torch nor numpy."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from capsnet.data.options import ImageOptions
from capsnet.networks import NetworkSource
from capsnet.runtime.proof.results import Tolerance

if TYPE_CHECKING:
    from capsnet.runtime.sessions.base import Device

__all__ = ["Request"]


@dataclass(frozen=True)
class Request:
    """What to verify artifacts against.

    Attributes:
        network: the network that they were exported from.
        images: a file or folder of images, a data set (:func:`capsnet.data.parts.parts_of`), or
            None for the MNIST test set that comes with the package. For a network of the user's
            own, the arrays of its inputs: ``.npz`` by name, or ``.npy`` of its only one.
        samples: how many images to compare, spread evenly over all; None for all of them.
        device: where to run the artifacts.
        tolerance: a limit of the user's own on the errors.
        details: collect what the HTML page draws: error histograms and the worst images.
        labels: a ``.npy`` file of integers ``[n]``, the true class of each of the images; None
            where they are not known, or lie beside IDX images.
        reading: how the images are read.
        runtime: see :func:`capsnet.runtime.sessions.opening.open_session`.
    """

    network: NetworkSource
    images: Path | None = None
    samples: int | None = None
    device: "Device" = "auto"
    tolerance: Tolerance | None = None
    details: bool = False
    labels: Path | None = None
    reading: ImageOptions = ImageOptions()
    runtime: str | None = None

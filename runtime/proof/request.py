"""What to verify artifacts against. Needs neither torch nor numpy."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from capsnet.runtime.proof.results import Tolerance

if TYPE_CHECKING:
    from capsnet.runtime.sessions.base import Device

__all__ = ["Request"]


@dataclass(frozen=True)
class Request:
    """What to verify artifacts against.

    Attributes:
        checkpoint: the checkpoint that they were exported from.
        images: a file or folder of images, a folder of labelled IDX files, or None for the MNIST
            test set that comes with the package.
        samples: how many images to compare, spread evenly over all; None for all of them.
        device: where to run the artifacts.
        tolerance: a limit of the user's own on the errors.
        details: collect what the HTML page draws: error histograms and the worst images.
        labels: a ``.npy`` file of integers ``[n]``, the true class of each of the images; None
            where they are not known, or lie beside IDX images.
        definitions: Python files that define what the checkpoint is made of, executed before it is
            loaded (see :func:`capsnet.definitions.own_definitions`).
        runtime: see :func:`capsnet.runtime.sessions.opening.open_session`.
    """

    checkpoint: Path
    images: Path | None = None
    samples: int | None = None
    device: "Device" = "auto"
    tolerance: Tolerance | None = None
    details: bool = False
    labels: Path | None = None
    definitions: tuple[Path, ...] = ()
    runtime: str | None = None

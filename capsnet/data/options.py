"""How images are read. Needs no numpy."""

from dataclasses import dataclass

__all__ = ["ImageOptions"]


@dataclass(frozen=True)
class ImageOptions:
    """How images are read, where it is not as they are stored.

    Attributes:
        resize: whether images of another size are resized to that of the network, by area-weighted
            bilinear interpolation; the ratio of their sides is not kept.
        invert: whether black and white change places (``1 - image``).
        arrays: names of the arrays with the images and with the labels, in an ``.npz`` file or a
            folder of ``.npy`` files, where they are not the usual ones.
    """

    resize: bool = False
    invert: bool = False
    arrays: tuple[str, str] | None = None

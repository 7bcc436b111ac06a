"""Images and labels from IDX files (the format of MNIST and Fashion-MNIST). Needs only numpy."""

import dataclasses
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from capsnet.bundled import ASSETS
from capsnet.data.arrays import ArrayHeader, Stream, labels_of
from capsnet.data.gzipped import array_in, images_in, shape_in
from capsnet.data.source import ImageShape, Part, Source, damaged
from capsnet.errors import DataError

__all__ = [
    "ASSETS",
    "IDX_MAGIC",
    "LabelledImages",
    "idx_folder",
    "idx_images",
    "idx_shape",
    "load_split",
    "mnist_calibration_images",
    "mnist_test_set",
    "read_idx",
    "require_mnist_shape",
]

IDX_MAGIC = b"\0\0"

_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


class LabelledImages(NamedTuple):
    """Images uint8 ``[n, channels, height, width]``, values 0..255, and labels int64 ``[n]``."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]


def read_idx(path: str | Path) -> npt.NDArray[np.generic]:
    """Read one IDX file, plain or gzipped (recognised by content).

    Args:
        path: the file.

    Returns:
        An array of the shape and type that the file's header gives, in native byte order.

    Raises:
        DataError: if the file cannot be read, is not IDX, is truncated or goes on after its end, or
            is far larger than it would be uncompressed.
    """
    return array_in(Path(path), _read_header)


def idx_images(path: Path, image_shape: ImageShape) -> Source:
    """The images of one IDX file, plain or gzipped, to be read one at a time.

    Args:
        path: the file.
        image_shape: channels, height and width that the images must have.

    Raises:
        DataError: if it is not IDX, is truncated, or holds no such images.
    """
    return images_in(path, _read_header, image_shape)


def idx_shape(path: Path) -> ImageShape:
    """Channels, height and width of the images in an IDX file."""
    return shape_in(path, _read_header)


_SPLITS = {"train": "train", "test": "t10k"}


def idx_folder(folder: Path) -> dict[str, Part]:
    """The splits in a folder of IDX files as MNIST has them; empty where there is none."""
    parts = {}
    for split, word in _SPLITS.items():
        images = _there(folder, f"{word}-images-idx3-ubyte")
        if images is not None:
            parts[split] = _split_part(folder, word, images)
    return parts


def _split_part(folder: Path, word: str, images: Path) -> Part:
    def sources(shape: ImageShape) -> Iterator[Source]:
        source = idx_images(images, shape)
        labels = _find(folder, f"{word}-labels-idx1-ubyte")
        yield dataclasses.replace(
            source, labels=lambda: labels_of(str(labels), read_idx(labels), source.count)
        )

    return Part(f"{folder.name}: {word} split", lambda: idx_shape(images), sources)


def _read_header(stream: Stream, name: str) -> ArrayHeader:
    magic = stream.read(4)
    if len(magic) < 4 or not magic.startswith(IDX_MAGIC) or magic[2] not in _DTYPES:
        raise DataError(
            f"{name} is not an IDX file: its header is {magic.hex(' ')!r}; "
            "expected a file as MNIST and Fashion-MNIST have them"
        )
    rank = magic[3]
    sizes = stream.read(4 * rank)
    if len(sizes) < 4 * rank:
        raise damaged(name, "it ends inside its header")
    return ArrayHeader(np.dtype(_DTYPES[magic[2]]), struct.unpack(f">{rank}I", sizes))


def load_split(folder: str | Path, split: str) -> LabelledImages:
    """Images and labels of one split, from a folder of IDX files.

    Args:
        folder: holds ``{split}-images-idx3-ubyte`` and ``{split}-labels-idx1-ubyte``, plain or
            ``.gz``.
        split: ``"train"`` or ``"t10k"``.

    Returns:
        Grey images ``[n, 1, height, width]`` and their labels.

    Raises:
        DataError: if a file is missing or damaged, or images and labels do not match.
    """
    folder = Path(folder)
    images = read_idx(_find(folder, f"{split}-images-idx3-ubyte"))
    labels = read_idx(_find(folder, f"{split}-labels-idx1-ubyte"))
    if images.ndim != 3 or images.dtype != np.uint8 or len(images) == 0:
        raise DataError(
            f"{folder}: the {split} images must be uint8 [n, height, width], "
            f"got {images.dtype} {list(images.shape)}"
        )
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise DataError(
            f"{folder}: the {split} labels must be integers [{len(images)}], one for each image, "
            f"got {labels.dtype} {list(labels.shape)}"
        )
    return LabelledImages(images.astype(np.uint8)[:, None], labels.astype(np.int64))


def mnist_test_set() -> LabelledImages:
    """The 10,000 MNIST test images and labels that come with the package."""
    return load_split(ASSETS, "t10k")


def mnist_calibration_images() -> npt.NDArray[np.float32]:
    """256 MNIST training images ``[n, 1, 28, 28]``, values 0..1, that come with the package."""
    pixels = read_idx(ASSETS / "calibration-images-idx3-ubyte.gz")
    return pixels[:, None].astype(np.float32) / np.float32(255)


def require_mnist_shape(image_shape: ImageShape, otherwise: str) -> None:
    """Raise DataError, with what cannot be done and what to do, where MNIST does not fit."""
    if image_shape != (1, 28, 28):
        raise DataError(
            f"the network takes {list(image_shape)} images, so the bundled MNIST images {otherwise}"
        )


def _there(folder: Path, name: str) -> Path | None:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    return None


def _find(folder: Path, name: str) -> Path:
    path = _there(folder, name)
    if path is not None:
        return path
    raise DataError(
        f"no {name} or {name}.gz in {folder}; give the folder that holds the IDX files (--data)"
    )

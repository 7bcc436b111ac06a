"""Images and labels from IDX files (the format of MNIST and Fashion-MNIST). Needs only numpy."""

import gzip
import math
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from capsnet.errors import DataError

__all__ = ["LabelledImages", "load_split", "mnist_calibration_images", "mnist_test_set", "read_idx"]

ASSETS = Path(__file__).parents[1] / "assets"

_IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


class LabelledImages(NamedTuple):
    """Images uint8 ``[n, channels, height, width]``, values 0..255, and labels int64 ``[n]``."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]


def read_idx(path: Path) -> npt.NDArray[np.generic]:
    """Read one IDX file, plain or gzipped (recognised by content).

    Args:
        path: the file.

    Returns:
        An array of the shape and type that the file's header gives, in native byte order.

    Raises:
        DataError: if the file cannot be read, is not IDX, or is truncated.
    """
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _IDX_DTYPES:
        raise DataError(f"{path} is not an IDX file: its header is {content[:4].hex(' ')!r}")
    dtype, rank = np.dtype(_IDX_DTYPES[content[2]]), content[3]
    start = 4 + 4 * rank
    if len(content) < start:
        raise DataError(f"{path} is truncated: it ends inside its header")
    shape = tuple(int(n) for n in np.frombuffer(content[4:start], ">u4"))
    expected = start + dtype.itemsize * math.prod(shape)
    if len(content) != expected:
        raise DataError(
            f"{path} is truncated or damaged: it holds {len(content)} bytes, "
            f"its header asks for {expected}"
        )
    array = np.frombuffer(content[start:], dtype).reshape(shape)
    return array.astype(dtype.newbyteorder("="))


def load_split(folder: Path, split: str) -> LabelledImages:
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


def _find(folder: Path, name: str) -> Path:
    for candidate in (folder / name, folder / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    raise DataError(
        f"no {name} or {name}.gz in {folder}; give the folder that holds the IDX files (--data)"
    )

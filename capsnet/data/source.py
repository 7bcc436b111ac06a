"""Images that are read one at a time, and one error for every way in which a file is damaged."""

import contextlib
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from capsnet.errors import DataError

__all__ = [
    "Found",
    "Image",
    "ImageShape",
    "Labels",
    "Part",
    "Source",
    "damaged",
    "reading",
    "require_expandable",
]

ImageShape = tuple[int, int, int]
Image = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Found = tuple[str, Image | DataError]
"""The name of an image, and the image; or why it is none, where the next one can be read."""

# What zipfile, gzip, numpy and Pillow raise for a file that is damaged.
_DAMAGE = (
    EOFError,
    RuntimeError,
    SyntaxError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


_LONGEST = 200  # characters of a reason
_MOST_EXPANDED = 32  # images hardly shrink to a thirtieth; zeros do to a thousandth
_ALWAYS_READ = 2**24  # bytes, however small their file


@dataclass(frozen=True)
class Source:
    """Images of one name: how many, and an iterator that opens nothing before it is advanced.

    Attributes:
        count: how many images there are.
        images: one after the other.
        labels: reads their labels int64 ``[count]``; None where they are not known.
        stored: size in bytes of the compressed file that they are in; None if it is not compressed.
    """

    count: int
    images: Iterator[Found]
    labels: Callable[[], Labels] | None = None
    stored: int | None = None


@dataclass(frozen=True)
class Part:
    """Images that belong together: a file, a folder, or one split of a data set.

    Attributes:
        name: what it is, in words.
        shape: finds channels, height and width of the (first) image as it is stored.
        sources: opens its sources, for images of a shape; each is valid until the next one.
        classes: the names of the classes, by label; None where only their numbers are known.
        folders: whether the names are those of folders, so that the numbers mean nothing.
    """

    name: str
    shape: Callable[[], ImageShape]
    sources: Callable[[ImageShape], Iterator[Source]]
    classes: tuple[str, ...] | None = None
    folders: bool = False


def require_expandable(name: str, expected: int, stored: int) -> None:
    """Raise DataError where a file is far larger than it would be uncompressed.

    Args:
        name: of the file.
        expected: bytes that it asks for, by its header.
        stored: bytes that it has.
    """
    if expected > max(_MOST_EXPANDED * stored, _ALWAYS_READ):
        raise DataError(
            f"cannot read {name}: its header asks for {expected} bytes, and it has {stored}; if "
            "that is right, unpack it (gunzip)"
        )


@contextlib.contextmanager
def reading(name: str) -> Iterator[None]:
    """Make whatever a missing or damaged file raises one error that names it."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # not the system's: Pillow and gzip report damage this way
            raise damaged(name, str(error)) from error
        raise DataError(
            f"cannot read {error.filename or name}: {error.strerror}; "
            "check the path and its permissions"
        ) from error
    except _DAMAGE as error:
        raise damaged(name, str(error)) from error


def damaged(name: str, reason: str) -> DataError:
    """The error of a damaged file; libraries quote it in their reasons, at any length."""
    return DataError(
        f"cannot read {name}: truncated, damaged, or not of its kind ({reason[:_LONGEST]}); "
        "copy or create the file again"
    )

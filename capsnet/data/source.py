"""Images that are read one at a time, and one error for every way in which a file is damaged."""

import contextlib
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from capsnet.errors import DataError

__all__ = ["Found", "Image", "ImageShape", "Source", "damaged", "reading"]

ImageShape = tuple[int, int, int]
Image = npt.NDArray[np.float32]
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


@dataclass(frozen=True)
class Source:
    """Images of one name: how many, and an iterator that opens nothing before it is advanced."""

    count: int
    images: Iterator[Found]


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

"""Images in NumPy's ``.npy`` and ``.npz`` files. Pickles are never loaded."""

import functools
import io
import math
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from capsnet.data.arrays import (
    ArrayHeader,
    Layout,
    Stream,
    check_size,
    find_layout,
    named_images,
    streamed,
)
from capsnet.data.source import ImageShape, Source, damaged, reading
from capsnet.errors import DataError
from capsnet.files import open_regular

__all__ = ["NPY_MAGIC", "ZIP_MAGIC", "npy", "npz", "read_npy", "read_npz"]

_LONGEST_HEADER = 10_000  # that of images takes about a hundred bytes
_GATHERED = 2**25  # bytes of images that are gathered at once

NPY_MAGIC = b"\x93NUMPY"
ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")  # the second: an archive without members


def npy(path: Path, image_shape: ImageShape) -> Source:
    """The images of one ``.npy`` file.

    It is read from front to back. In Fortran order the pixels of an image are all over the file,
    and are gathered for many images at once. Nothing is mapped: a file that is cut off while it is
    mapped ends the process.
    """
    name = str(path)
    with open_regular(path) as file:
        header = _read_npy_header(file, name)
        offset, size = file.tell(), os.fstat(file.fileno()).st_size
    if not header.fortran_order:
        return streamed(name, lambda: open_regular(path), _read_npy_header, size, image_shape)
    layout = find_layout(name, header, image_shape)
    check_size(name, offset, layout, size)
    rows = _gathered_rows(path, offset, layout)
    return Source(layout.count, named_images(name, layout, rows))


def read_npy(path: Path) -> npt.NDArray[Any]:
    """The array in a ``.npy`` file, which must hold all of it and nothing else.

    Raises:
        DataError: if it does not, or cannot be read.
    """
    name = str(path)
    with reading(name), open_regular(path) as file:
        header = _read_npy_header(file, name)
        expected = math.prod(header.shape) * header.dtype.itemsize
        if os.fstat(file.fileno()).st_size != file.tell() + expected:
            raise damaged(name, f"its header asks for {expected} bytes of data")
        order: Literal["F", "C"] = "F" if header.fortran_order else "C"
        return np.frombuffer(file.read(), header.dtype).reshape(header.shape, order=order)


def read_npz(path: Path, most_bytes: int) -> dict[str, npt.NDArray[Any]]:
    """The arrays in an ``.npz`` file, by name.

    Args:
        path: the file.
        most_bytes: that all arrays may have together; a few compressed ones may claim any number.

    Raises:
        DataError: if it holds anything else, or more, or cannot be read.
    """
    found: dict[str, npt.NDArray[Any]] = {}
    with reading(str(path)), open_regular(path) as file, zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if sum(info.file_size for info in members) > most_bytes:
            raise damaged(str(path), f"its arrays claim more than {most_bytes} bytes")
        for info in members:
            name = info.filename.removesuffix(".npy")
            if name == info.filename or name in found:
                raise damaged(str(path), f"{info.filename} is not an array, or there are two")
            with archive.open(info) as stream:
                header = _read_npy_header(stream, f"{path}:{name}")
                expected = math.prod(header.shape) * header.dtype.itemsize
                if info.file_size != stream.tell() + expected:
                    raise damaged(f"{path}:{name}", f"its header asks for {expected} bytes")
                order: Literal["F", "C"] = "F" if header.fortran_order else "C"
                values = np.frombuffer(stream.read(), header.dtype)
                found[name] = values.reshape(header.shape, order=order)
    return found


def npz(path: Path, image_shape: ImageShape) -> Iterator[Source]:
    """The images of every member of an ``.npz`` file; each is valid until the next one."""
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
        if not members:
            raise DataError(
                f"{path} is a zip archive without arrays: expected what numpy.savez writes; "
                "unpack an archive of image files and give the folder"
            )
        for info in members:
            name = f"{path}:{info.filename.removesuffix('.npy')}"
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise DataError(
                    f"{name} is not compressed the way NumPy does it; "
                    "write the file with numpy.savez_compressed"
                )
            open_member = functools.partial(archive.open, info)
            yield streamed(name, open_member, _read_npy_header, info.file_size, image_shape)


def _gathered_rows(path: Path, offset: int, layout: Layout) -> Iterator[npt.NDArray[Any]]:
    """The images of an array in Fortran order: all first pixels, all second pixels, and so on."""
    most = max(1, _GATHERED // layout.row_bytes)
    axes = tuple(reversed(layout.row_shape))  # Fortran counts along the first axis first
    with open_regular(path) as file:
        for first in range(0, layout.count, most):
            size = min(most, layout.count - first)
            block = np.empty((math.prod(axes), size), layout.dtype)
            for pixel, values in enumerate(block):
                file.seek(offset + (pixel * layout.count + first) * layout.dtype.itemsize)
                if file.readinto(values) < values.nbytes:
                    raise damaged(str(path), "it was cut off while it was read")
            yield from block.reshape(*axes, size).T


def _read_npy_header(stream: Stream, name: str) -> ArrayHeader:
    readers = {
        (1, 0): (2, np.lib.format.read_array_header_1_0),
        (2, 0): (4, np.lib.format.read_array_header_2_0),
    }
    try:
        # Other versions hold records, which are no images.
        digits, read = readers[np.lib.format.read_magic(stream)]
        length = stream.read(digits)
        size = int.from_bytes(length, "little")
        if size > _LONGEST_HEADER:  # numpy would read all of it first
            raise ValueError(f"it claims {size} bytes, expected at most {_LONGEST_HEADER}")
        shape, fortran_order, dtype = read(io.BytesIO(length + stream.read(size)))
    except Exception as error:  # numpy parses it as Python source: damage raises almost anything
        raise damaged(name, f"no valid header of a NumPy array: {error}") from error
    return ArrayHeader(dtype, shape, fortran_order)

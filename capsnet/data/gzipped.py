"""Arrays behind a header of their own, in files that are plain or gzipped: read front to back."""

import contextlib
import dataclasses
import gzip
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from capsnet.data.arrays import ArrayHeader, Stream, stored_shape, streamed
from capsnet.data.source import ImageShape, Source, damaged, reading, require_expandable
from capsnet.files import open_regular

__all__ = ["GZIP_MAGIC", "array_in", "images_in", "shape_in"]

GZIP_MAGIC = b"\x1f\x8b"

ReadHeader = Callable[[Stream, str], ArrayHeader]


def array_in(path: Path, read_header: ReadHeader) -> npt.NDArray[np.generic]:
    """All of the array in a file, in native byte order.

    Args:
        path: the file.
        read_header: gives the header at the start of a stream; the name is for messages.

    Raises:
        DataError: if the file cannot be read, is truncated or goes on after its end, or is far
            larger than it would be uncompressed.
    """
    name = str(path)
    with reading(name), _opened(path) as (stream, size):
        header = read_header(stream, name)
        expected = header.dtype.itemsize * math.prod(header.shape)
        require_expandable(name, expected, size)
        start = stream.tell()
        content = stream.read(expected + 1)
    if len(content) != expected:
        found = f"{'at least ' if len(content) > expected else ''}{start + len(content)}"
        raise damaged(name, f"it holds {found} bytes, its header asks for {start + expected}")
    with reading(name):  # numpy has no array of some shapes, though it would be empty
        array = np.frombuffer(content, header.dtype).reshape(header.shape)
    return array.astype(header.dtype.newbyteorder("="))


def images_in(path: Path, read_header: ReadHeader, image_shape: ImageShape) -> Source:
    """The images in a file, to be read one at a time.

    Args:
        path: the file.
        read_header: as of :func:`array_in`.
        image_shape: channels, height and width that the images must have.

    Raises:
        DataError: if it is truncated, or holds no such images.
    """

    @contextlib.contextmanager
    def stream() -> Iterator[Stream]:
        with _opened(path) as (content, _):
            yield content

    with _opened(path) as (content, stored):
        zipped = isinstance(content, gzip.GzipFile)
    source = streamed(str(path), stream, read_header, None if zipped else stored, image_shape)
    return dataclasses.replace(source, stored=stored if zipped else None)


def shape_in(path: Path, read_header: ReadHeader) -> ImageShape:
    """Channels, height and width of the images in a file."""
    with reading(str(path)), _opened(path) as (stream, _):
        return stored_shape(str(path), read_header(stream, str(path)))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Stream, int]]:
    """What is in a file, plain or gzipped (recognised by content), and the size of the file."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        zipped = file.read(2) == GZIP_MAGIC
        file.seek(0)
        if not zipped:
            yield file, size
            return
        with gzip.GzipFile(fileobj=file) as stream:
            yield stream, size

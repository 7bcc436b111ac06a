"""Images in NumPy's ``.npy`` and ``.npz`` files. Pickles are never loaded."""

import contextlib
import dataclasses
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
    labels_of,
    named_images,
    stored_shape,
    streamed,
)
from capsnet.data.options import ImageOptions
from capsnet.data.source import (
    ImageShape,
    Labels,
    Part,
    Source,
    damaged,
    reading,
    require_expandable,
)
from capsnet.errors import DataError
from capsnet.files import open_regular

__all__ = [
    "NPY_MAGIC",
    "ZIP_MAGIC",
    "npy",
    "npy_beside",
    "npy_folder",
    "npz",
    "npz_parts",
    "read_npy",
    "read_npz",
]

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
    with _archive(path) as archive:
        for info in _members(path, archive):
            yield _member(path, archive, info, image_shape)


def npz_parts(path: Path, options: ImageOptions) -> dict[str, Part]:
    """What is in an ``.npz`` file: its splits, where it has arrays of the usual names."""
    with _archive(path) as archive:
        names = [info.filename.removesuffix(".npy") for info in _members(path, archive)]
    pairs = _pairs(str(path), names, options)
    if not pairs:

        def shape() -> ImageShape:
            with _archive(path) as archive:
                return _member_shape(path, archive, _members(path, archive)[0])

        return {"all": Part(path.name, shape, lambda shape: npz(path, shape))}
    return {split: _npz_part(path, *pair) for split, pair in pairs.items()}


def _npz_part(path: Path, images: str, labels: str) -> Part:
    def found(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
        return next(i for i in _members(path, archive) if i.filename == f"{name}.npy")

    def shape() -> ImageShape:
        with _archive(path) as archive:
            return _member_shape(path, archive, found(archive, images))

    def sources(image_shape: ImageShape) -> Iterator[Source]:
        with _archive(path) as archive:
            source = _member(path, archive, found(archive, images), image_shape)
            if labels:
                member = found(archive, labels)
                source = dataclasses.replace(
                    source, labels=lambda: _member_labels(path, archive, member, source.count)
                )
            yield source

    return Part(f"{path.name}:{images}", shape, sources)


@contextlib.contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        yield archive


def _members(path: Path, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
    if not members:
        raise DataError(
            f"{path} is a zip archive without arrays: expected what numpy.savez writes; "
            "unpack an archive of image files and give the folder"
        )
    return members


def _member_name(path: Path, info: zipfile.ZipInfo) -> str:
    """The member's name, where NumPy may have written it."""
    name = f"{path}:{info.filename.removesuffix('.npy')}"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(
            f"{name} is not compressed the way NumPy does it; "
            "write the file with numpy.savez_compressed"
        )
    return name


def _member(
    path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, image_shape: ImageShape
) -> Source:
    name = _member_name(path, info)
    open_member = functools.partial(archive.open, info)
    source = streamed(name, open_member, _read_npy_header, info.file_size, image_shape)
    return dataclasses.replace(source, stored=info.compress_size)


def _member_shape(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> ImageShape:
    name = _member_name(path, info)
    with reading(name), archive.open(info) as stream:
        return stored_shape(name, _read_npy_header(stream, name))


def _member_labels(
    path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, images: int
) -> Labels:
    name = _member_name(path, info)
    with reading(name), archive.open(info) as stream:
        header = _read_npy_header(stream, name)
        # Its type and shape are judged before anything is read.
        labels_of(name, np.broadcast_to(np.zeros((), header.dtype), header.shape), images)
        size = images * header.dtype.itemsize
        require_expandable(name, size, info.compress_size)
        content = stream.read(size + 1)
    if len(content) != size:
        raise damaged(name, f"its header asks for {size} bytes of data")
    return labels_of(name, np.frombuffer(content, header.dtype), images)


def npy_part(path: Path, labels: Path | None = None) -> Part:
    """The images of an ``.npy`` file, and the labels in the one beside it."""

    def shape() -> ImageShape:
        with reading(str(path)), open_regular(path) as file:
            return stored_shape(str(path), _read_npy_header(file, str(path)))

    def sources(image_shape: ImageShape) -> Iterator[Source]:
        source = npy(path, image_shape)
        if labels is not None:
            source = dataclasses.replace(
                source, labels=lambda: labels_of(str(labels), read_npy(labels), source.count)
            )
        yield source

    return Part(path.name, shape, sources)


def npy_beside(path: Path) -> Part:
    """The images of one ``.npy`` file; their labels lie beside it under the usual name, or not."""
    usual = {images: labels for pairs in _USUAL.values() for images, labels in pairs}
    labels = path.with_name(f"{usual.get(path.stem, '')}.npy")
    return npy_part(path, labels if path.stem in usual and labels.is_file() else None)


def npy_folder(folder: Path, options: ImageOptions) -> dict[str, Part]:
    """The splits in a folder of ``.npy`` files of the usual names; empty where there is none."""
    names = sorted(path.stem for path in folder.glob("*.npy"))
    if not names:
        return {}

    def part(images: str, labels: str) -> Part:
        beside = folder / f"{labels}.npy"
        return npy_part(folder / f"{images}.npy", beside if labels else None)

    return {split: part(*pair) for split, pair in _pairs(str(folder), names, options).items()}


_USUAL = {
    "train": (("x_train", "y_train"), ("train_images", "train_labels")),
    "test": (("x_test", "y_test"), ("test_images", "test_labels")),
    "all": (("x", "y"), ("images", "labels")),
}
"""Names of arrays with images and labels, by split."""


def _pairs(where: str, names: list[str], options: ImageOptions) -> dict[str, tuple[str, str]]:
    """The arrays with images and labels by split; a label's name is empty where there is none."""
    if options.arrays is not None:
        missing = [name for name in options.arrays if name not in names]
        if missing:
            raise DataError(
                f"{where} holds no array {missing[0]}; it holds {', '.join(names[:20])}: name the "
                "arrays of the images and the labels (--arrays)"
            )
        return {"all": options.arrays}
    found = {}
    for split, pairs in _USUAL.items():
        for images, labels in pairs:
            if images in names:
                found[split] = (images, labels if labels in names else "")
                break
    return found


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

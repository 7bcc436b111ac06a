"""CIFAR-10 and CIFAR-100 in their binary version: a label or two, then 3072 pixels, each image.

https://www.cs.toronto.edu/~kriz/cifar.html describes the files.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from capsnet.data.arrays import ArrayHeader, find_layout, named_images
from capsnet.data.source import ImageShape, Labels, Part, Source, damaged, reading
from capsnet.errors import printable
from capsnet.files import open_regular

__all__ = ["cifar_folder"]

_IMAGE = (3, 32, 32)
_PIXELS = 3072
_LONGEST_NAMES = 1 << 16  # bytes of a file with names


@dataclass(frozen=True)
class _Version:
    """A data set of this form: its files, and how many labels are before the pixels."""

    train: tuple[str, ...]
    test: str
    names: str
    labels: int


_VERSIONS = (
    _Version(
        tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin", "batches.meta.txt", 1
    ),
    _Version(("train.bin",), "test.bin", "fine_label_names.txt", 2),  # the coarse one comes first
)


def cifar_folder(folder: Path) -> dict[str, Part]:
    """The splits in a folder of these files; empty where there is none."""
    for version in _VERSIONS:
        train = [folder / name for name in version.train if (folder / name).is_file()]
        test = [path for path in [folder / version.test] if path.is_file()]
        if train or test:
            classes = _names(folder / version.names)
            splits = {"train": train, "test": test}
            return {
                split: _part(folder, split, paths, version.labels, classes)
                for split, paths in splits.items()
                if paths
            }
    return {}


def _part(
    folder: Path, split: str, paths: list[Path], labels: int, classes: tuple[str, ...] | None
) -> Part:
    def sources(image_shape: ImageShape) -> Iterator[Source]:
        for path in paths:
            yield _source(path, labels, image_shape)

    return Part(f"{folder.name}: {split} split", lambda: _IMAGE, sources, classes)


def _source(path: Path, labels: int, image_shape: ImageShape) -> Source:
    name, record = str(path), labels + _PIXELS
    with reading(name), open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
    if size == 0 or size % record:
        raise damaged(name, f"it holds {size} bytes, expected {record} for each image")
    count = size // record
    layout = find_layout(name, ArrayHeader(np.dtype(np.uint8), (count, *_IMAGE)), image_shape)
    rows = _rows(path, labels, count)
    return Source(count, named_images(name, layout, rows), lambda: _labels(path, labels, count))


def _rows(path: Path, labels: int, count: int) -> Iterator[npt.NDArray[Any]]:
    with open_regular(path) as file:
        for _ in range(count):
            record = file.read(labels + _PIXELS)
            if len(record) < labels + _PIXELS:
                raise damaged(str(path), "it was cut off while it was read")
            yield np.frombuffer(record, np.uint8, offset=labels).reshape(_IMAGE)


def _labels(path: Path, labels: int, count: int) -> Labels:
    """The last label of each image: the finer one."""
    found = np.empty(count, np.int64)
    with reading(str(path)), open_regular(path) as file:
        for index in range(count):
            file.seek(index * (labels + _PIXELS) + labels - 1)
            byte = file.read(1)
            if not byte:
                raise damaged(str(path), "it was cut off while it was read")
            found[index] = byte[0]
    return found


def _names(path: Path) -> tuple[str, ...] | None:
    """The names of the classes, one a line; None where the file is not there."""
    if not path.is_file():
        return None
    with reading(str(path)), open_regular(path) as file:
        text = file.read(_LONGEST_NAMES).decode()
    return tuple(printable(line.strip()) for line in text.splitlines() if line.strip())

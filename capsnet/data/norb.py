"""SmallNORB in its binary matrices: pairs of grey images, 96x96, of five kinds of toys.

https://cs.nyu.edu/~ylclab/data/norb-v1.0-small/ describes the files.
"""

import dataclasses
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from capsnet.data.arrays import ArrayHeader, Stream, labels_of
from capsnet.data.gzipped import array_in, images_in, shape_in
from capsnet.data.source import ImageShape, Part, Source, damaged
from capsnet.errors import DataError

__all__ = ["norb_folder"]

_TYPES = {0x1E3D4C55: "<u1", 0x1E3D4C54: "<i4", 0x1E3D4C56: "<i2"}
_MOST_AXES = 8
_CLASSES = ("animal", "human", "airplane", "truck", "car")


def norb_folder(folder: Path) -> dict[str, Part]:
    """The splits in a folder of these files, plain or gzipped; empty where there is none."""
    parts = {}
    for split, word in (("train", "training"), ("test", "testing")):
        images = sorted(p for p in folder.glob(f"*-{word}-dat.mat*") if p.is_file())
        if images:
            parts[split] = _part(folder, split, images[0])
    return parts


def _part(folder: Path, split: str, images: Path) -> Part:
    def sources(image_shape: ImageShape) -> Iterator[Source]:
        source = images_in(images, _read_header, image_shape)
        labels = images.with_name(images.name.replace("-dat.mat", "-cat.mat"))
        yield dataclasses.replace(
            source,
            labels=lambda: labels_of(str(labels), array_in(labels, _read_header), source.count),
        )

    return Part(
        f"{folder.name}: {split} split", lambda: shape_in(images, _read_header), sources, _CLASSES
    )


def _read_header(stream: Stream, name: str) -> ArrayHeader:
    """Kind, number of axes, and at least three sizes, all little-endian."""
    head = stream.read(8)
    if len(head) < 8:
        raise damaged(name, "it ends inside its header")
    magic, axes = struct.unpack("<2i", head)
    if magic not in _TYPES or not 1 <= axes <= _MOST_AXES:
        raise DataError(
            f"{name} is not a binary matrix: its header is {head.hex(' ')!r}; expected a file as "
            "SmallNORB has them"
        )
    length = 4 * max(3, axes)
    sizes = stream.read(length)
    if len(sizes) < length:
        raise damaged(name, "it ends inside its header")
    shape = struct.unpack(f"<{length // 4}i", sizes)[:axes]
    if min(shape) < 0:
        raise damaged(name, f"its header gives the shape {list(shape)}")
    return ArrayHeader(np.dtype(_TYPES[magic]), shape)

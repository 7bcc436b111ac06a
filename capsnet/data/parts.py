"""What an input holds, whatever its kind: a file, a folder, a data set, as one or two parts."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from capsnet.data.cifar import cifar_folder
from capsnet.data.gzipped import GZIP_MAGIC
from capsnet.data.idx import IDX_MAGIC, idx_folder, idx_images, idx_shape
from capsnet.data.images import IMAGE_MAGIC, image_file, image_folder, image_shape_of, resized
from capsnet.data.norb import norb_folder
from capsnet.data.numpy_files import NPY_MAGIC, ZIP_MAGIC, npy_beside, npy_folder, npz_parts
from capsnet.data.options import ImageOptions
from capsnet.data.source import Found, ImageShape, Part, Source, reading
from capsnet.data.torchvision_sets import PREFIX, torchvision_parts
from capsnet.errors import DataError
from capsnet.files import open_regular

__all__ = ["known_labels", "part_of", "parts_of"]


def parts_of(path: Path, options: ImageOptions = ImageOptions()) -> dict[str, Part]:
    """What is in an input: the parts ``train`` and ``test`` of a data set, or one called ``all``.

    Args:
        path: a file; a folder of images, or of a data set's files; or ``torchvision:NAME:FOLDER``.
        options: how to read it.

    Raises:
        DataError: if it is missing, empty, or of an unknown kind.
    """
    if str(path).startswith(PREFIX):
        found = torchvision_parts(str(path))
    else:
        with reading(str(path)):
            found = _folder(path, options) if path.is_dir() else _file(path, options)
    return {split: _adapted(part, options) for split, part in found.items()}


def part_of(path: Path, options: ImageOptions = ImageOptions(), wanted: str = "test") -> Part:
    """The part of an input that is read: the wanted one, where it has several."""
    parts = parts_of(path, options)
    return parts.get(wanted) or next(iter(parts.values()))


def known_labels(part: Part, names: Sequence[str], classes: int) -> dict[int, int]:
    """A network's number of each class of a part; empty where they are not the same classes.

    Args:
        part: its labels may have names.
        names: of the network's classes; without any, those of folders must be their numbers.
        classes: of the network.
    """
    if part.classes is None or not (names or part.folders):
        return {number: number for number in range(classes)}
    own = {name: n for n, name in enumerate(names or map(str, range(classes)))}
    if not set(part.classes) <= own.keys():
        return {}
    return {number: own[name] for number, name in enumerate(part.classes)}


def _folder(path: Path, options: ImageOptions) -> dict[str, Part]:
    kinds = (idx_folder, cifar_folder, norb_folder, lambda f: npy_folder(f, options))
    for kind in kinds:
        found = kind(path)
        if found:
            return found
    return image_folder(path, options)


def _file(path: Path, options: ImageOptions) -> dict[str, Part]:
    name = str(path)
    if not path.exists():
        raise DataError(f"cannot read {name}: there is no such file or folder; check the path")
    with open_regular(path) as file:
        head = file.read(8)
    if head.startswith(ZIP_MAGIC):
        return npz_parts(path, options)
    if head.startswith(NPY_MAGIC):
        return {"all": npy_beside(path)}
    if head.startswith(IMAGE_MAGIC):
        part = Part(
            path.name,
            lambda: image_shape_of(path),
            lambda shape: iter([image_file(path, shape, resize=options.resize)]),
        )
    elif head.startswith((GZIP_MAGIC, IDX_MAGIC)):
        part = Part(
            path.name, lambda: idx_shape(path), lambda shape: iter([idx_images(path, shape)])
        )
    else:
        found = f"it starts with the bytes {head.hex(' ')}" if head else "it is empty"
        raise DataError(
            f"cannot read {name}: {found}; expected a PNG, JPEG, BMP or WebP image, a NumPy .npy "
            "or .npz file, or an IDX file"
        )
    return {"all": part}


def _adapted(part: Part, options: ImageOptions) -> Part:
    """The part with images resized and inverted where asked."""

    def sources(shape: ImageShape) -> Iterator[Source]:
        stored = shape
        if options.resize and not part.folders:  # files of a folder have a size each
            stored = (shape[0], *part.shape()[1:])
        for source in part.sources(stored):
            yield dataclasses.replace(source, images=changed(source.images, shape))

    def changed(images: Iterator[Found], shape: ImageShape) -> Iterator[Found]:
        for name, image in images:
            if isinstance(image, DataError):
                yield name, image
                continue
            fitting = resized(image, *shape[1:]) if options.resize else image
            yield name, np.float32(1) - fitting if options.invert else fitting

    if not (options.resize or options.invert):
        return part
    return dataclasses.replace(part, sources=sources)

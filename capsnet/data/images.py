"""PNG, JPEG, BMP and WebP files, and folders of them. Pillow is imported when one is decoded."""

import dataclasses
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import numpy.typing as npt

from capsnet.data.arrays import scaled
from capsnet.data.options import ImageOptions
from capsnet.data.source import Found, Image, ImageShape, Part, Source, damaged, reading
from capsnet.errors import DataError
from capsnet.files import IMAGE_SUFFIXES, open_regular

if TYPE_CHECKING:
    from PIL import Image as Pillow
    from PIL.ImageFile import ImageFile

__all__ = ["IMAGE_MAGIC", "image_file", "image_folder", "image_shape_of", "resized"]

IMAGE_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"RIFF")
"""First bytes of PNG, JPEG, BMP and WebP files."""

_GREY = ("1", "L", "LA", "I;16", "I;16B", "I")  # modes of Pillow
_MOST_PIXELS = 2**26  # of an image that is resized
_TRAINING, _TESTING = ("train", "training"), ("test", "testing", "val", "validation")


def image_folder(folder: Path, options: ImageOptions) -> dict[str, Part]:
    """The images in a folder and below it, in natural order.

    Where all of them lie in subfolders, each subfolder is a class. A folder with the subfolders
    ``train`` and ``test`` (or ``val``) has two splits.
    """
    names = [path.name for path in _entries(folder) if path.is_dir()]
    train = next((name for name in _TRAINING if name in names), None)
    test = next((name for name in _TESTING if name in names), None)
    if train is None or test is None:
        return {"all": _folder_part(folder, options)}
    return {
        "train": _folder_part(folder / train, options),
        "test": _folder_part(folder / test, options),
    }


def _folder_part(folder: Path, options: ImageOptions) -> Part:
    # Names of folders only: what lies in them is listed when it is read.
    entries = list(_entries(folder))
    loose = any(path.suffix.lower() in IMAGE_SUFFIXES for path in entries if not path.is_dir())
    below = [path for path in entries if path.is_dir() and next(_files_below(path), None)]
    classes = tuple(path.name for path in below) if below and not loose else None

    def shape() -> ImageShape:
        firsts = below if classes else [folder]
        shapes = [image_shape_of(next(_files_below(path, folder))) for path in firsts]
        return max(channels for channels, _, _ in shapes), *shapes[0][1:]

    def sources(image_shape: ImageShape) -> Iterator[Source]:
        for path in _files_below(folder, folder):
            source = image_file(path, image_shape, resize=options.resize)
            if classes is None:
                yield source
                continue
            label = np.array([classes.index(path.relative_to(folder).parts[0])], np.int64)
            yield dataclasses.replace(source, labels=functools.partial(np.copy, label))

    return Part(folder.name, shape, sources, classes, folders=True)


def _entries(folder: Path) -> Iterator[Path]:
    """What is in a folder, in natural order; no hidden names, no links to folders."""
    for name in sorted((path.name for path in folder.iterdir()), key=_natural):
        path = folder / name
        if not name.startswith(".") and not (path.is_dir() and path.is_symlink()):
            yield path  # a link to a folder may lead back to where it lies


def _files_below(folder: Path, given: Path | None = None) -> Iterator[Path]:
    """The image files in a folder and below it; DataError, which names ``given``, if none is."""
    empty = True
    for path in _entries(folder):
        if path.is_dir():
            found = _files_below(path)
        else:
            found = iter([path] if path.suffix.lower() in IMAGE_SUFFIXES else [])
        for file in found:
            empty = False
            yield file
    if empty and given is not None:
        raise DataError(
            f"the folder {given} holds no images: expected {', '.join(IMAGE_SUFFIXES)} files in "
            "it or below it, or a data set's files; name .npz files one by one"
        )


def _natural(name: str) -> tuple[list[str | int], str]:
    """Sort key: numbers by value, text without regard to case."""
    parts = re.split("([0-9]+)", name.casefold())  # text and numbers in turn, text first
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def image_shape_of(path: Path) -> ImageShape:
    """Channels (1 or 3), height and width of the image in a file. Reads its header only."""
    with reading(str(path)), open_regular(path) as file, _opened(file, str(path)) as image:
        turned = image.getexif().get(_ORIENTATION, 1) in _TURNED
        width, height = reversed(image.size) if turned else image.size
        return (1 if image.mode in _GREY else 3), height, width


_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)  # EXIF: those that exchange width and height


def image_file(path: Path, image_shape: ImageShape, *, resize: bool = False) -> Source:
    """The image in one file; nothing is read before it is asked for.

    Args:
        path: the file.
        image_shape: what the network takes.
        resize: whether an image of another size is resized.
    """

    def images() -> Iterator[Found]:
        found: Image | DataError
        try:
            found = _decoded(path, image_shape, resize)
        except DataError as error:
            found = error
        yield str(path), found

    return Source(1, images())


def _opened(file: BinaryIO, name: str) -> "ImageFile":
    from PIL import Image as Pillow
    from PIL import UnidentifiedImageError

    try:
        return Pillow.open(file, formats=("PNG", "JPEG", "BMP", "WEBP"))
    except UnidentifiedImageError as error:  # its words name the object, not the file
        raise damaged(name, "no PNG, JPEG, BMP or WebP image") from error


def resized(image: Image, height: int, width: int) -> Image:
    """An image ``[c, h, w]``, values 0..1, in another size; itself where it has that size."""
    from PIL import Image as Pillow

    if image.shape[1:] == (height, width):
        return image
    channels = [
        np.asarray(Pillow.fromarray(channel).resize((width, height), Pillow.Resampling.BILINEAR))
        for channel in image
    ]
    clipped: Image = np.stack(channels).clip(0, 1)
    return clipped


def _decoded(path: Path, image_shape: ImageShape, resize: bool) -> Image:
    from PIL import Image as Pillow

    channels, height, width = image_shape
    if channels not in (1, 3):
        raise DataError(
            f"cannot read {path}: the network takes {channels} channels, and an image file "
            "is grey (1) or colour (3); give the images as an array (.npy)"
        )
    try:
        with (
            reading(str(path)),
            open_regular(path) as file,
            _opened(file, str(path)) as stored,
        ):
            image = _sized(path, stored, height, width, resize)
            rgba = image.convert("RGBA")
            if rgba.getchannel("A").getextrema() != (255, 255):
                raise DataError(
                    f"{path} is transparent in places, and the network has no alpha channel; "
                    "flatten it onto the background of the training images"
                )
            if image.mode == "I;16":  # Pillow's own conversion would clip at 255
                grey = np.asarray(image, np.float32)[None] / np.float32(65535)
                return resized(np.repeat(grey, channels, axis=0), height, width)
            converted = rgba.convert("L" if channels == 1 else "RGB")
            pixels: npt.NDArray[np.uint8] = np.asarray(converted)
            pixels = pixels.reshape(*pixels.shape[:2], channels).transpose(2, 0, 1)
    except Pillow.DecompressionBombError as error:
        raise DataError(f"{path} is far larger than {height}x{width} pixels: {error}") from error
    return resized(scaled(str(path), pixels), height, width)


def _sized(
    path: Path, stored: "ImageFile", height: int, width: int, resize: bool
) -> "Pillow.Image":
    """The image of a file, upright, where its size is right or may be made so."""
    from PIL import ImageOps

    image: Pillow.Image = stored
    small = image.width * image.height <= _MOST_PIXELS
    if (resize and small) or sorted(stored.size) == sorted((width, height)):
        image = ImageOps.exif_transpose(stored)  # this decodes it: nothing larger is
    if image.size == (width, height) or (resize and small):
        return image
    advice = "resize it the way the training images were, or give --resize"
    if not small:
        advice = f"make it smaller: at most {_MOST_PIXELS} pixels are resized"
    raise DataError(
        f"{path} is {image.height}x{image.width} pixels (height x width), the network "
        f"takes {height}x{width}; {advice}"
    )

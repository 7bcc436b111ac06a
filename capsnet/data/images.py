"""PNG and JPEG files, and folders of them. Pillow is imported when the first one is decoded."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from capsnet.data.arrays import scaled
from capsnet.data.source import Found, Image, ImageShape, Source, damaged, reading
from capsnet.errors import DataError
from capsnet.files import IMAGE_SUFFIXES, open_regular

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

__all__ = ["IMAGE_MAGIC", "folder_images", "image_file"]

IMAGE_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
"""First bytes of a PNG and of a JPEG file."""


def folder_images(folder: Path, image_shape: ImageShape) -> Iterator[Source]:
    """The images in a folder and below it, in natural order."""
    empty = True
    for path in _files_below(folder):
        empty = False
        yield image_file(path, image_shape)
    if empty:
        raise DataError(
            f"the folder {folder} holds no images: expected {', '.join(IMAGE_SUFFIXES)} files in "
            "it or below it; name .npy, .npz and IDX files one by one"
        )


def _files_below(folder: Path) -> Iterator[Path]:
    for name in sorted((path.name for path in folder.iterdir()), key=_natural):
        path = folder / name
        if name.startswith("."):
            continue
        if path.is_dir():
            if not path.is_symlink():  # a link may lead back to where it lies
                yield from _files_below(path)
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            yield path


def _natural(name: str) -> tuple[list[str | int], str]:
    """Sort key: numbers by value, text without regard to case."""
    parts = re.split("([0-9]+)", name.casefold())  # text and numbers in turn, text first
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def image_file(path: Path, image_shape: ImageShape) -> Source:
    """The image in one PNG or JPEG file; nothing is read before it is asked for."""

    def images() -> Iterator[Found]:
        found: Image | DataError
        try:
            found = _decoded(path, image_shape)
        except DataError as error:
            found = error
        yield str(path), found

    return Source(1, images())


def _opened(file: BinaryIO, name: str) -> "ImageFile":
    from PIL import Image as Pillow
    from PIL import UnidentifiedImageError

    try:
        return Pillow.open(file, formats=("PNG", "JPEG"))
    except UnidentifiedImageError as error:  # its words name the object, not the file
        raise damaged(name, "no PNG or JPEG image") from error


def _decoded(path: Path, image_shape: ImageShape) -> Image:
    from PIL import Image as Pillow
    from PIL import ImageOps

    channels, height, width = image_shape
    if channels not in (1, 3):
        raise DataError(
            f"cannot read {path}: the network takes {channels} channels, and a PNG or JPEG image "
            "is grey (1) or colour (3); give the images as an array (.npy)"
        )
    try:
        with (
            reading(str(path)),
            open_regular(path) as file,
            _opened(file, str(path)) as stored,
        ):
            image: Pillow.Image = stored
            if sorted(stored.size) == sorted((width, height)):  # nothing larger is decoded
                image = ImageOps.exif_transpose(stored)
            if image.size != (width, height):
                raise DataError(
                    f"{path} is {image.height}x{image.width} pixels (height x width), the network "
                    f"takes {height}x{width}; resize it the way the training images were"
                )
            rgba = image.convert("RGBA")
            if rgba.getchannel("A").getextrema() != (255, 255):
                raise DataError(
                    f"{path} is transparent in places, and the network has no alpha channel; "
                    "flatten it onto the background of the training images"
                )
            if image.mode == "I;16":  # Pillow's own conversion would clip at 255
                grey = np.asarray(image, np.float32)[None] / np.float32(65535)
                return np.repeat(grey, channels, axis=0)
            pixels = np.asarray(rgba.convert("L" if channels == 1 else "RGB"))
    except Pillow.DecompressionBombError as error:
        raise DataError(f"{path} is far larger than {height}x{width} pixels: {error}") from error
    return scaled(str(path), pixels.reshape(height, width, channels).transpose(2, 0, 1))

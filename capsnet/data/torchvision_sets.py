"""Data sets of torchvision by name, which it downloads itself. Needs the extra ``torchvision``."""

import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from capsnet.data.arrays import scaled
from capsnet.data.source import Found, ImageShape, Labels, Part, Source
from capsnet.errors import DataError, first_line

__all__ = ["PREFIX", "pixels_of", "torchvision_parts"]

PREFIX = "torchvision:"
"""``torchvision:NAME:FOLDER`` stands for a data set, which lies in the folder or is put there."""


def torchvision_parts(text: str) -> dict[str, Part]:
    """Both splits of a data set.

    Args:
        text: :data:`PREFIX`, the name of its class, and the folder.

    Raises:
        DataError: if torchvision is not there, has no such data set, or cannot read it.
    """
    name, _, folder = text.removeprefix(PREFIX).partition(":")
    if not name or not folder:
        raise DataError(
            f"{text!r} names no data set, expected {PREFIX}NAME:FOLDER, such as {PREFIX}MNIST:data"
        )
    try:
        datasets = importlib.import_module("torchvision.datasets")
    except ImportError as error:
        raise DataError(
            f"{text} needs torchvision ({first_line(error)}): pip install "
            "'capsnet-export[torchvision]'"
        ) from error
    kind = getattr(datasets, name, None)
    if not isinstance(kind, type):
        raise DataError(f"torchvision.datasets has no {name}; expected a name such as MNIST")
    return {split: _part(_opened(kind, folder, split), name, split) for split in ("train", "test")}


def _opened(kind: Any, folder: str, split: str) -> Any:
    """The data set; some take ``train=True``, others the name of the split."""
    try:
        try:
            return kind(folder, train=split == "train", download=True)
        except TypeError:
            return kind(folder, split=split, download=True)
    except Exception as error:  # of downloads, archives and checks, with any type
        raise DataError(
            f"torchvision cannot read {kind.__name__} in {folder}: {first_line(error)}; expected a "
            "data set that takes train= or split=, and download="
        ) from error


def _part(dataset: Any, name: str, split: str) -> Part:
    classes = getattr(dataset, "classes", None)

    def sources(image_shape: ImageShape) -> Iterator[Source]:
        images = _images(dataset, f"{name} {split}", image_shape)
        yield Source(len(dataset), images, lambda: _labels(dataset))

    def shape() -> ImageShape:
        channels, height, width = pixels_of(name, dataset[0][0]).shape
        return channels, height, width

    return Part(f"{name} {split} split", shape, sources, tuple(map(str, classes or ())) or None)


def _images(dataset: Any, name: str, image_shape: ImageShape) -> Iterator[Found]:
    for index in range(len(dataset)):
        source = f"{name}[{index}]"
        image = pixels_of(source, dataset[index][0])
        if image.shape != image_shape:
            raise DataError(
                f"{source} is {list(image.shape)}, the network takes {list(image_shape)}; resize "
                "the images (--resize)"
            )
        yield source, image


def pixels_of(name: str, image: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A Pillow image, an array or a tensor as float32 ``[c, h, w]``, values 0..1."""
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        pixels = pixels[None]
    elif pixels.ndim == 3 and hasattr(image, "getbands"):  # Pillow's channels are last
        pixels = pixels.transpose(2, 0, 1)
    if pixels.ndim != 3:
        raise DataError(f"{name} is {list(pixels.shape)}, expected an image [channels, h, w]")
    return scaled(name, pixels)


def _labels(dataset: Any) -> Labels:
    for attribute in ("targets", "labels", "_labels"):
        if hasattr(dataset, attribute):
            return np.asarray(getattr(dataset, attribute), np.int64)
    return np.array([dataset[index][1] for index in range(len(dataset))], np.int64)

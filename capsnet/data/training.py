"""What a network is trained on: images and labels of files or of memory, as arrays."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from capsnet.data.idx import LabelledImages
from capsnet.data.names import read_names
from capsnet.data.options import ImageOptions
from capsnet.data.parts import known_labels, parts_of
from capsnet.data.source import ImageShape, Part, reading, require_expandable
from capsnet.data.torchvision_sets import pixels_of
from capsnet.errors import DataError, printable

__all__ = ["TrainingData", "load_training_data", "training_arrays", "training_data"]

_MOST_CLASSES = 100_000


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Images to train on.

    Attributes:
        source: where they are from, in words.
        train: images to learn from.
        test: the test split; None where the data has none.
        names: of the classes, by label; empty where they have only numbers.
        classes: how many there are.
    """

    source: str
    train: LabelledImages
    test: LabelledImages | None
    names: tuple[str, ...]
    classes: int

    @property
    def image_shape(self) -> ImageShape:
        """Channels, height and width of an image."""
        _, channels, height, width = self.train.images.shape
        return channels, height, width


def load_training_data(
    path: Path,
    *,
    size: int | None = None,
    options: ImageOptions = ImageOptions(),
    classes: Path | None = None,
) -> TrainingData:
    """Read a labelled data set.

    Args:
        path: what :func:`capsnet.data.parts.parts_of` reads.
        size: height and width that all images are resized to; None keeps their own, which must
            then be the same for all.
        options: how to read it; whether to resize follows from the size.
        classes: a file with the names of the classes, one a line; None takes those of the data.

    Raises:
        DataError: if it cannot be read, or has no labels, or fewer than two classes.
    """
    options = dataclasses.replace(options, resize=size is not None)
    parts = parts_of(path, options)
    part = parts.get("train") or parts.get("all")
    if part is None:
        raise DataError(f"{path} holds a test split alone; training takes a training split")
    with reading(str(path)):
        channels, *stored = part.shape()
        height, width = stored if size is None else (size, size)
        shape = channels, height, width
        train = _collected(part, shape, None)
        names = tuple(map(printable, part.classes or ()))
        if classes is not None:
            names = read_names(classes, len(names) or None)
        count = _class_count(part.name, train, names)
        test = parts.get("test")
        held_out = None
        if test is not None:
            held_out = _collected(test, shape, known_labels(test, part.classes or (), count))
    return TrainingData(part.name, train, held_out, names, count)


def _class_count(name: str, train: LabelledImages, names: tuple[str, ...]) -> int:
    low, high = int(train.labels.min()), int(train.labels.max())
    if low < 0 or high >= (len(names) or _MOST_CLASSES):
        raise DataError(
            f"{name}: the labels run from {low} to {high}, expected 0 to "
            f"{(len(names) or _MOST_CLASSES) - 1}"
        )
    classes = len(names) or high + 1
    if classes < 2:
        raise DataError(f"{name} has one class alone, expected at least 2; give more images")
    return classes


def _collected(part: Part, shape: ImageShape, numbers: dict[int, int] | None) -> LabelledImages:
    """All images of a part as uint8, and their labels, renumbered where numbers are given."""
    images: list[npt.NDArray[np.uint8]] = []
    labels: list[int] = []
    for source in part.sources(shape):
        if source.labels is None:
            raise DataError(
                f"{part.name} has no labels, and training needs them: give a folder with a "
                "subfolder for each class, an .npz file with x and y (or --arrays), or a data "
                "set's folder"
            )
        if source.stored is not None:
            require_expandable(part.name, source.count * int(np.prod(shape)), source.stored)
        for _, found in source.images:
            if isinstance(found, DataError):
                raise found
            images.append(np.rint(found * 255).astype(np.uint8))
        labels += source.labels().tolist()
    unknown = sorted(set() if numbers is None else set(labels) - numbers.keys())
    if unknown or numbers == {}:
        raise DataError(
            f"{part.name} has classes that the training images have not; give both the same classes"
        )
    known = labels if numbers is None else [numbers[label] for label in labels]
    return LabelledImages(np.stack(images), np.array(known, np.int64))


def training_data(images: Any, labels: Any = None) -> TrainingData:
    """Images and labels of memory as a data set; see :func:`training_arrays`."""
    arrays = training_arrays(images, labels)
    names = tuple(map(str, getattr(images, "classes", None) or ()))
    classes = _class_count("the data set", arrays, names)
    return TrainingData("arrays", arrays, None, names, classes)


def training_arrays(images: Any, labels: Any = None) -> LabelledImages:
    """Images and labels of memory, as arrays to train on.

    Args:
        images: uint8 ``[n, channels, height, width]`` with values 0..255, or floats with values
            0..1 (kept in 255 steps), as an array or a tensor; or a ``torch.utils.data.Dataset``
            of pairs of an image (a tensor, an array or a Pillow image) and a label.
        labels: integers ``[n]``, from 0; None with a data set, which has them.

    Raises:
        DataError: if they are something else, or do not fit each other.
    """
    if labels is None:
        return _from_dataset(images)
    pixels, classes = _array(images), _array(labels)
    if pixels.ndim != 4 or pixels.dtype.kind not in "uf" or len(pixels) == 0:
        raise DataError(
            f"the images are {pixels.dtype} {list(pixels.shape)}, expected uint8 "
            "[n, channels, height, width] with values 0..255, or floats with values 0..1"
        )
    if classes.dtype.kind not in "iu" or classes.shape != pixels.shape[:1]:
        raise DataError(
            f"the labels are {classes.dtype} {list(classes.shape)}, expected integers "
            f"[{len(pixels)}], one for each image"
        )
    if pixels.dtype != np.uint8:
        pixels = np.rint(_scaled_all(pixels) * 255).astype(np.uint8)
    return LabelledImages(pixels, classes.astype(np.int64))


def _scaled_all(images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Images ``[n, c, h, w]`` of any real type as float32 0..1."""
    return np.stack([pixels_of(f"image {index}", image) for index, image in enumerate(images)])


def _array(values: Any) -> npt.NDArray[Any]:
    detached = values.detach().cpu() if hasattr(values, "detach") else values
    return np.asarray(detached)


def _from_dataset(dataset: Any) -> LabelledImages:
    if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")) or not len(dataset):
        raise DataError(
            f"the images have no labels, and {type(dataset).__name__} is no data set of pairs "
            "(image, label): give the labels, too"
        )

    def pairs() -> Iterator[tuple[Any, int]]:
        for index in range(len(dataset)):
            item = dataset[index]
            if not isinstance(item, tuple | list) or len(item) != 2:
                raise DataError(
                    f"item {index} of the data set is {type(item).__name__}, expected a pair "
                    "(image, label)"
                )
            yield item[0], int(item[1])

    images, labels = [], []
    for index, (image, label) in enumerate(pairs()):
        pixels = pixels_of(f"image {index}", _array(image) if hasattr(image, "detach") else image)
        images.append(np.rint(pixels * 255).astype(np.uint8))
        labels.append(label)
    if len({image.shape for image in images}) > 1:
        raise DataError("the images of the data set have several sizes, expected one; resize them")
    return LabelledImages(np.stack(images), np.array(labels, np.int64))

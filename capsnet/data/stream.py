"""Images from image files, folders, NumPy files and data sets, one at a time.

Memory stays bounded however many images there are: one image is decoded at a time, and of a folder
only the names are held. Pillow is imported when the first image file is read.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from capsnet.data.options import ImageOptions
from capsnet.data.parts import known_labels, part_of
from capsnet.data.source import Image, ImageShape, Part, reading
from capsnet.errors import DataError

__all__ = ["Sample", "count_images", "stream_images", "stream_samples"]

Inputs = str | Path | Iterable[str | Path]


class Sample(NamedTuple):
    """One image of a stream: float32 ``[c, h, w]``, and its class where that is known."""

    name: str
    image: Image
    label: int | None


def stream_images(
    inputs: Inputs,
    image_shape: tuple[int, ...],
    on_unreadable: Callable[[str, DataError], None] | None = None,
    options: ImageOptions = ImageOptions(),
    wanted: str = "test",
) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """Read images one at a time, in the order of the inputs.

    A file's kind is recognised by its content:

    - PNG, JPEG, BMP and WebP, named ``3.png``. Pillow converts them to grey or colour as the
      network wants, and turns them upright where their EXIF data says how the camera was held.
      16-bit grey is divided by 65535; of 16-bit colour Pillow keeps the upper 8 bits. An alpha
      channel must be opaque: what lies behind a transparent pixel is not known.
    - NumPy ``.npy`` and ``.npz`` (every member), named ``digits.npy[17]`` and
      ``arrays.npz:name[4]``: arrays ``[h, w]``, ``[c, h, w]``, ``[h, w, c]`` of one image (whose
      number is 0), or ``[n, h, w]``, ``[n, c, h, w]``, ``[n, h, w, c]`` of many. Pickles are never
      loaded.
    - IDX, plain or gzipped, of the same shapes, named ``t10k-images-idx3-ubyte.gz[17]``.

    A folder stands for the image files in it, and in the folders below: in natural order (2 before
    10), without hidden names and without links to folders. It may also hold a data set: IDX files,
    CIFAR in its binary version, SmallNORB, or ``.npy`` files of the usual names (``x_test``,
    ``images``). Of what has both splits, the test split is read, unless the other one is wanted.

    Integers must lie in 0..255 and are divided by 255; floats must lie in 0..1 and stay as they
    are. No image is resized unless the options say so.

    Args:
        inputs: files and folders, or one of them.
        image_shape: channels, height and width that the network takes.
        on_unreadable: called with the name of what cannot be read, and why; it is left out, and
            the next image follows. Of a file that is damaged in the middle, the rest is left out.
            None raises the first such error.
        options: what is changed in the images, and how arrays are called.
        wanted: the split that is read of what has both, ``"train"`` or ``"test"``.

    Yields:
        The image's name, as above and with the path as it was given, and the image: float32
        ``[c, h, w]``, values 0..1, C-contiguous.

    Raises:
        DataError: (while iterating) if an input is missing, empty, truncated, damaged or of an
            unknown kind; or if its images have another shape, type or range; or if the network
            takes no images of three axes.
    """
    for sample in stream_samples(
        inputs, image_shape, on_unreadable, options=options, wanted=wanted
    ):
        yield sample.name, sample.image


def stream_samples(
    inputs: Inputs,
    image_shape: tuple[int, ...],
    on_unreadable: Callable[[str, DataError], None] | None = None,
    *,
    names: Sequence[str] = (),
    classes: int = 0,
    options: ImageOptions = ImageOptions(),
    wanted: str = "test",
) -> Iterator[Sample]:
    """Read images one at a time, as :func:`stream_images`, with their classes where known.

    Args:
        inputs: files and folders, or one of them.
        image_shape: channels, height and width that the network takes.
        on_unreadable: as of :func:`stream_images`.
        names: of the network's classes, where it has names.
        classes: of the network; 0 where nobody asks for labels, which are then not read.
        options: what is changed in the images, and how arrays are called.
        wanted: the split that is read of what has both, ``"train"`` or ``"test"``.

    Yields:
        Name, image and the network's number of its class.

    Raises:
        DataError: (while iterating) as :func:`stream_images`, and if the labels do not fit the
            images.
    """
    shape = _image_shape(image_shape)
    for path in _paths(inputs):
        try:
            part = _opened(path, options, wanted)
            for name, found, label in _found(path, part, shape, names, classes):
                if not isinstance(found, DataError):
                    yield Sample(name, found, label)
                elif on_unreadable is None:
                    raise found
                else:
                    on_unreadable(name, found)
        except DataError as error:
            if on_unreadable is None:
                raise
            on_unreadable(str(path), error)


def count_images(
    inputs: Inputs,
    image_shape: tuple[int, ...],
    *,
    skip_unreadable: bool = False,
    options: ImageOptions = ImageOptions(),
) -> int:
    """Number of images that :func:`stream_images` will read. Reads headers only.

    Args:
        inputs: files and folders, or one of them.
        image_shape: channels, height and width that the network takes. (Without it the count is
            unknown: ``[3, 28, 28]`` is one colour image or three grey ones.)
        skip_unreadable: leave out what cannot be read, where that can be told from its header.
        options: as of :func:`stream_images`.

    Raises:
        DataError: if an input is missing or empty, or its header is damaged or does not fit; this
            finds most mistakes before the first image is read.
    """
    shape, total = _image_shape(image_shape), 0
    for path in _paths(inputs):
        try:
            part = _opened(path, options)
            with reading(str(path)):
                total += sum(source.count for source in part.sources(shape))
        except DataError:
            if not skip_unreadable:
                raise
    return total


def _paths(inputs: Inputs) -> list[Path]:
    return [Path(path) for path in ([inputs] if isinstance(inputs, str | Path) else inputs)]


def _image_shape(shape: tuple[int, ...]) -> ImageShape:
    """The shape of an image, of a network that takes images."""
    if len(shape) != 3:
        raise DataError(
            f"the network takes {list(shape)}, expected [channels, height, width] for images "
            "from files; give arrays to its session"
        )
    channels, height, width = shape
    return channels, height, width


def _opened(path: Path, options: ImageOptions, wanted: str = "test") -> Part:
    with reading(str(path)):
        return part_of(path, options, wanted)


def _found(
    path: Path, part: Part, shape: ImageShape, names: Sequence[str], classes: int
) -> Iterator[tuple[str, Image | DataError, int | None]]:
    """What is found in one input, image by image, and their classes."""
    with reading(str(path)):
        numbers = known_labels(part, names, classes)
        for source in part.sources(shape):
            labels = source.labels() if source.labels is not None and numbers else None
            for index, (name, found) in enumerate(source.images):
                yield name, found, None if labels is None else numbers.get(int(labels[index]))

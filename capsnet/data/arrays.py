"""How images lie in an array, and arrays that are read from front to back, image by image."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from capsnet.data.source import Found, Image, ImageShape, Labels, Source, damaged, reading
from capsnet.errors import DataError

__all__ = [
    "ArrayHeader",
    "Layout",
    "Stream",
    "check_size",
    "find_layout",
    "labels_of",
    "named_images",
    "range_advice",
    "scaled",
    "stored_shape",
    "streamed",
]

_WHITE = np.float32(255)
_LONGEST = 200  # characters of a shape: a file may claim 255 axes
_LAYOUTS = ("hw", "chw", "hwc", "nhw", "nchw", "nhwc")


class Stream(Protocol):
    """What files, gzip files and members of a zip archive have in common."""

    def read(self, size: int = ..., /) -> bytes: ...
    def tell(self) -> int: ...


@dataclass(frozen=True)
class ArrayHeader:
    """What a file says of the array in it."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran_order: bool = False


@dataclass(frozen=True)
class Layout:
    """How the images lie in an array: one after the other, each of ``row_shape``."""

    dtype: np.dtype[Any]
    count: int
    row_shape: ImageShape
    channels_last: bool

    @property
    def row_bytes(self) -> int:
        return math.prod(self.row_shape) * self.dtype.itemsize


def find_layout(name: str, header: ArrayHeader, image_shape: ImageShape) -> Layout:
    """How images of ``image_shape`` lie in an array, or why they do not."""
    channels, height, width = image_shape
    sizes = {"n": "n", "c": channels, "h": height, "w": width}
    layouts = [axes for axes in _LAYOUTS if "c" in axes or channels == 1]
    found = f"{name} holds {header.dtype} {str(list(header.shape))[:_LONGEST]}"
    if header.dtype.kind not in "uif":
        raise DataError(f"{found}; expected integers 0..255 or floats 0..1: convert it")
    fitting = [
        axes
        for axes in layouts
        if len(axes) == len(header.shape)
        and all(a == "n" or sizes[a] == n for a, n in zip(axes, header.shape, strict=True))
    ]
    if not fitting:
        expected = [f"[{', '.join(str(sizes[a]) for a in axes)}]" for axes in layouts]
        raise DataError(
            f"{found}; expected {', '.join(expected[:-1])} or {expected[-1]}: "
            "give only images of the network's size"
        )
    # One channel lies in the same place first and last.
    ends = {channels > 1 and axes.endswith("c") for axes in fitting}
    if len(ends) > 1:
        raise DataError(
            f"{found}, which is ambiguous: the channels may be the first or the last axis of an "
            "image; give image files"
        )
    count = math.prod(header.shape) // math.prod(image_shape)
    if count < 1:
        raise DataError(f"{found}, no image at all; give at least one")
    channels_last = ends.pop()
    row_shape = (height, width, channels) if channels_last else image_shape
    return Layout(header.dtype, count, row_shape, channels_last)


_MOST_CHANNELS = 4  # of images whose shape is not known; an axis that is longer is no channels


def stored_shape(name: str, header: ArrayHeader) -> ImageShape:
    """Channels, height and width of the images in an array, from its own shape alone.

    Arrays of three axes are grey images ``[n, h, w]``; of four, the axis of at most four channels
    is the first or the last one of an image.

    Raises:
        DataError: if the array holds no images, or both ends may be the channels.
    """
    shape = header.shape
    found = f"{name} holds {header.dtype} {str(list(shape))[:_LONGEST]}"
    if len(shape) == 3:
        return 1, shape[1], shape[2]
    if len(shape) != 4:
        raise DataError(f"{found}; expected images [n, h, w], [n, c, h, w] or [n, h, w, c]")
    _, first, middle, last = shape
    ends = [first <= _MOST_CHANNELS, last <= _MOST_CHANNELS]
    if sum(ends) != 1:
        raise DataError(
            f"{found}; expected the channels, at most {_MOST_CHANNELS}, as the first or the last "
            "axis of an image: transpose the array"
        )
    return (first, middle, last) if ends[0] else (last, first, middle)


def labels_of(name: str, values: npt.NDArray[Any], images: int) -> Labels:
    """An array of labels, ``[images]`` or ``[images, 1]``, as int64.

    Raises:
        DataError: if it is not one integer for each image.
    """
    if values.shape not in ((images,), (images, 1)) or values.dtype.kind not in "iu":
        raise DataError(
            f"{name}: the labels must be integers [{images}], one for each image, got "
            f"{values.dtype} {str(list(values.shape))[:_LONGEST]}"
        )
    return values.reshape(images).astype(np.int64)


def check_size(name: str, offset: int, layout: Layout, size: int) -> None:
    """Raise DataError where a file of ``size`` bytes does not end with its array."""
    expected = offset + layout.count * layout.row_bytes
    if size != expected:
        raise damaged(name, f"it holds {size} bytes, its header asks for {expected}")


def streamed(
    name: str,
    open_stream: Callable[[], AbstractContextManager[Stream]],
    read_header: Callable[[Stream, str], ArrayHeader],
    size: int | None,
    image_shape: ImageShape,
) -> Source:
    """An array that is read from front to back; ``size`` is that of the stream, where known."""
    with open_stream() as stream:
        header = read_header(stream, name)
        offset = stream.tell()
    layout = find_layout(name, header, image_shape)
    if header.fortran_order:
        raise DataError(
            f"{name} is stored in Fortran order, one pixel of every image after the other; "
            "apply numpy.ascontiguousarray before saving it"
        )
    if size is not None:
        check_size(name, offset, layout, size)
    rows = _streamed_rows(name, open_stream, offset, layout)
    return Source(layout.count, named_images(name, layout, rows))


def _streamed_rows(
    name: str,
    open_stream: Callable[[], AbstractContextManager[Stream]],
    offset: int,
    layout: Layout,
) -> Iterator[npt.NDArray[Any]]:
    with open_stream() as stream:
        stream.read(offset)
        for index in range(layout.count):
            row = stream.read(layout.row_bytes)
            if len(row) < layout.row_bytes:
                raise damaged(name, f"it ends after {index} of {layout.count} images")
            yield np.frombuffer(row, layout.dtype).reshape(layout.row_shape)
        if stream.read(1):  # also makes gzip compare its checksum
            raise damaged(name, f"it goes on after the last of {layout.count} images")


def named_images(name: str, layout: Layout, rows: Iterator[npt.NDArray[Any]]) -> Iterator[Found]:
    """Images float32 0..1 with their names ``name[index]``, from the rows of an array."""
    with reading(name):
        for index, row in enumerate(rows):
            source = f"{name}[{index}]"
            pixels = row.transpose(2, 0, 1) if layout.channels_last else row
            found: Image | DataError
            try:
                found = scaled(source, pixels)
            except DataError as error:
                found = error
            yield source, found


def scaled(name: str, pixels: npt.NDArray[Any]) -> Image:
    """Pixels of any real type as float32 0..1, in a C-contiguous array of their own."""
    values = pixels.astype(np.float32, order="C")
    if pixels.dtype == np.uint8:
        return values / _WHITE
    low, high = pixels.min(), pixels.max()
    if pixels.dtype.kind != "f":
        if low < 0 or high > 255:
            raise DataError(
                f"{name} has integers from {low} to {high}, expected 0..255; "
                "scale the images to uint8 0..255 or to floats 0..1"
            )
        return values / _WHITE
    if not np.isfinite(pixels).all():
        raise DataError(
            f"{name} holds NaN or infinity (range {low:g} to {high:g}), expected 0..1; repair it"
        )
    if low < 0 or high > 1:
        raise DataError(
            f"{name} has values from {low:g} to {high:g}, expected 0..1; {range_advice(low, high)}"
        )
    return values


def range_advice(low: float, high: float) -> str:
    """The likely cause of values outside 0..1, and what to do."""
    if low < 0:
        return (
            "they look normalised (a mean was subtracted): leave the normalisation out, or undo it "
            "(x * std + mean)"
        )
    if high <= 255:
        return "they look like 0..255: divide by 255, or save them as uint8"
    return "scale the images as the training images were"

"""Images from PNG and JPEG files, folders, NumPy files and IDX files, one at a time.

Memory stays bounded however many images there are: one image is decoded at a time, and of a folder
only the names are held. Pillow is imported when the first PNG or JPEG is read.
"""

import contextlib
import functools
import gzip
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from capsnet.errors import DataError

__all__ = ["count_images", "stream_images"]

_ImageShape = tuple[int, int, int]
_Image = npt.NDArray[np.float32]

_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
_IMAGE_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
_NPY_MAGIC, _GZIP_MAGIC, _IDX_MAGIC = b"\x93NUMPY", b"\x1f\x8b", b"\0\0"
_ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")  # the second: an archive without members

_IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_WHITE = np.float32(255)
_LAYOUTS = ("hw", "chw", "hwc", "nhw", "nchw", "nhwc")

# What zipfile, gzip, numpy and Pillow raise for a file that is damaged.
_DAMAGE = (
    EOFError,
    RuntimeError,
    SyntaxError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


def stream_images(
    inputs: Sequence[Path], image_shape: tuple[int, int, int]
) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """Read images one at a time, in the order of the inputs.

    A file's kind is recognised by its content:

    - PNG and JPEG, named ``3.png``. Pillow converts them to grey or colour as the network wants.
      16-bit grey is divided by 65535; of 16-bit colour Pillow keeps the upper 8 bits. An alpha
      channel must be opaque: what lies behind a transparent pixel is not known.
    - NumPy ``.npy`` and ``.npz`` (every member), named ``digits.npy[17]`` and
      ``arrays.npz:name[4]``: arrays ``[h, w]``, ``[c, h, w]``, ``[h, w, c]`` of one image (whose
      number is 0), or ``[n, h, w]``, ``[n, c, h, w]``, ``[n, h, w, c]`` of many. Pickles are never
      loaded.
    - IDX, plain or gzipped, of the same shapes, named ``t10k-images-idx3-ubyte.gz[17]``.

    A folder stands for the files in it, and in the folders below, that are called ``.png``,
    ``.jpg`` or ``.jpeg``: in natural order (2 before 10), without hidden names and without links to
    folders.

    Integers must lie in 0..255 and are divided by 255; floats must lie in 0..1 and stay as they
    are. No image is ever resized.

    Args:
        inputs: files and folders.
        image_shape: channels, height and width that the network takes.

    Yields:
        The image's name, as above and with the path as it was given, and the image: float32
        ``[c, h, w]``, values 0..1, C-contiguous.

    Raises:
        DataError: (while iterating) if an input is missing, empty, truncated, damaged or of an
            unknown kind; if its images have another shape, type or range; or if Pillow is needed
            and not installed.
    """
    for path in inputs:
        for source in _sources(path, image_shape):
            yield from source.images


def count_images(inputs: Sequence[Path], image_shape: tuple[int, int, int]) -> int:
    """Number of images that :func:`stream_images` will read. Reads headers only.

    Args:
        inputs: files and folders.
        image_shape: channels, height and width that the network takes. (Without it the count is
            unknown: ``[3, 28, 28]`` is one colour image or three grey ones.)

    Raises:
        DataError: if an input is missing or empty, or its header is damaged or does not fit; this
            finds most mistakes before the first image is read.
    """
    return sum(source.count for path in inputs for source in _sources(path, image_shape))


class _Stream(Protocol):
    """What files, gzip files and members of a zip archive have in common."""

    def read(self, size: int = ..., /) -> bytes: ...
    def tell(self) -> int: ...


@dataclass(frozen=True)
class _Source:
    """Images of one name: how many, and an iterator that opens nothing before it is advanced."""

    count: int
    images: Iterator[tuple[str, _Image]]


@dataclass(frozen=True)
class _ArrayHeader:
    """What a file says of the array in it."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran_order: bool = False


@dataclass(frozen=True)
class _Layout:
    """How the images lie in an array: one after the other, each of ``row_shape``."""

    dtype: np.dtype[Any]
    count: int
    row_shape: _ImageShape
    channels_last: bool

    @property
    def row_bytes(self) -> int:
        return math.prod(self.row_shape) * self.dtype.itemsize


def _sources(path: Path, image_shape: _ImageShape) -> Iterator[_Source]:
    """The sources of one input; each is valid until the next one is asked for."""
    name = str(path)
    with _reading(name):
        if path.is_dir():
            yield from _folder(path, image_shape)
            return
        if not path.is_file():
            raise DataError(f"cannot read {name}: there is no such file or folder; check the path")
        with path.open("rb") as file:
            head = file.read(8)
        if head.startswith(_IMAGE_MAGIC):
            yield _image_file(path, image_shape)
        elif head.startswith(_NPY_MAGIC):
            yield _npy(path, image_shape)
        elif head.startswith(_ZIP_MAGIC):
            yield from _npz(path, image_shape)
        elif head.startswith(_GZIP_MAGIC):
            yield _streamed(
                name, functools.partial(gzip.GzipFile, path), _read_idx_header, None, image_shape
            )
        elif head.startswith(_IDX_MAGIC):
            size = path.stat().st_size
            yield _streamed(name, lambda: path.open("rb"), _read_idx_header, size, image_shape)
        else:
            found = f"it starts with the bytes {head.hex(' ')}" if head else "it is empty"
            raise DataError(
                f"cannot read {name}: {found}; "
                "expected a PNG or JPEG image, a NumPy .npy or .npz file, or an IDX file"
            )


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    """Make whatever a missing or damaged file raises one error that names it."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # not the system's: Pillow and gzip report damage this way
            raise _damaged(name, str(error)) from error
        raise DataError(
            f"cannot read {error.filename or name}: {error.strerror}; "
            "check the path and its permissions"
        ) from error
    except _DAMAGE as error:
        raise _damaged(name, str(error)) from error


def _damaged(name: str, reason: str) -> DataError:
    return DataError(
        f"cannot read {name}: truncated, damaged, or not of its kind ({reason}); "
        "copy or create the file again"
    )


# Folders, PNG, JPEG


def _folder(folder: Path, image_shape: _ImageShape) -> Iterator[_Source]:
    empty = True
    for path in _files_below(folder):
        empty = False
        yield _image_file(path, image_shape)
    if empty:
        raise DataError(
            f"the folder {folder} holds no images: expected {', '.join(_IMAGE_SUFFIXES)} files in "
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
        elif path.suffix.lower() in _IMAGE_SUFFIXES:
            yield path


def _natural(name: str) -> tuple[list[str | int], str]:
    """Sort key: numbers by value, text without regard to case."""
    parts = re.split("([0-9]+)", name.casefold())  # text and numbers in turn, text first
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def _image_file(path: Path, image_shape: _ImageShape) -> _Source:
    def images() -> Iterator[tuple[str, _Image]]:
        yield str(path), _decoded(path, image_shape)

    return _Source(1, images())


def _decoded(path: Path, image_shape: _ImageShape) -> _Image:
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError(
            f"cannot read {path}: PNG and JPEG images need Pillow, which is not installed; "
            'run `pip install "capsnet-export[images]"`'
        ) from error
    channels, height, width = image_shape
    if channels not in (1, 3):
        raise DataError(
            f"cannot read {path}: the network takes {channels} channels, and a PNG or JPEG image "
            "is grey (1) or colour (3); give the images as an array (.npy)"
        )
    try:
        with _reading(str(path)), Image.open(path, formats=("PNG", "JPEG")) as image:
            if image.size != (width, height):
                raise DataError(
                    f"{path} is {image.height}x{image.width} pixels (height x width), the network "
                    f"takes {height}x{width}; resize it the way the training images were"
                )
            rgba = image.convert("RGBA")
            if rgba.getchannel("A").getextrema() != (255, 255):
                raise DataError(
                    f"{path} is transparent in places, and the network sees no transparency; "
                    "flatten it onto the background of the training images"
                )
            if image.mode == "I;16":  # Pillow's own conversion would clip at 255
                grey = np.asarray(image, np.float32)[None] / np.float32(65535)
                return np.repeat(grey, channels, axis=0)
            pixels = np.asarray(rgba.convert("L" if channels == 1 else "RGB"))
    except Image.DecompressionBombError as error:
        raise DataError(f"{path} is far larger than {height}x{width} pixels: {error}") from error
    return _scaled(str(path), pixels.reshape(height, width, channels).transpose(2, 0, 1))


# Arrays


def _npy(path: Path, image_shape: _ImageShape) -> _Source:
    name = str(path)
    with path.open("rb") as file:
        layout = _layout(name, _read_npy_header(file, name), image_shape)
        _check_size(name, file.tell(), layout, path.stat().st_size)
    return _Source(layout.count, _images(name, layout, _mapped_rows(path, layout)))


def _npz(path: Path, image_shape: _ImageShape) -> Iterator[_Source]:
    with zipfile.ZipFile(path) as archive:
        members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
        if not members:
            raise DataError(
                f"{path} is a zip archive without arrays: expected what numpy.savez writes; "
                "unpack an archive of image files and give the folder"
            )
        for info in members:
            name = f"{path}:{info.filename.removesuffix('.npy')}"
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise DataError(
                    f"{name} is not compressed the way NumPy does it; "
                    "write the file with numpy.savez_compressed"
                )
            open_member = functools.partial(archive.open, info)
            yield _streamed(name, open_member, _read_npy_header, info.file_size, image_shape)


def _streamed(
    name: str,
    open_stream: Callable[[], AbstractContextManager[_Stream]],
    read_header: Callable[[_Stream, str], _ArrayHeader],
    size: int | None,
    image_shape: _ImageShape,
) -> _Source:
    """An array that is read from front to back; ``size`` is that of the stream, where known."""
    with open_stream() as stream:
        header = read_header(stream, name)
        offset = stream.tell()
    layout = _layout(name, header, image_shape)
    if header.fortran_order:
        raise DataError(
            f"{name} is stored in Fortran order, one pixel of every image after the other; "
            "apply numpy.ascontiguousarray before saving it"
        )
    if size is not None:
        _check_size(name, offset, layout, size)
    rows = _streamed_rows(name, open_stream, offset, layout)
    return _Source(layout.count, _images(name, layout, rows))


def _read_npy_header(stream: _Stream, name: str) -> _ArrayHeader:
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    try:
        # Other versions hold records, which are no images.
        shape, fortran_order, dtype = readers[np.lib.format.read_magic(stream)](stream)
    except Exception as error:  # numpy parses it as Python source: damage raises almost anything
        raise _damaged(name, f"no valid header of a NumPy array: {error}") from error
    return _ArrayHeader(dtype, shape, fortran_order)


def _read_idx_header(stream: _Stream, name: str) -> _ArrayHeader:
    magic = stream.read(4)
    if len(magic) < 4 or not magic.startswith(_IDX_MAGIC) or magic[2] not in _IDX_DTYPES:
        raise DataError(
            f"{name} is not an IDX file: its header is {magic.hex(' ')!r}; "
            "expected images as MNIST and Fashion-MNIST have them"
        )
    rank = magic[3]
    sizes = stream.read(4 * rank)
    if len(sizes) < 4 * rank:
        raise _damaged(name, "it ends inside its header")
    return _ArrayHeader(np.dtype(_IDX_DTYPES[magic[2]]), struct.unpack(f">{rank}I", sizes))


def _layout(name: str, header: _ArrayHeader, image_shape: _ImageShape) -> _Layout:
    """How images of ``image_shape`` lie in an array, or why they do not."""
    channels, height, width = image_shape
    sizes = {"n": "n", "c": channels, "h": height, "w": width}
    layouts = [axes for axes in _LAYOUTS if "c" in axes or channels == 1]
    found = f"{name} holds {header.dtype} {list(header.shape)}"
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
    return _Layout(header.dtype, count, row_shape, channels_last)


def _check_size(name: str, offset: int, layout: _Layout, size: int) -> None:
    expected = offset + layout.count * layout.row_bytes
    if size != expected:
        raise _damaged(name, f"it holds {size} bytes, its header asks for {expected}")


def _mapped_rows(path: Path, layout: _Layout) -> Iterator[npt.NDArray[Any]]:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    yield from array.reshape(layout.count, *layout.row_shape)


def _streamed_rows(
    name: str,
    open_stream: Callable[[], AbstractContextManager[_Stream]],
    offset: int,
    layout: _Layout,
) -> Iterator[npt.NDArray[Any]]:
    with open_stream() as stream:
        stream.read(offset)
        for index in range(layout.count):
            row = stream.read(layout.row_bytes)
            if len(row) < layout.row_bytes:
                raise _damaged(name, f"it ends after {index} of {layout.count} images")
            yield np.frombuffer(row, layout.dtype).reshape(layout.row_shape)
        if stream.read(1):  # also makes gzip compare its checksum
            raise _damaged(name, f"it goes on after the last of {layout.count} images")


def _images(
    name: str, layout: _Layout, rows: Iterator[npt.NDArray[Any]]
) -> Iterator[tuple[str, _Image]]:
    with _reading(name):
        for index, row in enumerate(rows):
            source = f"{name}[{index}]"
            yield source, _scaled(source, row.transpose(2, 0, 1) if layout.channels_last else row)


def _scaled(name: str, pixels: npt.NDArray[Any]) -> _Image:
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
            f"{name} has values from {low:g} to {high:g}, expected 0..1; scale the images as the "
            "training images were (0..255: divide by 255, or save them as uint8)"
        )
    return values

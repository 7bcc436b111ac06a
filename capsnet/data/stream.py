"""Images from PNG and JPEG files, folders, NumPy files and IDX files, one at a time.

Memory stays bounded however many images there are: one image is decoded at a time, and of a folder
only the names are held. Pillow is imported when the first PNG or JPEG is read.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from capsnet.data.idx import GZIP_MAGIC, IDX_MAGIC, idx_images
from capsnet.data.images import IMAGE_MAGIC, folder_images, image_file
from capsnet.data.numpy_files import NPY_MAGIC, ZIP_MAGIC, npy, npz
from capsnet.data.source import Found, Source, reading
from capsnet.errors import DataError
from capsnet.files import open_regular

__all__ = ["count_images", "stream_images"]

Inputs = str | Path | Iterable[str | Path]


def stream_images(
    inputs: Inputs,
    image_shape: tuple[int, ...],
    on_unreadable: Callable[[str, DataError], None] | None = None,
) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """Read images one at a time, in the order of the inputs.

    A file's kind is recognised by its content:

    - PNG and JPEG, named ``3.png``. Pillow converts them to grey or colour as the network wants,
      and turns them upright where their EXIF data says how the camera was held.
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
        inputs: files and folders, or one of them.
        image_shape: channels, height and width that the network takes.
        on_unreadable: called with the name of what cannot be read, and why; it is left out, and
            the next image follows. Of a file that is damaged in the middle, the rest is left out.
            None raises the first such error.

    Yields:
        The image's name, as above and with the path as it was given, and the image: float32
        ``[c, h, w]``, values 0..1, C-contiguous.

    Raises:
        DataError: (while iterating) if an input is missing, empty, truncated, damaged or of an
            unknown kind; or if its images have another shape, type or range; or if the network
            takes no images of three axes.
    """
    for path in _paths(inputs, image_shape):
        try:
            for name, found in _found(path, image_shape):
                if not isinstance(found, DataError):
                    yield name, found
                elif on_unreadable is None:
                    raise found
                else:
                    on_unreadable(name, found)
        except DataError as error:
            if on_unreadable is None:
                raise
            on_unreadable(str(path), error)


def count_images(
    inputs: Inputs, image_shape: tuple[int, ...], *, skip_unreadable: bool = False
) -> int:
    """Number of images that :func:`stream_images` will read. Reads headers only.

    Args:
        inputs: files and folders, or one of them.
        image_shape: channels, height and width that the network takes. (Without it the count is
            unknown: ``[3, 28, 28]`` is one colour image or three grey ones.)
        skip_unreadable: leave out what cannot be read, where that can be told from its header.

    Raises:
        DataError: if an input is missing or empty, or its header is damaged or does not fit; this
            finds most mistakes before the first image is read.
    """
    total = 0
    for path in _paths(inputs, image_shape):
        try:
            total += sum(source.count for source in _sources_in(path, image_shape))
        except DataError:
            if not skip_unreadable:
                raise
    return total


def _paths(inputs: Inputs, image_shape: tuple[int, ...]) -> list[Path]:
    """The inputs, for a network that takes images."""
    if len(image_shape) != 3:
        raise DataError(
            f"the network takes {list(image_shape)}, expected [channels, height, width] for images "
            "from files; give arrays to its session"
        )
    return [Path(path) for path in ([inputs] if isinstance(inputs, str | Path) else inputs)]


def _found(path: Path, image_shape: tuple[int, ...]) -> Iterator[Found]:
    """What is found in one input, image by image."""
    for source in _sources_in(path, image_shape):
        yield from source.images


def _sources_in(path: Path, shape: tuple[int, ...]) -> Iterator[Source]:
    """The sources of one input; each is valid until the next one is asked for."""
    channels, height, width = shape
    image_shape = (channels, height, width)
    name = str(path)
    with reading(name):
        if path.is_dir():
            yield from folder_images(path, image_shape)
            return
        if not path.exists():
            raise DataError(f"cannot read {name}: there is no such file or folder; check the path")
        with open_regular(path) as file:
            head = file.read(8)
        if head.startswith(IMAGE_MAGIC):
            yield image_file(path, image_shape)
        elif head.startswith(NPY_MAGIC):
            yield npy(path, image_shape)
        elif head.startswith(ZIP_MAGIC):
            yield from npz(path, image_shape)
        elif head.startswith((GZIP_MAGIC, IDX_MAGIC)):
            yield idx_images(path, image_shape)
        else:
            found = f"it starts with the bytes {head.hex(' ')}" if head else "it is empty"
            raise DataError(
                f"cannot read {name}: {found}; "
                "expected a PNG or JPEG image, a NumPy .npy or .npz file, or an IDX file"
            )

"""The images that artifacts are compared on, and their labels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from capsnet.bundled import BUNDLED
from capsnet.config import CapsNetConfig
from capsnet.data.batch import Batch
from capsnet.data.idx import load_split, mnist_test_set, require_mnist_shape
from capsnet.data.numpy_files import read_npy, read_npz
from capsnet.data.stream import count_images, stream_images
from capsnet.errors import DataError
from capsnet.files import file_sha256
from capsnet.runtime.proof.collect import spread
from capsnet.runtime.proof.request import Request

__all__ = ["ProofImages", "load_images", "load_inputs"]

Labels = npt.NDArray[np.int64]

_MOST_BYTES = 2**33  # of a file's arrays, which may be compressed


class ProofImages(NamedTuple):
    """Images to compare artifacts on.

    Attributes:
        source: where they are from, in words.
        images: float32 ``[n, channels, height, width]``, values 0..1, or the rows of other inputs.
        labels: the true classes int64 ``[n]``; None where they are not known.
        total: how many images the source holds, of which these are spread evenly.
    """

    source: str
    images: Any
    labels: Labels | None
    total: int


def load_images(request: Request, config: CapsNetConfig, checkpoint_sha256: str) -> ProofImages:
    """The images that a request asks for.

    Args:
        request: names a source, or leaves it to the bundled images.
        config: of the network; the images must fit it.
        checkpoint_sha256: labels of the bundled images mean something only to the bundled model.

    Raises:
        DataError: if there are no images, or they or their labels do not fit.
    """
    labels: Labels | None
    if request.images is None:
        source, pixels, labels = "MNIST test set", *_bundled(config, checkpoint_sha256)
    elif request.images.is_dir() and any(request.images.glob("t10k-images-idx3-ubyte*")):
        source = f"{request.images.name}: t10k split"
        pixels, labels = load_split(request.images, "t10k")
    else:
        return _streamed(request.images, request, config)
    if pixels.shape[1:] != config.image_shape:
        raise DataError(
            f"{source}: the images are {list(pixels.shape[1:])}, "
            f"the network takes {list(config.image_shape)}"
        )
    if request.labels is not None:
        labels = _read_labels(request.labels, len(pixels))
    chosen = spread(len(pixels), request.samples)
    images = pixels[chosen].astype(np.float32) / np.float32(255)
    known = None if labels is None else labels[chosen]
    return ProofImages(source, images, known, len(pixels))


def load_inputs(request: Request, names: Sequence[str]) -> ProofImages:
    """The inputs of a user's own network that a request asks for.

    Args:
        request: names a file: ``.npz`` with an array for each input, ``.npy`` for the only one, or
            a folder of labelled IDX files.
        names: of the inputs.

    Returns:
        Their rows, a :class:`capsnet.data.batch.Batch`.

    Raises:
        DataError: if there is no such file, or its arrays do not fit.
    """
    path = request.images
    if path is None:
        raise DataError(
            "a network of your own is proven on your own data: give --images FILE, an .npz file "
            f"with the arrays {', '.join(names)}, or an .npy file"
        )
    labels: Labels | None = None
    if path.is_dir() and any(path.glob("t10k-images-idx3-ubyte*")):
        pixels, labels = load_split(path, "t10k")
        arrays = {"image": pixels.astype(np.float32) / np.float32(255)}
    elif path.suffix == ".npz":
        arrays = read_npz(path, _MOST_BYTES)
    else:
        arrays = {names[0]: read_npy(path)}
    if len(names) == 1 and len(arrays) == 1:
        arrays = {names[0]: next(iter(arrays.values()))}
    if set(arrays) != set(names):
        raise DataError(
            f"{path} holds {', '.join(arrays)}, the network takes {', '.join(names)}: give an "
            "array of each, under its name"
        )
    counts = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    total = min(counts.values())
    if total == 0 or len(set(counts.values())) > 1:
        raise DataError(f"{path} holds arrays of {counts} rows, expected equally many of each")
    if request.labels is not None:
        labels = _read_labels(request.labels, total)
    chosen = spread(total, request.samples)
    rows = Batch({name: _floats(path, name, arrays[name][chosen]) for name in names})
    return ProofImages(path.name, rows, None if labels is None else labels[chosen], total)


def _floats(path: Path, name: str, array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """An input in float32; pixels of 0..255 become 0..1."""
    if array.dtype == np.uint8:
        return array.astype(np.float32) / np.float32(255)
    if array.dtype.kind != "f":
        raise DataError(
            f"{path}: {name} is {array.dtype}, expected floating-point numbers, or uint8 for "
            "pixels of 0..255"
        )
    found: npt.NDArray[np.float32] = array.astype(np.float32)
    if not np.isfinite(found).all():
        raise DataError(f"{path}: {name} holds NaN or infinity in float32; leave such rows out")
    return found


def _bundled(
    config: CapsNetConfig, checkpoint_sha256: str
) -> tuple[npt.NDArray[np.uint8], Labels | None]:
    require_mnist_shape(config.image_shape, "do not fit it: give images with --images")
    pixels, labels = mnist_test_set()
    known = checkpoint_sha256 in map(file_sha256, BUNDLED.values())
    return pixels, labels if known else None


def _streamed(path: Path, request: Request, config: CapsNetConfig) -> ProofImages:
    total = count_images([path], config.image_shape)
    if total == 0:
        raise DataError(f"{path} holds no images; give at least one")
    labels = None if request.labels is None else _read_labels(request.labels, total)
    chosen = spread(total, request.samples)
    wanted = set(chosen.tolist())
    stream = enumerate(stream_images([path], config.image_shape))
    images = np.stack([image for n, (_, image) in stream if n in wanted])
    known = None if labels is None else labels[chosen]
    return ProofImages(path.name, images, known, total)


def _read_labels(path: Path, images: int) -> Labels:
    labels = read_npy(path)
    if labels.shape != (images,) or labels.dtype.kind not in "iu":
        raise DataError(
            f"{path}: the labels must be integers [{images}], one for each image, got "
            f"{labels.dtype} {list(labels.shape)}"
        )
    classes: Labels = labels.astype(np.int64)
    return classes

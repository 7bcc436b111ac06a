"""The images that artifacts are compared on, and their labels."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from capsnet.bundled import BUNDLED
from capsnet.config import CapsNetConfig
from capsnet.data.idx import load_split, mnist_test_set, require_mnist_shape
from capsnet.data.numpy_files import read_npy
from capsnet.data.stream import count_images, stream_images
from capsnet.errors import DataError
from capsnet.files import file_sha256
from capsnet.runtime.proof.collect import spread
from capsnet.runtime.proof.request import Request

__all__ = ["ProofImages", "load_images"]

Labels = npt.NDArray[np.int64]


class ProofImages(NamedTuple):
    """Images to compare artifacts on.

    Attributes:
        source: where they are from, in words.
        images: float32 ``[n, channels, height, width]``, values 0..1.
        labels: the true classes int64 ``[n]``; None where they are not known.
        total: how many images the source holds, of which these are spread evenly.
    """

    source: str
    images: npt.NDArray[np.float32]
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

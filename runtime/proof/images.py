"""The images that artifacts are compared on, and their labels."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from capsnet.about import About
from capsnet.bundled import BUNDLED
from capsnet.config import CapsNetConfig
from capsnet.data.arrays import labels_of
from capsnet.data.idx import mnist_test_set, require_mnist_shape
from capsnet.data.numpy_files import read_npy
from capsnet.data.parts import part_of
from capsnet.data.source import Labels
from capsnet.data.stream import count_images, stream_samples
from capsnet.errors import DataError
from capsnet.files import file_sha256
from capsnet.runtime.guard import mnist_is_foreign, unlike
from capsnet.runtime.proof.collect import spread
from capsnet.runtime.proof.request import Request

__all__ = ["ProofImages", "load_images"]


class ProofImages(NamedTuple):
    """Images to compare artifacts on.

    Attributes:
        source: where they are from, in words.
        images: float32 ``[n, channels, height, width]``, values 0..1.
        labels: the true classes int64 ``[n]``; None where they are not known.
        warnings: why the numbers may not be those of the images that the network is for.
    """

    source: str
    images: npt.NDArray[np.float32]
    labels: Labels | None
    warnings: tuple[str, ...] = ()


def load_images(
    request: Request, config: CapsNetConfig, checkpoint_sha256: str, about: About = About()
) -> ProofImages:
    """The images that a request asks for.

    Args:
        request: names a source, or leaves it to the bundled images.
        config: of the network; the images must fit it.
        checkpoint_sha256: labels of the bundled images mean something only to the bundled model.
        about: what is known of the network's classes and training images.

    Raises:
        DataError: if there are no images, or they or their labels do not fit.
    """
    if request.images is not None:
        given = _given(request.images, request, config, about.class_names)
        inputs = about.training_inputs
        odd = None if inputs is None else unlike(inputs, given.images)
        return given if odd is None else given._replace(warnings=(odd,))
    pixels, labels = _bundled(config, checkpoint_sha256)
    if request.labels is not None:
        labels = _read_labels(request.labels, len(pixels))
    chosen = spread(len(pixels), request.samples)
    images = pixels[chosen].astype(np.float32) / np.float32(255)
    chosen_labels = None if labels is None else labels[chosen]
    problem = mnist_is_foreign(about)
    warnings = () if problem is None else (f"the numbers were checked on MNIST digits, {problem}",)
    return ProofImages("MNIST test set", images, chosen_labels, warnings)


def _bundled(
    config: CapsNetConfig, checkpoint_sha256: str
) -> tuple[npt.NDArray[np.uint8], Labels | None]:
    require_mnist_shape(config.image_shape, "do not fit it: give images with --images")
    pixels, labels = mnist_test_set()
    known = checkpoint_sha256 in map(file_sha256, BUNDLED.values())
    return pixels, labels if known else None


def _given(
    path: Path, request: Request, config: CapsNetConfig, names: Sequence[str]
) -> ProofImages:
    options = request.reading
    total = count_images([path], config.image_shape, options=options)
    if total == 0:
        raise DataError(f"{path} holds no images; give at least one")
    given = None if request.labels is None else _read_labels(request.labels, total)
    chosen = spread(total, request.samples)
    wanted = set(chosen.tolist())
    # Labels that are given need none of the images' own, which may not even fit.
    classes = 0 if request.labels is not None else config.classes
    stream = stream_samples(
        [path], config.image_shape, names=names, classes=classes, options=options
    )
    samples = [sample for number, sample in enumerate(stream) if number in wanted]
    found = [sample.label for sample in samples if sample.label is not None]
    own = np.array(found, np.int64) if len(found) == len(samples) else None
    return ProofImages(
        part_of(path, options).name,
        np.stack([sample.image for sample in samples]),
        own if given is None else given[chosen],
    )


def _read_labels(path: Path, images: int) -> Labels:
    return labels_of(str(path), read_npy(path), images)

"""The images that artifacts are compared on, and their labels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from capsnet.about import About
from capsnet.bundled import BUNDLED
from capsnet.config import CapsNetConfig
from capsnet.data.arrays import labels_of
from capsnet.data.batch import Array, Batch, Rows
from capsnet.data.idx import mnist_test_set, require_mnist_shape
from capsnet.data.numpy_files import read_npy, read_npz
from capsnet.data.parts import part_of
from capsnet.data.source import ImageShape, Labels
from capsnet.data.stream import count_images, stream_samples
from capsnet.errors import DataError
from capsnet.files import file_sha256
from capsnet.runtime.guard import mnist_is_foreign, unlike
from capsnet.runtime.proof.collect import spread
from capsnet.runtime.proof.request import Request

__all__ = ["ProofImages", "load_images", "load_inputs"]

_MOST_BYTES = 2**33  # of a file's arrays, which may be compressed
_MOST_CLASSES = 2**16  # of labels that say no number of classes


Kind = TypeVar("Kind", bound=Rows, covariant=True)


class ProofImages(NamedTuple, Generic[Kind]):
    """Images to compare artifacts on.

    Attributes:
        source: where they are from, in words.
        images: float32 ``[n, channels, height, width]``, values 0..1, or the rows of other inputs.
        labels: the true classes int64 ``[n]``; None where they are not known.
        total: how many images the source holds, of which these are spread evenly.
        warnings: why the numbers may not be those of the images that the network is for.
    """

    source: str
    images: Kind
    labels: Labels | None
    total: int
    warnings: tuple[str, ...] = ()


def load_images(
    request: Request, config: CapsNetConfig, checkpoint_sha256: str, about: About = About()
) -> ProofImages[Array]:
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
        names = about.class_names
        given = _given(request.images, request, config.image_shape, names, config.classes)
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
    return ProofImages("MNIST test set", images, chosen_labels, len(pixels), warnings)


def load_inputs(request: Request, names: Sequence[str]) -> ProofImages[Batch]:
    """The inputs of a user's own network that a request asks for.

    Args:
        request: names a file: ``.npz`` with an array for each input, ``.npy`` for the only one, or
            images, as for other networks.
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
    if path.suffix == ".npz":
        arrays = read_npz(path, _MOST_BYTES)
    elif path.suffix == ".npy":
        arrays = {names[0]: read_npy(path)}
    else:
        return _pictures(path, request, names)
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
    labels = None if request.labels is None else _read_labels(request.labels, total)
    chosen = spread(total, request.samples)
    rows = Batch({name: _floats(path, name, arrays[name][chosen]) for name in names})
    return ProofImages(path.name, rows, None if labels is None else labels[chosen], total)


def _pictures(path: Path, request: Request, names: Sequence[str]) -> ProofImages[Batch]:
    """Images for the only input of a network, in the shape that they have."""
    if len(names) > 1:
        raise DataError(
            f"{path} holds images alone, the network takes {', '.join(names)}: give an .npz file "
            "with an array of each, under its name"
        )
    part = part_of(path, request.reading)
    classes = part.classes or ()
    given = _given(path, request, part.shape(), classes, len(classes) or _MOST_CLASSES)
    rows = Batch({names[0]: given.images})
    return ProofImages(given.source, rows, given.labels, given.total)


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


def _given(
    path: Path, request: Request, shape: ImageShape, names: Sequence[str], classes: int
) -> ProofImages[Array]:
    options = request.reading
    total = count_images([path], shape, options=options)
    if total == 0:
        raise DataError(f"{path} holds no images; give at least one")
    given = None if request.labels is None else _read_labels(request.labels, total)
    chosen = spread(total, request.samples)
    wanted = set(chosen.tolist())
    # Labels that are given need none of the images' own, which may not even fit.
    known = 0 if request.labels is not None else classes
    stream = stream_samples([path], shape, names=names, classes=known, options=options)
    samples = [sample for number, sample in enumerate(stream) if number in wanted]
    found = [sample.label for sample in samples if sample.label is not None]
    own = np.array(found, np.int64) if len(found) == len(samples) else None
    return ProofImages(
        part_of(path, options).name,
        np.stack([sample.image for sample in samples]),
        own if given is None else given[chosen],
        total,
    )


def _read_labels(path: Path, images: int) -> Labels:
    return labels_of(str(path), read_npy(path), images)

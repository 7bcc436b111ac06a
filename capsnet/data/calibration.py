"""The images that a precision is calibrated with."""

import itertools
from pathlib import Path

import numpy as np
import numpy.typing as npt

from capsnet.data.idx import mnist_calibration_images, require_mnist_shape
from capsnet.data.options import ImageOptions
from capsnet.data.stream import stream_images

__all__ = ["calibration_images"]

_MOST = 1024  # ranges hardly change with more


def calibration_images(
    given: npt.ArrayLike | str | Path | None,
    image_shape: tuple[int, int, int],
    options: ImageOptions = ImageOptions(),
) -> npt.NDArray[np.float32]:
    """Images to calibrate with.

    Args:
        given: training images float32 ``[n, channels, height, width]``, or a file or folder of
            them; None for 256 of MNIST.
        image_shape: what the network takes.
        options: how a file or folder is read; of a data set, the training split is.

    Returns:
        float32 ``[n, channels, height, width]``, values 0..1; at most 1024 of a file or folder.

    Raises:
        DataError: if the images cannot be read, or none are given to a network that does not take
            those of MNIST.
    """
    if isinstance(given, str | Path):
        stream = stream_images([given], image_shape, options=options, wanted="train")
        chosen = [image for _, image in itertools.islice(stream, _MOST)]
        return np.stack(chosen) if chosen else np.empty((0, *image_shape), np.float32)
    if given is not None:
        return np.asarray(given, np.float32)
    require_mnist_shape(image_shape, "cannot calibrate it: give training images with --calibrate")
    return mnist_calibration_images()

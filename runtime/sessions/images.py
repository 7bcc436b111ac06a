"""What callers give as images, as the array that a network takes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from capsnet.data.arrays import range_advice
from capsnet.errors import DataError, first_line

__all__ = ["Images", "as_images", "require_unit_range"]

Images = npt.NDArray[np.float32]

_ROUNDING = 1e-5

_UNKNOWN_RANGE = {
    "u": "divide pixels of 0..255 by 255",
    "i": "divide pixels of 0..255 by 255",
    "b": "convert False and True to 0.0 and 1.0",
}


def as_images(images: npt.ArrayLike, shape: Sequence[int | str], taker: str) -> Images:
    """Images as float32, where they have that meaning without doubt.

    An array of float32 is taken as it is; other floats are converted, also in lists and in tensors
    of torch. The range of integers and booleans is not known, so they are refused, as is what
    numpy makes no array of.

    Args:
        images: anything that ``numpy.asarray`` understands.
        shape: that they must have; a word stands for any size.
        taker: what takes them, for the message.

    Raises:
        DataError: if they are no floats, or of another shape.
    """
    array: npt.NDArray[Any] = images if type(images) is np.ndarray else _as_array(images)
    fits = array.ndim == len(shape) and all(
        isinstance(size, str) or size == given
        for size, given in zip(shape, array.shape, strict=True)
    )
    if fits and array.dtype == np.float32:
        return array
    found = f"the images are {array.dtype} {list(array.shape)}"
    expected = f"{taker} takes float32 [{', '.join(map(str, shape))}] with values 0..1"
    if array.dtype.kind != "f":
        advice = _UNKNOWN_RANGE.get(array.dtype.kind, "convert them to float32")
        raise DataError(f"{found}, {expected}: {advice}")
    if not fits:
        single = list(array.shape) == list(shape[1:])
        advice = "give one image as images[None]" if single else "give images of this shape"
        raise DataError(f"{found}, {expected}: {advice}")
    try:
        with np.errstate(over="raise"):
            return array.astype(np.float32)
    except FloatingPointError as error:
        raise DataError(f"{found} with values beyond float32, {expected}: scale them") from error


def require_unit_range(images: Images) -> None:
    """Raise DataError, with the likely cause, where values lie outside 0..1.

    What rounding adds to 1 is allowed.
    """
    if images.size == 0:
        return
    low, high = float(images.min()), float(images.max())
    if low >= -_ROUNDING and high <= 1 + _ROUNDING:
        return
    if np.isfinite((low, high)).all():
        advice = f"{range_advice(low, high)}; any_range=True takes them as they are"
    else:
        advice = "repair them; any_range=True takes them as they are"
    raise DataError(f"the images have values from {low:g} to {high:g}, expected 0..1: {advice}")


def _as_array(images: npt.ArrayLike) -> npt.NDArray[Any]:
    parts = images if isinstance(images, list | tuple) else (images,)
    if any(isinstance(part, np.ma.MaskedArray) for part in parts):
        raise DataError(
            "the images are masked, expected a value for every pixel: fill them (images.filled(0))"
        )
    try:
        return np.asarray(images)
    except (TypeError, ValueError, RuntimeError) as error:  # numpy's own, and those of torch
        raise DataError(
            f"the images cannot be read as one array: {first_line(error)}; "
            "give float32 [batch, ...], all images of one size"
        ) from error

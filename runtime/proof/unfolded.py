"""Convolutions in float64 as matrix products of unfolded pixels.

The golden run spends most of its time in them, and torch's float64 convolution needs twice the time
of the matrix product that it consists of. Unfolding changes nothing but the order of a sum.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad
from torch.overrides import TorchFunctionMode

__all__ = ["UnfoldedConvolutions", "unfolded_conv2d"]

_BLOCK = 2**27  # bytes of unfolded pixels at once


class UnfoldedConvolutions(TorchFunctionMode):
    """Inside such a block, every two-dimensional convolution is an :func:`unfolded_conv2d`."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return (unfolded_conv2d if func is conv2d else func)(*args, **(kwargs or {}))


def unfolded_conv2d(
    input: Tensor,  # noqa: A002 - the names are those of torch, which callers may use
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """``torch.nn.functional.conv2d``; by one matrix product where it is of float64.

    What else torch's function does is left to it: other types, groups, named padding, gradients,
    one image without a batch.

    Args:
        input: float64 ``[batch, channels, height, width]``, on the CPU.
        weight: float64 ``[out, channels, rows, columns]``; no copy is made of one that is laid out
            with the channels last.
        bias: ``[out]``.
        stride: of the kernel, for rows and columns.
        padding: zeros around the image, for rows and columns.
        dilation: distance of the kernel's elements, for rows and columns.
        groups: as of torch.

    Returns:
        ``[batch, out, rows, columns]``.
    """
    given = [input, weight, *([] if bias is None else [bias])]
    if (
        any(tensor.dtype != torch.float64 or tensor.requires_grad for tensor in given)
        or input.ndim != 4
        or isinstance(padding, str)
        or groups != 1
    ):
        return conv2d(input, weight, bias, stride, padding, dilation, groups)
    (down, right), (above, beside), (rows, columns) = map(_pair, (stride, padding, dilation))
    out, _, height, width = weight.shape
    padded = pad(input, (beside, beside, above, above)).permute(0, 2, 3, 1)
    size = (rows * (height - 1) + 1, columns * (width - 1) + 1)
    # numpy copies faster, and channels last, a row of the kernel lies in one piece. The product is
    # torch's: numpy's threads keep spinning after theirs, and slow what comes next.
    windows = np.lib.stride_tricks.sliding_window_view(
        np.ascontiguousarray(padded.numpy()),
        size,
        axis=(1, 2),
        writeable=True,  # torch asks for that
    )[:, ::down, ::right, :, ::rows, ::columns].transpose(0, 1, 2, 4, 5, 3)
    kernel = weight.permute(0, 2, 3, 1).reshape(out, -1).T
    result = input.new_empty((*windows.shape[:3], out))
    values = math.prod(windows.shape[3:])
    block = max(1, _BLOCK // (8 * math.prod(windows.shape[1:3]) * values))
    for start in range(0, len(windows), block):
        pixels = torch.from_numpy(windows[start : start + block].reshape(-1, values))
        torch.mm(pixels, kernel, out=result[start : start + block].view(-1, out))
    if bias is not None:
        result += bias
    return result.permute(0, 3, 1, 2)


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    """One number for both axes, or one for each, as torch takes them."""
    numbers = [value] if isinstance(value, int) else list(value)
    return numbers[0], numbers[-1]

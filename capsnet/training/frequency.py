"""A strided convolution in the frequency domain: fewer multiplications, differentiable.

A 9x9 convolution of stride 2 over 256 channels is nearly all of a CapsNet's arithmetic. Its Fourier
form needs a quarter of the multiplications; on a CPU that makes a training step faster.
"""

import functools
import math
from collections.abc import Iterator

import torch
from einops import rearrange
from torch import Tensor

__all__ = ["frequency_conv2d"]

_CHANNELS = 32  # input channels at a time: what lies between the products stays small
_Bases = tuple[Tensor, Tensor, Tensor]


def frequency_conv2d(images: Tensor, weight: Tensor, stride: int) -> Tensor:
    """``conv2d(images, weight, stride=stride)`` computed in the frequency domain.

    Image and kernel are split into the ``stride * stride`` phases of their pixels, which makes it a
    convolution of stride 1 over ``stride**2`` times the channels; one Fourier transform covers the
    whole grid of each phase, and only outputs free of wrap-around are taken back.

    Args:
        images: ``[batch, in_channels, height, width]``.
        weight: ``[out_channels, in_channels, kernel, kernel]``.
        stride: step of the convolution.

    Returns:
        ``[batch, out_channels, out_height, out_width]``.
    """
    kernel, size = weight.shape[-1], images.shape[-2:]
    grid = (-(-size[0] // stride), -(-size[1] // stride))
    out = ((size[0] - kernel) // stride + 1, (size[1] - kernel) // stride + 1)
    taps = -(-kernel // stride)
    bases = _fourier_bases(grid, taps, out, images.dtype)
    poses: Tensor = _Correlation.apply(images, weight, stride, bases)  # type: ignore[no-untyped-call]
    result: Tensor = poses.unflatten(2, out)
    return result


class _Correlation(torch.autograd.Function):
    """The convolution, given its Fourier bases.

    A few input channels are taken at a time, and the backward pass transforms again what the
    forward pass did not keep: all spectra at once would be the largest tensors of a training step.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        images: Tensor,
        weight: Tensor,
        stride: int,
        bases: _Bases,
    ) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.stride, ctx.bases = stride, bases  # type: ignore[attr-defined]
        analyse, analyse_filter, synthesise = bases
        shape = (*synthesise.shape[:2], len(images), len(weight))
        poses = images.new_zeros(shape)
        for signal, filters in _channels(images, weight):
            x = _spectrum(analyse, _phases(signal, stride))
            w = _spectrum(analyse_filter, _phases(filters, stride))
            poses += _complex_product(x, w.mT)
        return _positions(synthesise, poses).movedim(0, 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: torch.autograd.function.FunctionCtx, gradient: Tensor
    ) -> tuple[Tensor, Tensor, None, None]:
        images, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        stride: int = ctx.stride  # type: ignore[attr-defined]
        analyse, analyse_filter, synthesise = ctx.bases  # type: ignore[attr-defined]
        # The gradient of a complex product takes the conjugate of the other factor.
        conjugate = gradient.new_tensor([1, -1])[:, None, None]
        g = _spectrum(synthesise, gradient)
        to_images, to_weight = torch.empty_like(images), torch.empty_like(weight)
        for signal, filters, to_signal, to_filters in _channels(
            images, weight, to_images, to_weight
        ):
            w = _spectrum(analyse_filter * conjugate, _phases(filters, stride))
            _unphase(_positions(analyse, _complex_product(g, w)), stride, to_signal)
            x = _spectrum(analyse * conjugate, _phases(signal, stride))
            _unphase(_positions(analyse_filter, _complex_product(g.mT, x)), stride, to_filters)
        return to_images, to_weight, None, None


def _channels(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The tensors ``[n, channels, height, width]``, a few channels at a time."""
    return zip(*(tensor.split(_CHANNELS, dim=1) for tensor in tensors), strict=True)


def _spectrum(analyse: Tensor, pixels: Tensor) -> Tensor:
    """Real and imaginary parts ``[2, frequencies, n, c]`` of ``pixels [n, c, positions]``."""
    rows = analyse.flatten(0, 1) @ pixels.flatten(0, 1).T
    return rows.view(*analyse.shape[:2], *pixels.shape[:2])


def _positions(basis: Tensor, spectrum: Tensor) -> Tensor:
    """The ``[positions, n, c]`` that a spectrum ``[2, frequencies, n, c]`` stands for."""
    pixels = basis.flatten(0, 1).T @ spectrum.flatten(2).flatten(0, 1)
    return pixels.view(-1, *spectrum.shape[2:])


def _complex_product(left: Tensor, right: Tensor) -> Tensor:
    """Matrix products of complex matrices, parts first, with three real ones (Gauss)."""
    (x, y), (u, w) = left, right
    product = left.new_empty(2, *x.shape[:2], u.shape[2])
    real, imaginary = product
    imaginary.copy_(torch.bmm(x, u + w, out=real))
    real.baddbmm_(x + y, w, alpha=-1)
    imaginary.baddbmm_(y - x, u)
    return product


def _phases(pixels: Tensor, stride: int) -> Tensor:
    """``[n, c, h, w]`` to ``[n, c * stride**2, ceil(h / stride) * ceil(w / stride)]``."""
    height, width = pixels.shape[-2:]
    if height % stride or width % stride:
        pixels = torch.nn.functional.pad(pixels, (0, -width % stride, 0, -height % stride))
    return rearrange(pixels, "n c (h p) (w q) -> n (c p q) (h w)", p=stride, q=stride)


def _unphase(phases: Tensor, stride: int, pixels: Tensor) -> None:
    """The inverse of :func:`_phases`, positions first, into ``pixels [n, c, h, w]``."""
    height, width = pixels.shape[-2:]
    rows = -(-height // stride)
    padded = rearrange(phases, "(h w) n (c p q) -> n c (h p) (w q)", p=stride, q=stride, h=rows)
    pixels.copy_(padded[..., :height, :width])


@functools.lru_cache(maxsize=8)
@torch.inference_mode(False)  # what is cached must serve later calls that need gradients
def _fourier_bases(
    grid: tuple[int, int], taps: int, out: tuple[int, int], dtype: torch.dtype
) -> _Bases:
    """Real discrete Fourier transforms of a grid, of a kernel (conjugate), and back, as matrices.

    Of each pair of conjugate frequencies one is kept, and counted twice on the way back.

    Returns:
        Three matrices ``[2 (real, imaginary), frequencies, n]``, with n positions in the grid, the
        kernel and the output.
    """
    height, width = grid
    kept: dict[tuple[int, int], float] = {}
    for u in range(height):
        for v in range(width):
            mirror = (-u % height, -v % width)
            if mirror not in kept or mirror == (u, v):
                kept[u, v] = 1.0 if mirror == (u, v) else 2.0
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    frequencies = torch.tensor(list(kept), dtype=torch.float64)
    angle = (
        2
        * math.pi
        * (
            frequencies[:, :1] * rows.flatten() / height
            + frequencies[:, 1:] * columns.flatten() / width
        )
    )
    cosine, sine = angle.cos(), angle.sin()
    count = torch.tensor(list(kept.values()), dtype=torch.float64).unsqueeze(1) / (height * width)

    def window(extent: tuple[int, int]) -> Tensor:
        return ((rows < extent[0]) & (columns < extent[1])).flatten()

    bases = (
        torch.stack([cosine, -sine]),
        torch.stack([cosine, sine])[..., window((taps, taps))],
        torch.stack([count * cosine, -count * sine])[..., window(out)],
    )
    return tuple(basis.to(dtype).contiguous() for basis in bases)  # type: ignore[return-value]

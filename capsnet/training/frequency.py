"""A strided convolution in the frequency domain: fewer multiplications, differentiable.

A 9x9 convolution of stride 2 over 256 channels is nearly all of a CapsNet's arithmetic. Its Fourier
form needs a quarter of the multiplications; on a CPU that makes a training step faster.
"""

import functools
import math

import torch
from einops import rearrange
from torch import Tensor

__all__ = ["frequency_conv2d"]

_FREQUENCIES = 13  # at a time: of the 52 of a 10x10 grid a quarter
_Bases = tuple[tuple[Tensor, Tensor, Tensor], ...]


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
    return poses.view(len(images), len(weight), *out)


class _Correlation(torch.autograd.Function):
    """The convolution, given its Fourier bases.

    Frequencies are independent, so they are taken a few at a time, and the backward pass transforms
    again what the forward pass did not keep: all spectra at once would be the largest tensors of a
    training step, those of the filters above all.
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
        signal, filters = _phases(images, stride), _phases(weight, stride)
        result = images.new_zeros(len(images) * len(weight), bases[0][2].shape[2])
        for analyse, analyse_filter, synthesise in bases:
            x, w = _spectrum(analyse, signal), _spectrum(analyse_filter, filters)
            _add_pixels(result, synthesise, _complex_product(x, w.mT))
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: torch.autograd.function.FunctionCtx, gradient: Tensor
    ) -> tuple[Tensor, Tensor, None, None]:
        images, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        stride: int = ctx.stride  # type: ignore[attr-defined]
        signal, filters = _phases(images, stride), _phases(weight, stride)
        gradient = gradient.view(len(images), len(weight), -1)
        to_signal, to_filters = torch.zeros_like(signal), torch.zeros_like(filters)
        for analyse, analyse_filter, synthesise in ctx.bases:  # type: ignore[attr-defined]
            w, g = _spectrum(analyse_filter, filters), _spectrum(synthesise, gradient)
            w[1].neg_()  # the gradient of a complex product takes the conjugate of the other factor
            _add_pixels(to_signal, analyse, _complex_product(g, w))
            del w
            x = _spectrum(analyse, signal)
            x[1].neg_()
            _add_pixels(to_filters, analyse_filter, _complex_product(g.mT, x))
        return (
            _pixels(to_signal, stride, images.shape[-2:]),
            _pixels(to_filters, stride, weight.shape[-2:]),
            None,
            None,
        )


def _spectrum(analyse: Tensor, pixels: Tensor) -> Tensor:
    """Real and imaginary parts ``[2, frequencies, n, c]`` of ``pixels [n, c, positions]``."""
    rows = analyse.flatten(0, 1) @ pixels.flatten(0, 1).T
    return rows.view(*analyse.shape[:2], *pixels.shape[:2])


def _add_pixels(pixels: Tensor, basis: Tensor, spectrum: Tensor) -> None:
    """Add to ``pixels [n, c, positions]`` what a spectrum ``[2, frequencies, n, c]`` stands for."""
    for part, rows in zip(spectrum, basis, strict=True):
        pixels.view(-1, pixels.shape[-1]).addmm_(part.flatten(1).T, rows)


def _complex_product(left: Tensor, right: Tensor) -> Tensor:
    """Matrix products of complex matrices, parts first, with three real ones (Gauss)."""
    (x, y), (u, w) = left, right
    xu, yw = x @ u, y @ w
    imaginary = torch.baddbmm(-xu, x + y, u + w).sub_(yw)
    return torch.stack([xu.sub_(yw), imaginary])


def _phases(pixels: Tensor, stride: int) -> Tensor:
    """``[n, c, h, w]`` to ``[n, c * stride**2, ceil(h / stride) * ceil(w / stride)]``."""
    height, width = pixels.shape[-2:]
    if height % stride or width % stride:
        pixels = torch.nn.functional.pad(pixels, (0, -width % stride, 0, -height % stride))
    return rearrange(pixels, "n c (h p) (w q) -> n (c p q) (h w)", p=stride, q=stride)


def _pixels(phases: Tensor, stride: int, size: torch.Size) -> Tensor:
    """The inverse of :func:`_phases`, for a size in pixels."""
    height, width = size
    rows = -(-height // stride)
    padded = rearrange(phases, "n (c p q) (h w) -> n c (h p) (w q)", p=stride, q=stride, h=rows)
    return padded[..., :height, :width]


@functools.lru_cache(maxsize=8)
@torch.inference_mode(False)  # what is cached must serve later calls that need gradients
def _fourier_bases(
    grid: tuple[int, int], taps: int, out: tuple[int, int], dtype: torch.dtype
) -> _Bases:
    """Real discrete Fourier transforms of a grid, of a kernel (conjugate), and back, as matrices.

    Of each pair of conjugate frequencies one is kept, and counted twice on the way back.

    Returns:
        For a few frequencies at a time three matrices ``[2 (real, imaginary), frequencies, n]``,
        with n positions in the grid, the kernel and the output.
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

    whole = (
        torch.stack([cosine, -sine]),
        torch.stack([cosine, sine])[..., window((taps, taps))],
        torch.stack([count * cosine, -count * sine])[..., window(out)],
    )
    chunks = zip(*(basis.to(dtype).split(_FREQUENCIES, dim=1) for basis in whole), strict=True)
    return tuple((a.contiguous(), b.contiguous(), c.contiguous()) for a, b, c in chunks)

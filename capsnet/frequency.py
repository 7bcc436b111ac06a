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
    batch, (kernel, size) = len(images), (weight.shape[-1], images.shape[-2:])
    grid = (-(-size[0] // stride), -(-size[1] // stride))
    out = ((size[0] - kernel) // stride + 1, (size[1] - kernel) // stride + 1)
    taps = -(-kernel // stride)
    analyse, analyse_kernel, synthesise = _fourier_bases(grid, taps, out, images.dtype)
    signal = _phases(images, stride)
    filters = _phases(weight, stride)
    channels = signal.shape[1]
    signal = (analyse @ signal.reshape(-1, math.prod(grid)).T).view(2, -1, batch, channels)
    filters = (analyse_kernel @ filters.reshape(-1, taps * taps).T).view(
        2, -1, len(weight), channels
    )
    (x, y), (u, w) = signal, filters.mT
    # (x + iy)(u + iw) with three products instead of four (Gauss)
    xu, yw = x @ u, y @ w
    spectrum = torch.stack([xu - yw, (x + y) @ (u + w) - xu - yw])
    poses = spectrum.view(-1, batch * len(weight)).T @ synthesise
    return poses.view(batch, len(weight), *out)


def _phases(pixels: Tensor, stride: int) -> Tensor:
    """``[n, c, h, w]`` to ``[n, c * stride**2, ceil(h / stride), ceil(w / stride)]``."""
    height, width = pixels.shape[-2:]
    padded = torch.nn.functional.pad(pixels, (0, -width % stride, 0, -height % stride))
    return rearrange(padded, "n c (h p) (w q) -> n (c p q) h w", p=stride, q=stride)


@functools.lru_cache(maxsize=8)
@torch.inference_mode(False)  # what is cached must serve later calls that need gradients
def _fourier_bases(
    grid: tuple[int, int], taps: int, out: tuple[int, int], dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Real discrete Fourier transforms of a grid, of a kernel (conjugate), and back, as matrices.

    Of each pair of conjugate frequencies one is kept, and counted twice on the way back.
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

    analyse = torch.cat([cosine, -sine])
    analyse_kernel = torch.cat([cosine, sine])[:, window((taps, taps))]
    synthesise = torch.cat([count * cosine, -count * sine])[:, window(out)]
    return analyse.to(dtype), analyse_kernel.to(dtype), synthesise.to(dtype)

"""Winograd's minimal filtering along the rows of a strided convolution: half of its arithmetic.

A convolution with stride ``s`` is the sum of ``s`` convolutions with stride 1, one for each phase
of the rows. Each of them is evaluated, ``m`` output rows at a time, as Toom and Cook multiply
polynomials: the input's and the kernel's rows are turned into values at ``m + taps - 1`` points,
multiplied there, and interpolated (S. Winograd, *Arithmetic Complexity of Computations*, 1980;
A. Lavin and S. Gray, arXiv:1509.09308, who do so along both axes). Along the columns it stays an
ordinary convolution, which inference engines run at the hardware's limit. The transforms are exact;
their rounding is what limits ``m``.
"""

from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

__all__ = ["WinogradConv2d", "arithmetic_left", "tile_rows", "toom_cook"]

Matrix = list[list[Fraction]]

_POINTS = tuple(map(Fraction, ("0", "1", "-1", "2", "-1/2", "1/2", "-2")))
"""Where the polynomials are evaluated, besides infinity; the first ones are used. With all of them
the convolution of the bundled network is 1.5 times as far from float64 as it is directly in RMS,
with six 1.25 times; with nine it is 4 times."""
_TILES = (4, 3, 2)


def tile_rows(rows: int, kernel: int, stride: int) -> int | None:
    """The most output rows that can be computed together.

    None where no tile divides the rows, where so many points lose too much accuracy in float32, or
    where nothing is saved.

    Args:
        rows: of the convolution's output.
        kernel: number of rows of its kernel.
        stride: between its rows.
    """
    taps = -(-kernel // stride)
    fitting = (m for m in _TILES if rows % m == 0 and m + taps - 2 <= len(_POINTS))
    return next(fitting, None) if taps > 1 else None


def arithmetic_left(tile: int, kernel: int, stride: int) -> float:
    """Share of the direct convolution's products that is left, without the transforms.

    Args:
        tile: output rows that are computed together.
        kernel: number of rows of the kernel.
        stride: between its rows.
    """
    taps = (-(-(kernel - phase) // stride) for phase in range(stride))
    return sum(tile + count - 1 for count in taps) / (tile * kernel)


def toom_cook(rows: int, taps: int) -> tuple[Matrix, Matrix, Matrix]:
    """The transforms of ``F(rows, taps)``: ``y = A ((G g) * (B d))`` correlates ``d`` with ``g``.

    Args:
        rows: results to compute, m.
        taps: length of the kernel, r.

    Returns:
        ``A [m, points]``, ``G [points, r]`` and ``B [points, points]`` for ``m + r - 1`` points,
        the last of which is infinity.
    """
    points = _POINTS[: rows + taps - 2]
    output = [[p**i for p in points] + [Fraction(i == rows - 1)] for i in range(rows)]
    kernel, data = [], []
    for point in points:
        others = [p for p in points if p != point]
        scale = Fraction(1)
        for other in others:
            scale *= point - other
        kernel.append([point**j / scale for j in range(taps)])
        data.append([*_with_roots(others), Fraction(0)])
    kernel.append([Fraction(j == taps - 1) for j in range(taps)])
    data.append(_with_roots(list(points)))
    return output, kernel, data


def _with_roots(roots: list[Fraction]) -> list[Fraction]:
    """Coefficients of the monic polynomial with these roots, the constant first."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *coefficients]
        scaled = [-root * c for c in coefficients] + [Fraction(0)]
        coefficients = [a + b for a, b in zip(shifted, scaled, strict=True)]
    return coefficients


class WinogradConv2d(nn.Module):
    """The same function as a convolution without padding, for images of one height.

    Args:
        conv: the convolution; its weights are transformed in float64.
        height: rows of its input.

    Raises:
        ValueError: if :func:`tile_rows` finds no tile for it.
    """

    def __init__(self, conv: nn.Conv2d, height: int) -> None:
        super().__init__()
        kernel, (self.stride, self.column_stride) = conv.kernel_size[0], conv.stride
        rows = (height - kernel) // self.stride + 1
        tile = tile_rows(rows, kernel, self.stride)
        if tile is None:
            raise ValueError(f"no tile for {rows} rows, a kernel of {kernel}, stride {self.stride}")
        self.step = self.stride * tile
        self.register_buffer("bias", conv.bias)
        self.terms: list[tuple[int, int, int]] = []  # phase, padding, point
        for phase in range(self.stride):
            weight = conv.weight.detach()[:, :, phase :: self.stride].double()  # o i r w
            output, to_kernel, to_data = toom_cook(tile, weight.shape[2])
            if phase == 0:  # it has the most points; infinity is the last one of every phase
                self.output = [[float(factor) for factor in row] for row in output]
            # A phase starts inside its first step: zeros in front of image and transform put it
            # onto the grid. Zeros behind the transform keep the tiles at the last row from being
            # one too many. So nothing is ever cut out of an image, which engines copy for that.
            padding = (self.stride - phase) % self.stride
            last = (rows // tile - 1) * self.step
            length = (height + 2 * padding - 1 - last) // self.stride + 1
            for index, (factors, values) in enumerate(zip(to_kernel, to_data, strict=True)):
                point = index if index < len(to_data) - 1 else len(self.output[0]) - 1
                front = [0.0] * bool(padding) + [float(value) for value in values]
                data = torch.tensor(front + [0.0] * (length - len(front)), dtype=torch.float64)
                factor = torch.tensor([float(factor) for factor in factors], dtype=torch.float64)
                kernel_there = torch.einsum("r,oirw->oiw", factor, weight).unsqueeze(2)
                data_there = data.view(1, 1, -1, 1).repeat(conv.in_channels, 1, 1, 1)
                # In the layouts of what they meet, or torch would convert on every call.
                for name, buffer, layout in (
                    ("data", data_there, torch.channels_last),
                    ("kernel", kernel_there, torch.contiguous_format),
                ):
                    laid_out = buffer.to(conv.weight.dtype, memory_format=layout)
                    self.register_buffer(f"{name}{phase}_{point}", laid_out)
                self.terms.append((phase, padding, point))

    def forward(self, image: Tensor) -> Tensor:
        """``[batch, in_channels, height, width]`` to ``[batch, out_channels, rows, columns]``."""
        # torch runs a convolution for each channel well in this layout only; others choose theirs.
        image = image.contiguous(memory_format=torch.channels_last)
        products: dict[int, Tensor] = {}
        for phase, padding, point in self.terms:
            data = conv2d(
                image,
                self.get_buffer(f"data{phase}_{point}"),
                stride=(self.step, 1),
                padding=(padding, 0),
                dilation=(self.stride, 1),
                groups=image.shape[1],
            )
            # What is added at the point 1, where every power is 1, is added to all rows.
            at_one = phase == 0 and _POINTS[point : point + 1] == (Fraction(1),)
            bias = self.get_buffer("bias") if at_one else None
            # oneDNN sums all products of a channels-last convolution in one chain, which rounds
            # more than the parts that it sums those of the contiguous layout in.
            product = conv2d(
                data.contiguous(),
                self.get_buffer(f"kernel{phase}_{point}"),
                bias,
                stride=(1, self.column_stride),
            )
            products[point] = products[point] + product if point in products else product
        rows = [_combine(factors, products) for factors in self.output]
        return torch.stack(rows, 3).flatten(2, 3)


def _combine(factors: list[float], products: dict[int, Tensor]) -> Tensor:
    """Sum of the products, each times its factor; factors of 1 and -1 cost no multiplication."""
    first, *others = (point for point, factor in enumerate(factors) if factor)
    result = products[first]  # of the point 0 or 1, whose first factor is 1
    for point in others:
        size = abs(factors[point])
        term = products[point] if size == 1 else products[point] * size
        result = result + term if factors[point] > 0 else result - term
    return result

"""The same sums in another order: what float32 rounds by chance, and what it does not.

Nothing but the order of the terms of convolutions and products changes.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear
from torch.overrides import TorchFunctionMode

__all__ = ["Reordered"]

_MANY = 32  # terms of a sum of products of votes; shorter ones are left as they are

_PRODUCTS = (torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm, torch.mm)


class Reordered(TorchFunctionMode):
    """Inside such a block, convolutions and products sum their terms in another order.

    Args:
        order: 1, 2, ...; the same number is the same order.
    """

    def __init__(self, order: int) -> None:
        super().__init__()
        self._order = order
        self._weights: dict[tuple[int, int], Tensor] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = list(args)
        if func in (linear, conv2d) and len(given) > 1:
            axis = -1 if func is linear else -3
            # Groups have their channels side by side: each keeps its own.
            if given[0].shape[axis] == given[1].shape[1]:
                given[:2] = self._along((given[0], axis), (given[1], 1))
        elif func in _PRODUCTS and len(given) > 1 and given[0].ndim > 1 and given[1].ndim > 1:
            given[:2] = self._along((given[0], -1), (given[1], -2))
        elif func is torch.einsum and "->" in str(given[0]):
            given = self._einsum(given)
        return func(*given, **(kwargs or {}))

    def _along(self, *axes: tuple[Tensor, int]) -> list[Tensor]:
        """Tensors, each with an axis in the other order."""
        size = axes[0][0].shape[axes[0][1]]
        generator = torch.Generator().manual_seed(self._order)
        order = torch.randperm(size, generator=generator)
        return [self._changed(tensor, axis, order) for tensor, axis in axes]

    def _changed(self, tensor: Tensor, axis: int, order: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            return tensor.index_select(axis, order)
        key = (id(tensor), axis)  # every chunk of images meets the weights again
        if key not in self._weights:
            self._weights[key] = tensor.index_select(axis, order)
        return self._weights[key]

    def _einsum(self, given: list[Any]) -> list[Any]:
        equation = given[0].replace(" ", "")
        operands = list(given[1] if isinstance(given[1], list | tuple) else given[1:])
        inputs, result = equation.split("->")
        terms = inputs.split(",")
        if "." in equation or any(len(set(letters)) < len(letters) for letters in terms):
            return given
        for letter in set(inputs) - set(result) - {","}:
            holders = [
                (n, letters.index(letter)) for n, letters in enumerate(terms) if letter in letters
            ]
            n, axis = holders[0]
            if operands[n].shape[axis] < _MANY:
                continue
            changed = self._along(*((operands[n], axis) for n, axis in holders))
            for (n, _), operand in zip(holders, changed, strict=True):
                operands[n] = operand
        return [equation, *operands]

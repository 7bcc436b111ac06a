"""How large the tensors of a torch graph are, before any of them is computed."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["shapes_of"]

_META = torch.device("meta")
_MOST_VALUES = 64  # of a tensor that sizes are computed with


def shapes_of(
    call: Callable[..., Sequence[Tensor]], shapes: Sequence[Sequence[int]]
) -> tuple[Sequence[Tensor], int]:
    """Run a network on inputs that have a shape and nothing else.

    Args:
        call: the network.
        shapes: of the inputs, in order.

    Returns:
        Its outputs, which have types and shapes alone, and the number of elements of all tensors
        that are computed on the way, those of intermediate steps too.

    Raises:
        RuntimeError, ValueError: whatever torch raises.
    """
    # Optimised, TorchScript would compute what is constant in it first.
    plain = torch.jit.optimized_execution(False)  # type: ignore[attr-defined]
    with torch.no_grad(), plain, _Shapes() as counted:
        return call(*(torch.empty(*shape, device=_META) for shape in shapes)), counted.elements


class _Shapes(TorchDispatchMode):
    """Nothing that is larger than a few numbers takes memory."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elements = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        returned = function._schema.returns
        if not returned:  # a check of a type or a device
            return None
        if not any("Tensor" in str(value.type) for value in returned):
            return function(*args, **kwargs)
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        shaped = tree_map(_as_meta, kwargs)
        if any(argument.name == "device" for argument in function._schema.arguments):
            shaped["device"] = _META
        found = function(*tree_map(_as_meta, args), **shaped)
        sizes = [value.numel() for value in tree_leaves(found) if isinstance(value, Tensor)]
        if not any(value.alias_info for value in returned):
            self.elements += sum(sizes)
        if function is torch.ops.aten.convolution.default and args[6]:  # transposed: a table inside
            self.elements += args[0][0, 0].numel() * args[1][0].numel()
        if max(sizes, default=0) > _MOST_VALUES or any(value.is_meta for value in given):
            return found
        return function(*args, **kwargs)


def _as_meta(value: Any) -> Any:
    if isinstance(value, torch.device):
        return _META
    if isinstance(value, Tensor) and not value.is_meta:
        return torch.empty_strided(value.size(), value.stride(), dtype=value.dtype, device=_META)
    return value

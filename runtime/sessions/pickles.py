"""The two pickles in a TorchScript archive, read without executing anything. Needs no torch.

torch's own reader of them does not check the sizes in them. So they are read here first, by a
machine that knows only the few steps with which torch writes modules and tensors.
"""

import math
import pickletools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from capsnet.errors import ArtifactError

__all__ = ["Built", "Tensor", "check_extent", "read_pickle"]

_ITEM_SIZES = {
    "DoubleStorage": 8,
    "FloatStorage": 4,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "LongStorage": 8,
    "IntStorage": 4,
    "ShortStorage": 2,
    "CharStorage": 1,
    "ByteStorage": 1,
    "BoolStorage": 1,
}
_NUMBERS = {"BININT", "BININT1", "BININT2", "LONG1", "NEWFALSE", "NEWTRUE"}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MARK = object()


@dataclass(frozen=True)
class _Global:
    name: str


@dataclass(frozen=True)
class _Storage:
    elements: int


@dataclass(frozen=True)
class Tensor:
    """A tensor, of which nothing needs to be known but that its record holds all of it."""


@dataclass
class Built:
    """A module.

    Attributes:
        kind: the name of its class.
        state: what it holds.
    """

    kind: str
    state: dict[str, object] = field(default_factory=dict)


def read_pickle(records: Mapping[str, memoryview], name: str, folder: str) -> object:
    """What one of the pickles describes.

    Args:
        records: of the archive.
        name: of the pickle.
        folder: of the records with the bytes of its tensors.

    Raises:
        ArtifactError: if it is anything else than torch writes, or a record has another size than
            its tensor.
    """
    machine = _Machine(records, folder)
    try:
        for opcode, argument, _ in pickletools.genops(bytes(records[name])):
            machine.step(opcode.name, argument)
        [result] = machine.stack
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ArtifactError(f"its record {name} is damaged") from error
    return result


class _Machine:
    def __init__(self, records: Mapping[str, memoryview], folder: str) -> None:
        self.stack: list[Any] = []
        self._memo: dict[int, str | _Global | Tensor] = {}
        self._records, self._folder = records, folder

    def step(self, opcode: str, argument: Any) -> None:
        stack = self.stack
        if opcode in _NUMBERS:
            stack.append(argument if argument is not None else opcode == "NEWTRUE")
        elif opcode in ("BINUNICODE", "SHORT_BINUNICODE"):
            stack.append(argument)
        elif opcode == "GLOBAL":
            stack.append(_Global(argument.replace(" ", ".")))
        elif opcode in ("BINPUT", "LONG_BINPUT"):
            if isinstance(stack[-1], str | _Global | Tensor):
                self._memo[argument] = stack[-1]
        elif opcode in ("BINGET", "LONG_BINGET"):  # never a module: it could hold itself
            stack.append(self._memo[argument])
        elif opcode == "MARK":
            stack.append(_MARK)
        elif opcode == "TUPLE":
            stack.append(tuple(self._since_mark()))
        elif opcode in _TUPLES:
            count = len(stack) - _TUPLES[opcode]
            if count < 0 or _MARK in stack[count:]:
                raise ValueError
            stack[count:] = [tuple(stack[count:])]
        elif opcode == "EMPTY_DICT":
            stack.append({})
        elif opcode not in ("PROTO", "STOP"):
            self._build(opcode)

    def _build(self, opcode: str) -> None:
        stack = self.stack
        if opcode == "SETITEMS":
            items = self._since_mark()
            names, values = items[::2], items[1::2]
            if not all(type(name) is str for name in names) or len(set(names)) < len(values):
                raise ValueError
            stack[-1].update(zip(names, values, strict=True))
        elif opcode == "NEWOBJ":
            if stack.pop() != ():
                raise ValueError
            kind = stack.pop()
            if not kind.name.startswith("__torch__."):
                raise ArtifactError(f"its pickle names {kind.name}, which is never called")
            stack.append(Built(kind.name))
        elif opcode == "BUILD":
            state = stack.pop()
            if not isinstance(stack[-1], Built) or not isinstance(state, dict):
                raise ValueError
            stack[-1] = Built(stack[-1].kind, state)
        elif opcode == "BINPERSID":
            stack.append(self._storage(*stack.pop()))
        elif opcode == "REDUCE":
            arguments, called = stack.pop(), stack.pop()
            stack.append(_call(called.name, arguments))
        else:
            raise ArtifactError(f"its pickle holds {opcode}, which is never executed")

    def _since_mark(self) -> list[Any]:
        position = len(self.stack) - 1
        while self.stack[position] is not _MARK:
            position -= 1
            if position < 0:
                raise ValueError
        values = self.stack[position + 1 :]
        del self.stack[position:]
        return values

    def _storage(self, word: str, kind: _Global, key: str, device: str, count: int) -> _Storage:
        """The bytes of a tensor: a record, which must be exactly as large as they are."""
        name = f"{self._folder}/{key}"
        size = count * _ITEM_SIZES[kind.name.removeprefix("torch.")]
        if word != "storage" or device != "cpu" or type(count) is not int or count < 0:
            raise ValueError
        if not key.isdecimal() or name not in self._records:
            raise ArtifactError(f"the record {name} is missing")
        if len(self._records[name]) != size:
            raise ArtifactError(
                f"the record {name} holds {len(self._records[name])} bytes, its tensor needs {size}"
            )
        return _Storage(count)


def _call(name: str, arguments: tuple[Any, ...]) -> object:
    """What the only two functions give that torch's pickles call."""
    if name == "collections.OrderedDict" and arguments == ():
        return {}
    if name != "torch._utils._rebuild_tensor_v2":
        raise ArtifactError(f"its pickle calls {name}, which is never executed")
    storage, offset, sizes, strides, _, hooks = arguments
    if not isinstance(storage, _Storage) or hooks != {}:
        raise ValueError
    check_extent(storage.elements, offset, sizes, strides)
    return Tensor()


def check_extent(
    elements: int, offset: int, sizes: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    """Raise ArtifactError where a tensor reaches beyond its storage.

    Args:
        elements: of the storage.
        offset: of the tensor's first element in it.
        sizes: of the tensor.
        strides: of its axes, in elements.

    Raises:
        ValueError: if the numbers are no sizes at all.
    """
    numbers = (offset, *sizes, *strides)
    if not all(type(n) is int and n >= 0 for n in numbers) or len(sizes) != len(strides):
        raise ValueError("sizes, strides and offset of a tensor must be integers, none negative")
    last = offset + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True))
    if math.prod(sizes) > 0 and last >= elements:
        raise ArtifactError(
            f"a tensor of {list(sizes)} elements reaches beyond the {elements} of its record"
        )
    if math.prod(sizes) > max(elements, 1):
        raise ArtifactError(f"a tensor of {list(sizes)} elements repeats those of its record")

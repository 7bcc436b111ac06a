"""What cannot be exported and proven is refused, with the module and the line to change.

A golden run needs float64 throughout; a graph has one path, whatever the values; images are
classified one by one, the same way every time.
"""

import contextlib
import copy
import inspect
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from capsnet.errors import ConfigError, first_line, raise_interruption
from capsnet.own import OwnNetwork, is_own, place_of
from capsnet.stages import record_stages

__all__ = ["vet"]

_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)')
_SAME = 1e-9  # of the largest value: float64 rounds a sum in another order by far less
_BOOLEAN = (torch.bool, torch.uint8)

_RANDOM = "draws random numbers", "so no two runs agree: leave that out in evaluation mode"
_VALUES = (
    "lets values decide what is computed",
    "and a graph has one path: compute all of it, and choose with torch.where",
)
_OTHER_TYPE = (
    "computes in {0} in a float64 run",
    "so nothing can be judged by it: follow the dtype of the inputs",
)
_STATE = "gives other values when it runs again", "keep no state between runs"
_MEETING = (
    "gives a row other values when it is alone in a batch",
    "the rows of a batch must not meet: no statistics over them",
)


def vet(network: OwnNetwork, example: Sequence[Tensor]) -> None:
    """Refuse what cannot be exported and proven.

    Args:
        network: the user's own.
        example: an input each, float32 ``[batch, ...]``, at least two rows.

    Raises:
        ConfigError: if the network is in training mode, cannot run in float64, takes a path that
            depends on values, draws random numbers, keeps a state, or mixes the rows of a batch.
    """
    _require_evaluation(network)
    golden = _in_float64(network)
    doubles = [rows.double() for rows in example]
    with torch.no_grad(), default_dtype(torch.float64):
        _require_float64(golden, doubles)
        _require_one_path(golden, doubles)
        first, second = (record_stages(golden, *doubles) for _ in range(2))
        _require_same(network, first, second, _STATE)
        alone = [
            record_stages(golden, *(rows[n : n + 1] for rows in doubles))
            for n in range(len(doubles[0]))
        ]
    joined = {name: torch.cat([one[name] for one in alone]) for name in alone[0]}
    _require_same(network, first, joined, _MEETING)


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """What torch makes of numbers that have no type of their own."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _require_evaluation(network: OwnNetwork) -> None:
    for name, part in network.module.named_modules():
        # einops makes its layers anew when they are copied: a mode means nothing to them.
        if part.training and not type(part).__module__.startswith("einops."):
            where = f"its part {name}" if name else "it"
            raise ConfigError(
                f"{type(network.module).__name__} cannot be exported: {where} is in training mode; "
                "call eval() on the network where it is made"
            )


def _in_float64(network: OwnNetwork) -> OwnNetwork:
    try:
        return copy.deepcopy(network).double().requires_grad_(False)
    except Exception as error:  # a user's own attributes may be anything
        raise ConfigError(
            f"{type(network.module).__name__} cannot be copied: {first_line(error)}; keep only "
            "parameters, buffers and plain values in it"
        ) from error


def _require_float64(golden: OwnNetwork, doubles: Sequence[Tensor]) -> None:
    name = type(golden.module).__name__
    try:
        with _Modules(golden.module) as modules, _OnlyFloat64(modules):
            golden.outputs_by_name(*doubles)
    except ConfigError:
        raise
    except Exception as error:  # a user's own code may raise anything
        raise ConfigError(
            f"{name} cannot run in float64, which the proof needs: {first_line(error)} "
            f"({place_of(error)}{modules.inside}); follow the dtype of the inputs"
        ) from error


def _require_one_path(golden: OwnNetwork, doubles: Sequence[Tensor]) -> None:
    """Capture the graph, and look for what depends on values or on chance."""
    batch = {0: torch.export.Dim("batch")}
    try:
        program = torch.export.export(
            golden, tuple(doubles), dynamic_shapes=((batch,) * len(doubles),), strict=False
        )
    except Exception as error:  # torch.export's own errors have many kinds
        raise_interruption(error)
        values = "data-dependent" in str(error) or "DataDependent" in type(error).__name__
        reason, advice = (
            _VALUES
            if values
            else (
                f"cannot be captured for any batch size ({first_line(error)})",
                "so it cannot be exported: use operations that torch.export knows",
            )
        )
        raise ConfigError(
            f"{type(golden.module).__name__} {reason}: {place_of(error)}; {advice}"
        ) from error
    for node in program.graph.nodes:
        tags = getattr(node.target, "tags", ())
        if torch.Tag.nondeterministic_seeded in tags:
            raise ConfigError(_found_at(node, _RANDOM))
        if "_local_scalar_dense" in str(node.target) or ".item." in str(node.target):
            raise ConfigError(_found_at(node, _VALUES))
        if torch.Tag.dynamic_output_shape in tags and _chooses(node):
            raise ConfigError(_found_at(node, _VALUES))


def _chooses(node: torch.fx.Node) -> bool:
    """Whether the values of a tensor decide the shape of the result."""
    if str(node.target).startswith(("aten.index.", "aten.index_put.")):
        used = (given.meta["val"].dtype for given in node.all_input_nodes[1:])
        return any(dtype in _BOOLEAN for dtype in used)
    return "one_hot" not in str(node.target)


def _found_at(node: torch.fx.Node, found: tuple[str, str]) -> str:
    """What is wrong at a node of a captured graph."""
    frames = [
        f"{Path(file).name}:{line}, in {function}"
        for file, line, function in _FRAME.findall(node.meta.get("stack_trace") or "")
        if not Path(file).is_relative_to(Path(torch.__file__).parent)
    ]
    modules = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    inside = (modules or [""])[-1].removeprefix("module").lstrip(".")
    where = f"the part {inside}" if inside else "the network"
    return f"{where} {found[0]} ({(frames or ['unknown line'])[-1]}), {found[1]}"


def _require_same(
    network: OwnNetwork,
    expected: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    refused: tuple[str, str],
) -> None:
    """Raise ConfigError, which names the first part whose values differ."""
    wrong = [name for name in network.output_shapes if not _same(expected[name], found[name])]
    if wrong:
        # Inside, a batch may lie anywhere: only what has the same shape compares.
        inside = (n for n, v in expected.items() if v.shape == found[n].shape)
        first = next((n for n in inside if not _same(expected[n], found[n])), wrong[0])
        raise ConfigError(f"{_defined(network, first)} {refused[0]}; {refused[1]}")


def _same(expected: Tensor, found: Tensor) -> bool:
    if expected.shape != found.shape:
        return False
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    return torch.allclose(expected, found, rtol=0, atol=_SAME * largest, equal_nan=True)


def _defined(network: OwnNetwork, name: str) -> str:
    """The part of that name, or the network, and where its code stands."""
    part: nn.Module = network.module
    if name in network.units:
        part = network.module.get_submodule(name)
    try:
        file = inspect.getsourcefile(type(part)) or ""
        line = inspect.getsourcelines(type(part).forward)[1]
        place = f"{type(part).__name__}.forward, {Path(file).name}:{line}"
    except (OSError, TypeError):
        place = type(part).__name__
    where = f"the part {name}" if part is not network.module else f"the output {name}"
    return f"{where} ({place})"


class _Modules:
    """Which module is running."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._names: list[str] = []
        self._handles: list[Any] = []

    @property
    def inside(self) -> str:
        """The innermost one, for messages."""
        names = [name for name in self._names if name]
        return f", in the part {names[-1]}" if names else ""

    def __enter__(self) -> "_Modules":
        for name, part in self._module.named_modules():
            self._handles += [
                part.register_forward_pre_hook(lambda *_, name=name: self._names.append(name)),
                part.register_forward_hook(self._leave),
            ]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _leave(self, *_: object) -> None:
        self._names.pop()


class _OnlyFloat64(TorchDispatchMode):
    """Every result that is floating-point is float64, or ConfigError is raised."""

    def __init__(self, modules: _Modules) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._modules = modules

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            floats = isinstance(value, Tensor) and value.is_floating_point()
            if floats and value.dtype != torch.float64:
                what = str(value.dtype).removeprefix("torch.")
                raise ConfigError(self._message(_OTHER_TYPE[0].format(what), _OTHER_TYPE[1]))
        return result

    def _message(self, what: str, advice: str) -> str:
        frame: Any = sys._getframe()
        while frame is not None and not is_own(frame):
            frame = frame.f_back
        place = "" if frame is None else f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
        return f"the network {what} ({place}{self._modules.inside}), {advice}"

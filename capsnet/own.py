"""A user's own network: any torch module, with the names of its inputs and outputs.

Inputs are called as the parameters of its ``forward``. Outputs are called as the keys of a
dictionary or the fields of a named tuple that it returns, or ``output``, or ``output0``,
``output1``, ... . Where one of them names the class by its largest value, the module says so: an
attribute ``decision`` with its name.
"""

import hashlib
import inspect
import pickle
import types
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from capsnet.definitions import import_file, load_definitions
from capsnet.errors import CheckpointError, ConfigError, first_line
from capsnet.importers.reading import read_tensors
from capsnet.layers.base import Shape

__all__ = [
    "OwnNetwork",
    "call_factory",
    "identity_of",
    "input_names",
    "is_own",
    "load_weights",
    "place_of",
    "read_module",
    "weights_digest",
    "write_module",
]

_LIBRARIES = ("capsnet", "torch", "einops", "numpy")
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class OwnNetwork(nn.Module):
    """A user's own module behind the interface of a network.

    Args:
        module: as its author wrote it.
        example: an input each, float32 ``[batch, ...]``; the module runs on it once.

    Attributes:
        decision: the output that decides the class; None where nothing is classified.
        input_shapes: of one row of each input, by name.
        output_shapes: of one row of each output, by name, in order.
        units: of each of its parts (:meth:`parts`), the shape of one row of what it takes.

    Raises:
        ConfigError: if the module does not take these inputs, or gives anything but floating-point
            tensors with the batch first.
    """

    def __init__(self, module: nn.Module, example: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.module = module
        self.decision: str | None = getattr(module, "decision", None)
        self.input_shapes = {name: tuple(rows.shape[1:]) for name, rows in example.items()}
        self.units: Mapping[str, Shape] = {}
        with torch.no_grad():
            outputs = self._watched(tuple(example.values()))
        rows = len(next(iter(example.values())))
        for name, values in outputs.items():
            if not values.is_floating_point() or values.shape[:1] != (rows,):
                raise ConfigError(
                    f"{type(module).__name__} gives {name} as {values.dtype} {list(values.shape)} "
                    f"for a batch of {rows}, expected floating-point numbers [{rows}, ...]: give "
                    "scores in place of indices, and the batch first"
                )
        self.output_shapes = {name: tuple(values.shape[1:]) for name, values in outputs.items()}
        if self.decision is not None:
            self._check_decision()

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs in order."""
        return tuple(self.outputs_by_name(*inputs).values())

    def outputs_by_name(self, *inputs: Tensor) -> dict[str, Tensor]:
        """The outputs by name, in order."""
        return _named(self.module(*inputs), type(self.module).__name__)

    def parts(self) -> Mapping[str, nn.Module]:
        """The innermost modules that a run calls once, by their names in the module."""
        return {name: self.module.get_submodule(name) for name in self.units}

    @property
    def classes(self) -> int | None:
        """Number of classes; None where nothing is classified."""
        return None if self.decision is None else self.output_shapes[self.decision][0]

    @property
    def identity(self) -> dict[str, Any]:
        """What artifacts say of it, as JSON values."""
        return identity_of(self.module)

    def _watched(self, example: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Run on an example, and note which modules it calls once, a tensor in and a tensor out."""
        found: dict[str, tuple[Shape, Tensor, int]] = {}
        calls: Counter[str] = Counter()
        handles = []

        def watch(name: str) -> Any:
            def hook(_: nn.Module, given: tuple[Any, ...], result: Any) -> None:
                calls[name] += 1
                if len(given) == 1 and isinstance(given[0], Tensor) and isinstance(result, Tensor):
                    found[name] = tuple(given[0].shape[1:]), result, result._version

            return hook

        names = _innermost(self.module)
        for name in names:
            handles.append(self.module.get_submodule(name).register_forward_hook(watch(name)))
        try:
            outputs = self.outputs_by_name(*example)
        except ConfigError:
            raise
        except Exception as error:  # a user's own code may raise anything
            shapes = ", ".join(
                f"{k} {list(v.shape)}" for k, v in zip(self.input_shapes, example, strict=True)
            )
            raise ConfigError(
                f"{type(self.module).__name__} does not take {shapes}: {first_line(error)} "
                f"({place_of(error)}); give inputs of the shape that it was written for"
            ) from error
        finally:
            for handle in handles:
                handle.remove()
        shared = Counter(id(self.module.get_submodule(name)) for name in names)
        # What is an output, or what a later part gives, has that name alone.
        last = {id(result): name for name, (_, result, _) in found.items()}
        last |= {id(values): "" for values in outputs.values()}
        self.units = {
            name: shape
            for name, (shape, result, version) in found.items()
            if calls[name] == shared[id(self.module.get_submodule(name))] == 1
            and last[id(result)] == name
            and result._version == version  # what is changed in place later is no result
        }
        return outputs

    def _check_decision(self) -> None:
        shape = self.output_shapes.get(self.decision or "")
        if shape is None or len(shape) != 1 or shape[0] < 2:
            given = ", ".join(
                f"{n} [batch, {str(list(s))[1:]}" for n, s in self.output_shapes.items()
            )
            raise ConfigError(
                f"{type(self.module).__name__} says that {self.decision!r} decides the class, "
                f"expected an output [batch, classes]; it gives {given}"
            )


def identity_of(module: nn.Module) -> dict[str, Any]:
    """What artifacts say of a user's own module, as JSON values: neither code nor paths."""
    return {"module": type(module).__qualname__, "weights": weights_digest(module)}


def input_names(module: nn.Module) -> tuple[str, ...]:
    """The inputs of a module: the parameters of its ``forward`` that have no default.

    Raises:
        ConfigError: if there are none, or their number is open.
    """
    parameters = inspect.signature(module.forward).parameters.values()
    names = tuple(
        p.name for p in parameters if p.kind in _POSITIONAL and p.default is inspect.Parameter.empty
    )
    if not names or any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters):
        raise ConfigError(
            f"{type(module).__name__}.forward{inspect.signature(module.forward)} does not name its "
            "inputs, expected a parameter for each: forward(self, image)"
        )
    return names


def call_factory(file: Path, function: str) -> nn.Module:
    """The module that a function in a Python file makes.

    Raises:
        ConfigError: if there is no such file or function, or it gives no module.
    """
    if not file.is_file():
        raise ConfigError(f"there is no file {file}; give FILE.py:FACTORY")
    code = import_file(file)
    factory = getattr(code, function, None)
    if not callable(factory):
        own = [
            name
            for name, value in vars(code).items()
            if callable(value) and getattr(value, "__module__", None) == code.__name__
        ]
        raise ConfigError(
            f"{file} defines no function {function}, expected one of {', '.join(own) or '(none)'}"
        )
    try:
        module = factory()
    except Exception as error:  # a user's own code may raise anything
        raise ConfigError(
            f"{file}:{function}() failed: {error!r} ({place_of(error)}); expected a function that "
            "takes nothing and returns a torch.nn.Module"
        ) from error
    if not isinstance(module, nn.Module):
        raise ConfigError(
            f"{file}:{function}() returned {type(module).__name__}, expected a torch.nn.Module"
        )
    return module


def load_weights(module: nn.Module, path: Path) -> None:
    """Load a ``state_dict`` into a module, of any kind of file that weights are imported from.

    Raises:
        CheckpointError: if it cannot be read, or does not fit.
    """
    tensors = read_tensors(path)
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:  # it lists everything, a line each
        problems = [line.strip() for line in str(error).splitlines()[1:]]
        raise CheckpointError(
            f"{path} does not fit {type(module).__name__}: {problems[0] if problems else error}; "
            "give the weights of this network, as its state_dict names them"
        ) from error


def weights_digest(module: nn.Module) -> str:
    """SHA-256 of all parameters and buffers: their names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        if isinstance(tensor, Tensor):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            plain = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(plain.numpy().data)
    return digest.hexdigest()


def write_module(module: nn.Module, path: Path) -> None:
    """Write a module for another process of one's own, which reads it with :func:`read_module`.

    Raises:
        ConfigError: if it holds what cannot be written.
    """
    try:
        torch.save(module, path)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"{type(module).__name__} cannot be sent to the process that proves it: "
            f"{first_line(error)}; define its classes and functions at the top of a Python file, "
            "or give the network as FILE.py:FACTORY"
        ) from error


def read_module(path: Path, definitions: Sequence[Path]) -> nn.Module:
    """The module that :func:`write_module` wrote in a process of one's own.

    Args:
        path: the file. Reading it executes code: it is never a file that others wrote.
        definitions: files that define its classes; one was that process's own script.
    """
    scripts = load_definitions(definitions)

    class Unpickler(pickle.Unpickler):
        def find_class(self, module_name: str, global_name: str) -> Any:
            try:
                if module_name != "__main__":
                    return super().find_class(module_name, global_name)
            except ModuleNotFoundError:  # it has this name in the process that wrote it
                pass
            for script in scripts:
                if hasattr(script, global_name):
                    return getattr(script, global_name)
            return super().find_class(module_name, global_name)

    reader = types.ModuleType("reader")
    reader.__dict__.update(vars(pickle), Unpickler=Unpickler)
    module: nn.Module = torch.load(path, weights_only=False, pickle_module=reader)
    return module


def place_of(error: BaseException) -> str:
    """Where in a user's own code an error arose: ``net.py:12, in forward``."""
    place, trace = "", error.__traceback__
    while trace is not None:
        if is_own(trace.tb_frame):
            code = trace.tb_frame.f_code
            place = f"{Path(code.co_filename).name}:{trace.tb_lineno}, in {code.co_name}"
        trace = trace.tb_next
    return place or "where it is called"


def is_own(frame: types.FrameType) -> bool:
    """Whether a frame runs a user's own code: neither of this package nor of torch."""
    package = str(frame.f_globals.get("__name__")).partition(".")[0]
    return package not in _LIBRARIES


def _innermost(module: nn.Module, prefix: str = "") -> list[str]:
    """Names of the modules that hold no other one, are layers of this package, or name stages."""
    names = []
    for name, part in module.named_children():
        ours = type(part).__module__.startswith("capsnet.layers.")
        if ours or hasattr(part, "stages") or not list(part.children()):
            names.append(prefix + name)
        else:
            names += _innermost(part, f"{prefix}{name}.")
    return names


def _named(result: Any, taker: str) -> dict[str, Tensor]:
    """What a module returned, by name."""
    if isinstance(result, Mapping):
        found = dict(result)
    elif isinstance(result, tuple) and hasattr(result, "_fields"):
        found = dict(zip(result._fields, result, strict=True))
    elif isinstance(result, tuple | list):
        found = {f"output{number}": values for number, values in enumerate(result)}
    else:
        found = {"output": result}
    odd = {name: value for name, value in found.items() if not isinstance(value, Tensor)}
    if odd or not found or not all(isinstance(name, str) for name in found):
        what = ", ".join(f"{name}: {type(value).__name__}" for name, value in odd.items())
        raise ConfigError(
            f"{taker} returned {what or 'nothing'}, expected a tensor, or several in a dictionary, "
            "a named tuple or a tuple"
        )
    return found

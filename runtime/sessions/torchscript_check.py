"""What a TorchScript archive may hold, checked before torch reads it. Needs no torch.

Its code is a part of Python's language, so Python's own parser reads it here: classes that hold
tensors and classes, and one function that assigns what the allowed operators give. No branch, no
loop, no other method: ``torch.jit.load`` runs some of them.
"""

import ast
import re
from collections.abc import Iterator, Mapping

from capsnet.errors import ArtifactError
from capsnet.runtime.sessions.allowed import ATEN, check_operators, check_sizes
from capsnet.runtime.sessions.archive import check_records, read_archive
from capsnet.runtime.sessions.pickles import Built, Tensor, read_pickle

__all__ = ["check_torchscript"]

_REQUIRED = {"byteorder", "constants.pkl", "data.pkl", ".data/serialization_id"}
_MORE = r"extra/capsnet|(constants|data)/[0-9]+|code/__torch__/([A-Za-z_]\w*/)*[A-Za-z_]\w*\.py"
# In this, Python and torch cannot read a line differently: no comments, escapes or odd characters.
_PLAIN = re.compile(rb'[A-Za-z0-9_ \n.,:;=()\[\]{}+\-*/%<>!"]*')
_DEEPEST = 60
_PLAIN_CALLS = {"int", "float", "bool", "annotate", "unchecked_cast"}
_PRIM = {"ops.prim.NumToTensor"}
_TYPES = {"Tensor", "int", "float", "bool", "List", "Tuple", "Optional", "number", "Device"}
_FRESH = {"torch.add", "torch.div", "torch.mul", "torch.sub"}  # they give new memory
_FRESH |= {f"{name}_" for name in _FRESH}  # and these, that of what they may change
_NODES = (
    *(ast.Assign, ast.Return, ast.Expr, ast.Call, ast.Name, ast.Attribute, ast.Constant, ast.List),
    *(ast.Tuple, ast.UnaryOp, ast.USub, ast.Load, ast.Store, ast.keyword, ast.Subscript),
)

Fields = Mapping[str, str]
"""The types of what a class holds, by name."""


def check_torchscript(content: bytes) -> None:
    """Refuse an archive that holds anything but a network.

    Args:
        content: of the file.

    Raises:
        ArtifactError: if it does; the message says what.
    """
    records = read_archive(content)
    version = ".data/version" if ".data/version" in records else "version"  # of newer operators
    check_records(records, _REQUIRED | {version}, _MORE)
    constants = read_pickle(records, "constants.pkl", "constants")
    if not isinstance(constants, tuple) or not all(isinstance(c, Tensor) for c in constants):
        raise ArtifactError("its constants are not all tensors")
    classes: dict[str, Fields] = {}
    for name, data in records.items():
        if name.startswith("code/"):
            module = name.removeprefix("code/").removesuffix(".py").replace("/", ".")
            for kind in _classes(bytes(data)):
                classes[f"{module}.{kind.name}"] = _check_class(kind, len(constants))
    _check_object(read_pickle(records, "data.pkl", "data"), classes)


def _classes(source: bytes) -> list[ast.ClassDef]:
    if not _PLAIN.fullmatch(source) or b'""' in source:
        raise ArtifactError("its code holds characters that torch does not write")
    try:
        module = ast.parse(source)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise ArtifactError("its code cannot be parsed") from error
    kinds = [node for node in module.body if isinstance(node, ast.ClassDef)]
    if len(kinds) < len(module.body):
        raise ArtifactError("its code holds something else than classes")
    for kind in kinds:
        if [ast.unparse(base) for base in kind.bases] != ["Module"] or kind.keywords:
            raise ArtifactError(f"its class {kind.name} is no module")
        if kind.decorator_list:
            raise ArtifactError(f"its class {kind.name} is decorated")
    return kinds


def _check_class(kind: ast.ClassDef, constants: int) -> Fields:
    """What the class holds; refuses one that does more than to compute."""
    fields: dict[str, str] = {}
    for part in kind.body:
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name) and not part.value:
            fields[part.target.id] = _type(part.annotation)
        elif isinstance(part, ast.FunctionDef):
            _check_function(part, constants)
        elif isinstance(part, ast.Assign):
            [target] = part.targets
            name = ast.unparse(target)
            if isinstance(target, ast.Subscript) and _named(target.slice) is not None:
                name = ast.unparse(target.value)  # of a part whose name is a number
                fields[str(_named(target.slice))] = _type(part.value)
            if name not in ("__parameters__", "__buffers__", "__annotations__"):
                raise ArtifactError(f"its class {kind.name} sets {name}")
        else:
            raise ArtifactError(f"its class {kind.name} holds {type(part).__name__}")
    return fields


def _check_function(function: ast.FunctionDef, constants: int) -> None:
    if function.name != "forward" or function.decorator_list:
        raise ArtifactError(
            f"its code holds the method {function.name}, which could run on loading"
        )
    given = function.args
    if given.posonlyargs or given.kwonlyargs or given.vararg or given.kwarg or given.defaults:
        raise ArtifactError("its forward takes something else than the images")
    for argument in given.args[1:]:
        if argument.annotation is not None:
            _type(argument.annotation)
    if function.returns is not None:
        _type(function.returns)
    nodes = [node for statement in function.body for node in _within(statement)]
    for node in nodes:
        if not isinstance(node, _NODES):
            check_operators([f"{type(node).__name__} (of TorchScript)"], frozenset())
        if isinstance(node, ast.Constant):
            if isinstance(node.value, int):
                check_sizes([node.value])
        elif isinstance(node, ast.List):
            check_sizes(_numbers(node))
        elif isinstance(node, ast.Attribute):
            _check_attribute(node, constants)
    _check_calls(function.body, [node for node in nodes if isinstance(node, ast.Call)])


def _check_calls(body: list[ast.stmt], calls: list[ast.Call]) -> None:
    """Allowed operators only, and none that changes the weights or repeats a list."""
    values = {
        target.id: statement.value
        for statement in body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    for call in calls:
        name = ast.unparse(call.func)
        if name in _PLAIN_CALLS or name in _PRIM:
            continue
        if name == "getattr" and len(call.args) == 2 and _named(call.args[1]) is not None:
            continue  # the same as a dot, for a part whose name is a number
        operator = name.removeprefix("torch.").removeprefix("ops.aten.")
        first = call.args[0] if call.args else None
        first = values.get(first.id, first) if isinstance(first, ast.Name) else first
        if operator.endswith("_") and not operator.startswith("_"):
            made = ast.unparse(first.func) if isinstance(first, ast.Call) else ""
            if made not in _FRESH:
                raise ArtifactError(f"its code changes a tensor in place ({name})")
            operator = operator.removesuffix("_")
        if operator in ("add", "mul") and any(_is_list(a, values) for a in call.args):
            raise ArtifactError(f"its code repeats a list ({name})")
        check_operators([f"aten::{operator}"], frozenset(f"aten::{known}" for known in ATEN))


def _named(value: ast.expr) -> str | None:
    """The name of a part of a module, in quotes because it is a number; None for anything else."""
    if isinstance(value, ast.Constant) and re.fullmatch(r"[0-9]+", str(value.value)):
        return str(value.value)
    return None


def _is_list(argument: ast.expr, values: Mapping[str, ast.expr]) -> bool:
    if isinstance(argument, ast.Name):
        argument = values.get(argument.id, argument)
    return isinstance(argument, ast.List | ast.Tuple)


def _check_attribute(node: ast.Attribute, constants: int) -> None:
    if isinstance(node.value, ast.Name) and node.value.id == "CONSTANTS":
        number = node.attr.removeprefix("c")
        if not number.isdecimal() or int(number) >= constants:
            raise ArtifactError(f"its code names a constant that is missing, {node.attr}")
    if node.attr.startswith("__"):
        raise ArtifactError(f"its code names {node.attr}")


def _numbers(values: ast.List) -> Iterator[int]:
    for value in values.elts:
        if isinstance(value, ast.Constant) and isinstance(value.value, int):
            yield value.value


def _type(annotation: ast.expr) -> str:
    """The name of a type; refuses all but tensors, numbers and classes of the archive."""
    name = ast.unparse(annotation)
    plain = {n.id for n in ast.walk(annotation) if isinstance(n, ast.Name)}
    if not (plain <= _TYPES or re.fullmatch(r"__torch__(\.\w+)+", name)):
        raise ArtifactError(f"its code holds the type {name}")
    return name


def _within(statement: ast.stmt) -> Iterator[ast.AST]:
    pending: list[tuple[ast.AST, int]] = [(statement, 0)]
    while pending:
        node, depth = pending.pop()
        if depth > _DEEPEST:
            raise ArtifactError("its code is nested too deeply")
        yield node
        pending += [(child, depth + 1) for child in ast.iter_child_nodes(node)]


def _check_object(value: object, classes: Mapping[str, Fields]) -> None:
    """The network's modules and tensors are those that its code declares."""
    if not isinstance(value, Built) or value.kind not in classes:
        raise ArtifactError("its data are not a module that its code declares")
    fields = classes[value.kind]
    if fields.keys() != value.state.keys():
        raise ArtifactError(f"what its module {value.kind} holds is not what its code declares")
    for name, held in value.state.items():
        if isinstance(held, Tensor) and fields[name] == "Tensor":
            continue
        if not isinstance(held, Built) or fields[name] != held.kind:
            raise ArtifactError(f"{name} of its module {value.kind} is not what its code declares")
        _check_object(held, classes)

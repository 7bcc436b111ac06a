"""What a torch.export archive may hold, checked before torch reads it. Needs no torch.

``torch.export.load`` unpickles what the archive calls a pickle, loads libraries that lie in it, and
evaluates texts of its graph as Python: guards, symbolic sizes, types of containers. So the document
of the graph is read here first, and what a network does not need is refused.
"""

import json
import re
import types
from collections.abc import Iterator, Mapping
from typing import Any

from capsnet.documents import parse_json
from capsnet.errors import ArtifactError
from capsnet.runtime.sessions.allowed import (
    ATEN,
    SYMBOLIC,
    check_operators,
    check_sizes,
)
from capsnet.runtime.sessions.archive import check_records, read_archive
from capsnet.runtime.sessions.pickles import check_extent

__all__ = ["check_pt2"]

_GRAPH, _SAMPLES = "models/model.json", "data/sample_inputs/model.pt"
_PAYLOADS = {
    "data/weights/model_weights_config.json": "weight",
    "data/constants/model_constants_config.json": "tensor",
}
_REQUIRED = {
    *(_GRAPH, _SAMPLES, *_PAYLOADS, "archive_format", "archive_version", "byteorder"),
    *(".data/version", ".data/serialization_id"),
}
_MORE = r"extra/capsnet|data/weights/weight_[0-9]+|data/constants/tensor_[0-9]+"
# Numbers of torch's types (its schema calls them ScalarType), and their sizes in bytes.
_ITEM_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 2, 7: 4, 8: 8, 12: 1, 13: 2}
_STRIDED = 7
_ARGUMENTS = {
    *("as_bool", "as_bools", "as_device", "as_float", "as_floats", "as_int", "as_ints"),
    *("as_layout", "as_memory_format", "as_none", "as_optional_tensors", "as_scalar_type"),
    *("as_string", "as_sym_int", "as_sym_ints", "as_tensor", "as_tensors"),
}
_INPUTS = {"parameter", "buffer", "tensor_constant", "user_input"}
_NOTES = {"nn_module_stack", "torch_fn"}
# Words of the graph become words of Python: names, dotted or not.
_NAME = re.compile(r"[A-Za-z0-9_.]*")
_NOTE = re.compile(r"[\w.,;:<>()\[\] @\-]*")
_VERSION = re.compile(r"[\w.+\-]*")
_EXPRESSION = re.compile(
    r"(Symbol|Integer|Add|Mul|FloorDiv|positive|nonnegative|integer|True|'[su][0-9]+'"
    r"|-?[0-9]{1,12}|[(),= ])*"
)
_SPECIFIED = {"builtins.tuple", "builtins.list", "builtins.dict", None}
_LONGEST = 4096


def check_pt2(content: bytes) -> None:
    """Refuse an archive that holds anything but a network.

    Args:
        content: of the file.

    Raises:
        ArtifactError: if it does; the message says what.
    """
    records = read_archive(content)
    check_records(records, _REQUIRED, _MORE)
    if len(records[_SAMPLES]):
        raise ArtifactError(f"it holds pickled objects ({_SAMPLES}), which are never executed")
    try:
        named = {path for p, prefix in _PAYLOADS.items() for path in _payload(records, p, prefix)}
        unnamed = {name for name in records if re.fullmatch(_MORE, name)} - named
        if unnamed - {"extra/capsnet"}:
            raise ArtifactError(f"nothing names its record {min(unnamed)}")
        _check_program(_json(records, _GRAPH))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
        raise ArtifactError(f"its description of the graph is damaged ({error!r})") from error


def _json(records: Mapping[str, memoryview], name: str) -> Any:
    try:
        return parse_json(bytes(records[name]))
    except ValueError as error:
        raise ArtifactError(f"its record {name} is damaged: {error}") from error


def _payload(records: Mapping[str, memoryview], name: str, prefix: str) -> Iterator[str]:
    """The records of weights or constants, each as large as its tensor says."""
    document = _json(records, name)
    _only(document, {"config"})
    for entry in document["config"].values():
        path = entry["path_name"]
        record = f"{name.rpartition('/')[0]}/{path}"
        if entry["use_pickle"] is not False or not re.fullmatch(rf"{prefix}_[0-9]+", path):
            raise ArtifactError(f"it holds pickled tensors ({record}), which are never executed")
        if record not in records:
            raise ArtifactError(f"the record {record} is missing")
        tensor = entry["tensor_meta"]
        if tensor["layout"] != _STRIDED or tensor["device"] != {"type": "cpu", "index": None}:
            raise ArtifactError(f"its record {record} is no plain tensor on the CPU")
        item, size = _ITEM_SIZES[tensor["dtype"]], len(records[record])
        if size % item:
            raise ArtifactError(f"the record {record} is cut off")
        sizes, strides = (tuple(n["as_int"] for n in tensor[key]) for key in ("sizes", "strides"))
        check_extent(size // item, tensor["storage_offset"]["as_int"], sizes, strides)
        yield record


def _check_program(program: dict[str, Any]) -> None:
    _check_words(program, "")
    module = program["graph_module"]
    graph, signature = module["graph"], module["signature"]
    for what, empty in (
        ("guards that are code", program.get("guards_code")),
        ("objects of Python", graph.get("custom_obj_values")),
        ("metadata of its own", module.get("metadata")),
        ("named tuples", module.get("treespec_namedtuple_fields")),
        ("symbolic truth values", graph.get("sym_bool_values")),
        ("symbolic fractions", graph.get("sym_float_values")),
    ):
        if empty:
            raise ArtifactError(f"its graph holds {what}, which the exporter does not write")
    for spec in signature["input_specs"]:
        _only(spec, _INPUTS)
    for spec in signature["output_specs"]:
        _only(spec, {"user_output"})
    for call in module["module_call_graph"]:
        if call["signature"] is not None:
            _check_containers(call["signature"]["in_spec"])
            _check_containers(call["signature"]["out_spec"])
    for argument in (*graph["inputs"], *graph["outputs"]):
        _only(argument, {"as_tensor"})
    check_operators(*_operators(graph["nodes"]))
    for node in graph["nodes"]:
        _check_node(node)


def _operators(nodes: list[dict[str, Any]]) -> tuple[list[str], frozenset[str]]:
    """The operators, and those of them that are allowed, whatever their overload."""
    found = [node["target"] for node in nodes]
    allowed = {target for target in found if target in SYMBOLIC or _is_aten(target)}
    return found, frozenset(allowed)


def _is_aten(target: str) -> bool:
    match = re.fullmatch(r"torch\.ops\.aten\.(\w+)\.(\w+)", target)
    return match is not None and match[1] in ATEN and "out" not in match[2]


def _check_node(node: dict[str, Any]) -> None:
    target, unknown = node["target"], set(node["metadata"]) - _NOTES
    if unknown:
        raise ArtifactError(f"its node {target} holds {min(unknown)}")
    arguments = [given["arg"] for given in node["inputs"]]
    for argument in (*arguments, *node["outputs"]):
        _only(argument, _ARGUMENTS)
    for argument in arguments:
        for kind, value in argument.items():
            if kind == "as_int":
                check_sizes([value])
            elif kind in ("as_ints", "as_sym_ints"):
                sizes = [v.get("as_int", 1) if isinstance(v, dict) else v for v in value]
                check_sizes(sizes)
            elif kind == "as_device" and value != {"type": "cpu", "index": None}:
                raise ArtifactError(f"its node {target} names the device {value}")
    if target == "_operator.mul" and not any("as_int" in a or "as_float" in a for a in arguments):
        raise ArtifactError("its graph multiplies sizes with each other")


def _check_words(value: Any, key: str, depth: int = 0) -> None:
    """Every text is a name, but those that are checked on their own."""
    if depth > 30:
        raise ArtifactError("its description of the graph is nested too deeply")
    if isinstance(value, dict):
        for name, inner in value.items():
            _check_word(name, "")
            _check_words(inner, name, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _check_words(inner, key, depth + 1)
    elif isinstance(value, str):
        _check_word(value, key)


def _check_word(text: str, key: str) -> None:
    patterns = {
        "expr_str": _EXPRESSION,
        "torch_version": _VERSION,
        "as_string": _NOTE,  # such as the equation of a sum; it stays a text
        **dict.fromkeys(_NOTES, _NOTE),
    }
    if key in ("in_spec", "out_spec"):
        return  # see _check_containers
    special = key not in patterns and any(part.startswith("__") for part in text.split("."))
    if len(text) > _LONGEST or not patterns.get(key, _NAME).fullmatch(text) or special:
        raise ArtifactError(
            f"its graph holds the text {text[:60]!r}, which may be code: torch would execute it"
        )


def _check_containers(text: str) -> None:
    """How arguments and results are packed: in tuples, lists and dictionaries alone."""
    version, packed = json.loads(text)
    pending = [packed]
    while pending:
        part = pending.pop()
        plain = isinstance(part["context"], str | types.NoneType) and not re.search(
            r"[^\w\[\]\", ]", part["context"] or ""
        )
        if version != 1 or part["type"] not in _SPECIFIED or not plain:
            raise ArtifactError(f"its graph packs results in {part['type']!r}")
        pending += part["children_spec"]


def _only(value: Any, keys: set[str]) -> None:
    if set(value) - keys or not value:
        what = ", ".join(sorted(set(value) - keys)) or "nothing"
        raise ArtifactError(f"its graph holds {what}, which the exporter does not write")

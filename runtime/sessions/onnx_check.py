"""What an ONNX file may hold, checked before onnxruntime reads it. Needs neither onnx nor more.

One graph of standard operators, whose weights are inside: no files beside it, no graphs inside
nodes, no functions. How large its tensors are: see :mod:`capsnet.runtime.sessions.onnx_sizes`.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from capsnet.errors import ArtifactError
from capsnet.runtime.sessions.allowed import ONNX, ONNX_DOMAINS, check_operators, check_sizes
from capsnet.runtime.sessions.protobuf import BYTES, fields, integers

__all__ = ["check_onnx", "onnx_metadata", "onnx_operators"]

# Numbers of fields in onnx.proto.
_MODEL_GRAPH, _MODEL_OPSETS, _MODEL_OTHERS = 7, 8, {20: "training", 25: "functions"}
_MODEL_METADATA, _ENTRY_KEY, _ENTRY_VALUE = 14, 1, 2
_GRAPH_NODES, _GRAPH_WEIGHTS, _GRAPH_SPARSE = 1, 5, 15
_NODE_INPUTS, _NODE_OUTPUTS, _NODE_OPERATOR, _NODE_ATTRIBUTES, _NODE_DOMAIN = 1, 2, 4, 5, 7
_ATTRIBUTE_NAME, _ATTRIBUTE_INTEGER, _ATTRIBUTE_TENSOR, _ATTRIBUTE_INTEGERS = 1, 3, 5, 8
_ATTRIBUTE_OTHERS = {
    6: "a graph",
    10: "tensors",
    11: "graphs",
    14: "a type",
    15: "types",
    21: "a reference",
    22: "a sparse tensor",
    23: "sparse tensors",
}
_TENSOR_SIZES, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW = 1, 2, 8, 9
_TENSOR_INT_32, _TENSOR_INT_64, _TENSOR_FILES, _TENSOR_PLACE = 5, 7, 13, 14

# Bits of an element, by the number of its type.
_BITS = dict.fromkeys((2, 3, 9, 17, 18, 19, 20), 8) | dict.fromkeys((21, 22), 4)
_BITS |= dict.fromkeys((4, 5, 10, 16), 16) | dict.fromkeys((1, 6, 12), 32)
_BITS |= dict.fromkeys((7, 11, 13), 64)
_INTEGERS = {6: 4, 7: 8}
_POSITIVE = {"dilations", "group", "kernel_shape", "strides", "blocksize", "num_outputs"}
_MOST_SIZES = 64
_INT_64 = 7
_FLOATS = {1, 10, 11, 16}
_MAKE_INTEGERS = {
    *("And", "ArgMax", "ArgMin", "Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less"),
    *("LessOrEqual", "MatMulInteger", "ConvInteger", "Not", "Or", "QLinearConv", "QLinearMatMul"),
    *("QuantizeLinear", "DynamicQuantizeLinear", "Shape", "Size", "Xor"),
}


@dataclass
class _Node:
    operator: str = ""
    domain: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    tensors: list["_Tensor"] = field(default_factory=list)
    to: int = 0


@dataclass
class _Tensor:
    name: str
    kind: int
    count: int
    raw: memoryview
    typed: list[int]

    def integers(self) -> list[int]:
        """Its elements, where they are integers, as sizes are."""
        size = _INTEGERS.get(self.kind)
        if size is None or self.count > _MOST_SIZES:
            return [] if size is None else [self.count]
        if self.typed:
            return self.typed
        parts = (self.raw[i : i + size] for i in range(0, len(self.raw), size))
        return [int.from_bytes(part, "little", signed=True) for part in parts]


def check_onnx(content: bytes) -> None:
    """Refuse a file that holds anything but a network.

    Args:
        content: of the file.

    Raises:
        ArtifactError: if it does; the message says what.
    """
    try:
        nodes, weights = _read_model(memoryview(content))
    except (ValueError, IndexError, TypeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"the protocol buffer is truncated or damaged ({error})") from error
    check_operators((_full_name(node) for node in nodes), ONNX)
    _check_divisions(nodes, weights)


def onnx_operators(content: bytes) -> Mapping[str, int]:
    """How often each operator occurs in a file that :func:`check_onnx` has accepted."""
    nodes, _ = _read_model(memoryview(content))
    return Counter(_full_name(node) for node in nodes)


def onnx_metadata(content: bytes, key: str) -> str | None:
    """What a file that :func:`check_onnx` has accepted says under a key; None if nothing."""
    for number, wire, value in fields(memoryview(content)):
        if number == _MODEL_METADATA:
            entry = {inner: text for inner, _, text in fields(_message(wire, value))}
            if _text(BYTES, entry.get(_ENTRY_KEY, 0)) == key:
                return _text(BYTES, entry.get(_ENTRY_VALUE, 0))
    return None


def _full_name(node: _Node) -> str:
    return node.operator if node.domain in ONNX_DOMAINS else f"{node.domain}::{node.operator}"


def _read_model(content: memoryview) -> tuple[list[_Node], list[_Tensor]]:
    nodes: list[_Node] = []
    weights: list[_Tensor] = []
    for number, wire, value in fields(content):
        if number in _MODEL_OTHERS:
            raise ArtifactError(f"it holds {_MODEL_OTHERS[number]}, expected a graph alone")
        if number == _MODEL_GRAPH:
            _read_graph(_message(wire, value), nodes, weights, len(content))
        elif number == _MODEL_OPSETS:
            for inner, inner_wire, name in fields(_message(wire, value)):
                if inner == 1 and _text(inner_wire, name) not in ONNX_DOMAINS:
                    raise ArtifactError(
                        f"it uses the operators of {_text(inner_wire, name)}, expected the "
                        "standard ones alone"
                    )
    return nodes, weights


def _read_graph(graph: memoryview, nodes: list[_Node], weights: list[_Tensor], size: int) -> None:
    for number, wire, value in fields(graph):
        if number == _GRAPH_NODES:
            nodes.append(_read_node(_message(wire, value), size))
        elif number == _GRAPH_WEIGHTS:
            weights.append(_read_tensor(_message(wire, value), size))
        elif number == _GRAPH_SPARSE:
            raise ArtifactError("it holds sparse weights, which the exporter does not write")


def _read_node(message: memoryview, size: int) -> _Node:
    node = _Node()
    for number, wire, value in fields(message):
        if number == _NODE_INPUTS:
            node.inputs.append(_text(wire, value))
        elif number == _NODE_OUTPUTS:
            node.outputs.append(_text(wire, value))
        elif number == _NODE_OPERATOR:
            if node.operator:
                raise ValueError("a node has two operators")
            node.operator = _text(wire, value)
        elif number == _NODE_DOMAIN:
            node.domain = node.domain or _text(wire, value)
        elif number == _NODE_ATTRIBUTES:
            _read_attribute(_message(wire, value), node, size)
    return node


def _read_attribute(message: memoryview, node: _Node, size: int) -> None:
    name = ""
    numbers: list[int] = []
    for number, wire, value in fields(message):
        if number in _ATTRIBUTE_OTHERS:
            raise ArtifactError(
                f"its node {node.operator} holds {_ATTRIBUTE_OTHERS[number]}: it would branch, "
                "loop or call, and such graphs are never run"
            )
        if number == _ATTRIBUTE_NAME:
            name = _text(wire, value)
        elif number in (_ATTRIBUTE_INTEGER, _ATTRIBUTE_INTEGERS):
            numbers += integers(wire, value)
        elif number == _ATTRIBUTE_TENSOR:
            node.tensors.append(_read_tensor(_message(wire, value), size))
    if name == "to" and numbers:
        node.to = numbers[-1]
    elif name in ("value_int", "value_ints"):
        node.to = _INT_64
    if name in _POSITIVE and any(n < 1 for n in numbers):
        raise ArtifactError(f"its node {node.operator} has {name} {numbers}, expected at least 1")
    if name in _POSITIVE | {"pads", "value_int", "value_ints"}:
        check_sizes(numbers)


def _read_tensor(message: memoryview, limit: int) -> _Tensor:
    tensor = _Tensor("", 0, 1, memoryview(b""), [])
    sizes: list[int] = []
    for number, wire, value in fields(message):
        if number == _TENSOR_FILES or (number == _TENSOR_PLACE and value != 0):
            raise ArtifactError(
                "it keeps tensors in another file, which is no part of what was proven: expected "
                "one file; export it again"
            )
        if number == _TENSOR_SIZES:
            sizes += integers(wire, value)
        elif number == _TENSOR_TYPE:
            tensor.kind = value if isinstance(value, int) else 0
        elif number == _TENSOR_NAME:
            tensor.name = _text(wire, value)
        elif number == _TENSOR_RAW:
            tensor.raw = _message(wire, value)
        elif number in (_TENSOR_INT_32, _TENSOR_INT_64) and len(tensor.typed) <= _MOST_SIZES:
            tensor.typed += integers(wire, value)
    if any(size < 0 for size in sizes):
        raise ValueError("a tensor has a negative size")
    tensor.count = math.prod(sizes)
    if tensor.count * _BITS.get(tensor.kind, 0) // 8 > limit:
        raise ArtifactError(
            f"its tensor {tensor.name} claims {tensor.count} elements, more than the file holds"
        )
    return tensor


def _constants(nodes: list[_Node], weights: list[_Tensor]) -> dict[str, _Tensor]:
    found = {tensor.name: tensor for tensor in weights}
    if len(found) < len(weights):
        raise ArtifactError("two of its weights have one name")
    return found | {
        node.outputs[0]: node.tensors[0]
        for node in nodes
        if node.operator == "Constant" and node.outputs and node.tensors
    }


def _check_divisions(nodes: list[_Node], weights: list[_Tensor]) -> None:
    """No integers are divided by zero: onnxruntime would end the whole process.

    Nodes come in the order in which they are computed.
    """
    constants = _constants(nodes, weights)
    made = {name for node in nodes for name in node.outputs}
    floats = {tensor.name for tensor in weights if tensor.kind in _FLOATS}
    floats |= {name for node in nodes for name in node.inputs} - made - constants.keys()
    for node in nodes:
        if node.operator in ("Div", "Mod") and not set(node.inputs[:2]) & floats:
            divisor = constants.get(node.inputs[1]) if len(node.inputs) > 1 else None
            if divisor is None or divisor.count > _MOST_SIZES or min(divisor.integers() or [0]) < 1:
                raise ArtifactError(
                    f"its graph divides integers by what may be zero ({node.operator}), expected "
                    "positive constants; export it without that"
                )
        if _gives_floats(node, floats):
            floats.update(node.outputs if node.operator == "Split" else node.outputs[:1])


def _gives_floats(node: _Node, floats: set[str]) -> bool:
    """Whether a node's first result is of floats; false where that is not known."""
    if node.operator == "Cast":
        return node.to in _FLOATS
    if node.operator == "CastLike":
        return set(node.inputs[1:]) <= floats
    if node.operator in ("Constant", "ConstantOfShape"):
        return node.to != _INT_64 and all(tensor.kind in _FLOATS for tensor in node.tensors)
    if node.operator == "DequantizeLinear":
        return True
    return node.operator not in _MAKE_INTEGERS and bool(set(node.inputs[:3]) & floats)


def _message(wire: int, value: int | memoryview) -> memoryview:
    if wire != BYTES or isinstance(value, int):
        raise ValueError("a message has another wire type")
    return value


def _text(wire: int, value: int | memoryview) -> str:
    return bytes(_message(wire, value)).decode("utf-8")

"""How large the tensors of an ONNX graph are, before any of them is computed.

onnxruntime infers shapes when it loads a graph, and folds constants right after. So it is given a
skeleton first, to infer and not to fold: the nodes, the small constants, of the weights only the
shapes. What the file itself says of the shapes inside is left out. Of what then is unknown, the few
numbers are computed that follow from shapes, and the rest is inferred again.
"""

import itertools
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions

from capsnet.errors import ArtifactError, first_line
from capsnet.runtime.sessions.allowed import check_elements
from capsnet.runtime.sessions.protobuf import VARINT, encoded, fields, integers

__all__ = ["check_sizes_of_onnx"]

# Numbers of fields in onnx.proto.
_IR_VERSION, _GRAPH, _OPSETS = 1, 7, 8
_NODES, _NAME, _WEIGHTS, _INPUTS, _OUTPUTS = 1, 2, 5, 11, 12
_SMALL = 4096  # bytes of a constant: sizes are far below, weights of any note above
_FATAL = 4
_FEW = 64  # elements that sizes are computed with
_MOST_ROUNDS = 4  # sizes of tensors, whose sizes are computed from sizes of tensors, ...
_KINDS = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "bool": 9, "float64": 11}
_KINDS |= {"float16": 10}

Shapes = dict[str, list[int]]


def check_sizes_of_onnx(content: bytes) -> None:
    """Refuse a graph whose tensors would take more memory than a network needs.

    Args:
        content: of a file that holds allowed operators only.

    Raises:
        ArtifactError: if it would, if a size is known only when it runs, or if onnxruntime cannot
            load the graph.
    """
    check_elements(lambda batch: _elements(content, batch))


def _elements(content: bytes, batch: int) -> int:
    """Elements of all tensors that are computed for a batch, those of intermediate steps too."""
    graph = _Graph(memoryview(content), batch)
    shapes, unknown = graph.infer()
    for _ in range(_MOST_ROUNDS):
        if not unknown:
            break
        graph.compute_sizes(shapes)
        shapes, unknown = graph.infer()
    if unknown:
        raise ArtifactError(
            f"the size of its tensor {unknown[0]} is known only when it runs, and may ask for any "
            "memory; export it with fixed sizes"
        )
    computed = (math.prod(shapes[name]) for node in graph.nodes for name in node.outputs if name)
    return sum(computed) + sum(_inside(node, shapes) for node in graph.nodes)


@dataclass
class _Node:
    message: memoryview
    operator: bytes = b""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    equation: str = ""
    part: dict[bytes, int] = field(default_factory=dict)  # of a shape: its start and end


class _Graph:
    """The skeleton of a graph: without the numbers in its weights."""

    def __init__(self, content: memoryview, batch: int) -> None:
        self.nodes: list[_Node] = []
        self._model: list[bytes] = []
        self._inputs: dict[str, bytes] = {}
        self._constants: dict[str, bytes] = {}
        for number, _, value in fields(content):
            if number in (_IR_VERSION, _OPSETS):
                self._model.append(encoded(number, value))
            elif number == _GRAPH:
                for part, _, inner in fields(_bytes(value)):
                    self._add(part, inner, batch)

    def _add(self, number: int, value: int | memoryview, batch: int) -> None:
        if number == _NODES:
            self.nodes.append(_node(_bytes(value)))
        elif number == _INPUTS:
            name, declared = _input(_bytes(value), batch)
            self._inputs[name] = declared
        elif number == _WEIGHTS:
            name, declared = _weight(_bytes(value))
            if len(_bytes(value)) <= _SMALL:
                self._constants[name] = encoded(_WEIGHTS, value)
            else:
                self._inputs[name] = declared

    def infer(self) -> tuple[Shapes, list[str]]:
        """The shapes of all tensors, and the names of those whose shapes are not known yet."""
        computed = dict.fromkeys(name for node in self.nodes for name in node.outputs if name)
        # Each gets one more axis: no axis at all is an unknown number of them.
        names = [*self._inputs, *self._constants, *computed]
        axis = encoded(1, 1) + encoded(2, 7) + encoded(8, b"sizes/axis") + encoded(9, bytes(8))
        graph = [*self._inputs.values(), *self._constants.values(), encoded(_WEIGHTS, axis)]
        graph += [encoded(_NODES, node.message) for node in self.nodes]
        for index, name in enumerate(names):
            places = encoded(1, name.encode()) + encoded(1, b"sizes/axis")
            more = places + encoded(2, f"sizes/{index}".encode()) + encoded(4, b"Unsqueeze")
            graph.append(encoded(_NODES, more))
        session = self._session(graph, [f"sizes/{index}" for index in range(len(names))])
        shapes, unknown = {}, []
        for name, value in zip(names, session.get_outputs(), strict=True):
            if value.shape and all(isinstance(size, int) for size in value.shape):
                shapes[name] = value.shape[1:]
            else:
                unknown.append(name)
        return shapes, unknown

    def compute_sizes(self, shapes: Shapes) -> None:
        """Compute the few numbers that follow from shapes, so that sizes follow from them."""
        chain: list[_Node] = []
        rest: list[_Node] = []
        constants = dict(self._constants)
        known = set(constants)
        for node in self.nodes:
            few = all(math.prod(shapes.get(o, (_FEW + 1,))) <= _FEW for o in node.outputs if o)
            if few and node.operator == b"Shape" and node.inputs[0] in shapes:
                [name] = node.outputs
                sizes = shapes[node.inputs[0]][node.part.get(b"start", 0) : node.part.get(b"end")]
                self._constants[name] = constants[name] = _tensor(name, np.array(sizes, np.int64))
                known.add(name)
            elif few and all(name in known or not name for name in node.inputs):
                chain.append(node)
                known.update(node.outputs)
            else:
                rest.append(node)
        outputs = [name for node in chain for name in node.outputs if name]
        if outputs:
            nodes = [encoded(_NODES, node.message) for node in chain]
            session = self._session([*constants.values(), *nodes], outputs)
            for name, value in zip(outputs, session.run(outputs, {}), strict=True):
                self._constants[name] = _tensor(name, value)
        self.nodes = rest

    def _session(self, graph: list[bytes], outputs: list[str]) -> InferenceSession:
        options = SessionOptions()
        options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = _FATAL
        options.intra_op_num_threads = 1
        given = [encoded(_OUTPUTS, encoded(1, name.encode())) for name in outputs]
        whole = encoded(_GRAPH, b"".join((encoded(_NAME, b"sizes"), *graph, *given)))
        try:
            return InferenceSession(
                b"".join((*self._model, whole)),
                options,
                providers=["CPUExecutionProvider"],
                enable_fallback=0,
            )
        except Exception as error:  # onnxruntime's own errors have many kinds
            raise ArtifactError(
                f"onnxruntime cannot load the graph: {first_line(error)}"
            ) from error


def _inside(node: _Node, shapes: Shapes) -> int:
    """The most elements of what an operator computes inside and does not give."""
    given = [shapes[name] for name in node.inputs if name in shapes]
    if node.operator == b"ConvTranspose":
        return math.prod(given[0][2:]) * math.prod(given[1][1:])
    if node.operator == b"Einsum" and len(given) > 2:  # it multiplies them two by two
        axes = node.equation.replace(" ", "").partition("->")[0].split(",")
        if [len(names) for names in axes] != [len(shape) for shape in given]:
            raise ArtifactError(f"its sum {node.equation[:60]} does not name all axes")
        return math.prod(dict(zip("".join(axes), itertools.chain(*given), strict=True)).values())
    return 0


def _node(message: memoryview) -> _Node:
    node = _Node(message)
    for number, _, value in fields(message):
        if number in (1, 2):
            names = node.inputs if number == 1 else node.outputs
            names.append(str(_bytes(value), "utf-8"))
        elif number == 4:
            node.operator = bytes(_bytes(value))
        elif number == 5:
            attribute = {key: inner for key, _, inner in fields(_bytes(value))}
            name, number_in_it = bytes(_bytes(attribute.get(1, b""))), attribute.get(3)
            if name == b"equation":
                node.equation = str(_bytes(attribute.get(4, b"")), "utf-8")
            elif isinstance(number_in_it, int):
                node.part[name] = next(integers(VARINT, number_in_it))
    return node


def _tensor(name: str, value: npt.NDArray[Any]) -> bytes:
    """A small constant."""
    sizes = b"".join(encoded(1, size) for size in value.shape)
    kind = encoded(2, _KINDS[value.dtype.name]) + encoded(8, name.encode())
    return encoded(_WEIGHTS, sizes + kind + encoded(9, value.tobytes()))


def _weight(tensor: memoryview) -> tuple[str, bytes]:
    """The name of a weight, and an input of its type and shape."""
    sizes: list[int] = []
    name, kind = memoryview(b""), 0
    for number, wire, value in fields(tensor):
        if number == 1:
            sizes += integers(wire, value)
        elif number == 2 and isinstance(value, int):
            kind = value
        elif number == 8:
            name = _bytes(value)
    return _declared(name, kind, sizes)


def _input(declared: memoryview, batch: int) -> tuple[str, bytes]:
    """The name of an input, and what declares it, with a batch in place of words."""
    name, kind, sizes = memoryview(b""), 0, []
    for number, _, value in fields(declared):
        if number == 1:
            name = _bytes(value)
        for _, _, tensor in fields(_bytes(value)) if number == 2 else ():
            for part, _, found in fields(_bytes(tensor)):
                if part == 1 and isinstance(found, int):
                    kind = found
                for _, _, axis in fields(_bytes(found)) if part == 2 else ():
                    known = [n for key, _, n in fields(_bytes(axis)) if key == 1]
                    sizes.append(known[0] if known and isinstance(known[0], int) else batch)
    return _declared(name, kind, sizes)


def _declared(name: memoryview, kind: int, sizes: list[int]) -> tuple[str, bytes]:
    shape = b"".join(encoded(1, encoded(1, size)) for size in sizes)
    tensor = encoded(1, kind) + encoded(2, shape)
    declared = encoded(_INPUTS, encoded(1, name) + encoded(2, encoded(1, tensor)))
    return str(name, "utf-8"), declared


def _bytes(value: int | bytes | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ArtifactError("a field of its graph is a number, expected a message")
    return memoryview(value)

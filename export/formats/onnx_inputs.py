"""Images as servers have them: the conversion to what the network takes, inside the graph."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

__all__ = ["convert_input"]

_TO_CHANNELS_FIRST = (0, 3, 1, 2)


def convert_input(graph: onnx.GraphProto, dtype: str, layout: str) -> None:
    """Let a graph that takes float32 ``[batch, channels, height, width]`` take something else.

    Bytes are divided as :mod:`capsnet.data` divides them: the numbers are exactly the same.

    Args:
        graph: it is changed.
        dtype: ``"float32"``, values 0..1, or ``"uint8"``, values 0..255.
        layout: ``"nchw"`` or ``"nhwc"``.
    """
    if (dtype, layout) == ("float32", "nchw"):
        return
    [given] = graph.input
    nodes: list[onnx.NodeProto] = []
    tensor = given.type.tensor_type

    def add(operator: str, *others: str, **attributes: Any) -> None:
        source = nodes[-1].output[0] if nodes else given.name
        name = f"input/{operator}"
        nodes.append(
            onnx.helper.make_node(operator, [source, *others], [name], name=name, **attributes)
        )

    if layout == "nhwc":
        batch, channels, *sizes = tensor.shape.dim
        dims = [batch, *sizes, channels]
        tensor.shape.CopyFrom(onnx.TensorShapeProto(dim=dims))
        add("Transpose", perm=_TO_CHANNELS_FIRST)
    if dtype == "uint8":
        tensor.elem_type = TensorProto.UINT8
        graph.initializer.append(
            numpy_helper.from_array(np.array(255, np.float32), "input.largest")
        )
        add("Cast", to=TensorProto.FLOAT)
        add("Div", "input.largest")
    for node in graph.node:
        node.input[:] = [nodes[-1].output[0] if n == given.name else n for n in node.input]
    whole = [*nodes, *graph.node]
    del graph.node[:]
    graph.node.extend(whole)

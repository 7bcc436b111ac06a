"""An ONNX graph made to need the oldest versions of the standard: more runtimes load it.

torch.onnx writes opset 18 and IR version 10 at least. What networks hold has mostly not changed
since opset 17, and no opset up to 20 needs an IR version above 9.
"""

import numpy as np
import onnx
from onnx import numpy_helper

__all__ = ["NATIVE_OPSET", "drop_needless_allowzero", "lower_ir_version", "to_opset_17"]

NATIVE_OPSET = 18
"""The oldest that torch.onnx writes itself."""


def drop_needless_allowzero(graph: onnx.GraphProto) -> None:
    """Take ``allowzero`` from every Reshape whose shape holds no zero: some runtimes lack it.

    Args:
        graph: it is changed.
    """
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        shape = weights.get(node.input[1]) if node.op_type == "Reshape" else None
        if shape is not None and numpy_helper.to_array(shape).all():
            kept = [attribute for attribute in node.attribute if attribute.name != "allowzero"]
            del node.attribute[:]
            node.attribute.extend(kept)


def to_opset_17(model: onnx.ModelProto) -> bool:
    """Turn a graph of opset 18 into one of opset 17, where its operators allow that.

    Reductions take their axes as an attribute there. Other operators are in both, or in neither.

    Args:
        model: it is changed only if the answer is yes.

    Returns:
        Whether it was possible.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    newer = [
        node
        for node in model.graph.node
        if onnx.defs.has(node.op_type, NATIVE_OPSET)
        and onnx.defs.get_schema(node.op_type, NATIVE_OPSET).since_version == NATIVE_OPSET
    ]
    reductions = all(
        node.op_type.startswith("Reduce") and all(name in weights for name in node.input[1:])
        for node in newer
    )
    if not reductions:
        return False
    for node in newer:
        axes = [numpy_helper.to_array(weights[name]) for name in node.input[1:]]
        kept = [attribute for attribute in node.attribute if attribute.name == "keepdims"]
        del node.input[1:], node.attribute[:]
        node.attribute.extend(kept)
        if axes:
            node.attribute.append(onnx.helper.make_attribute("axes", np.ravel(axes[0]).tolist()))
    _drop_unused(model.graph)
    model.opset_import[0].version = 17
    return True


def lower_ir_version(model: onnx.ModelProto) -> None:
    """Give a model the lowest IR version that its opset goes with."""
    model.ir_version = onnx.helper.find_min_ir_version_for(list(model.opset_import))


def _drop_unused(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)

"""Artifacts need the oldest versions of ONNX that hold them: more runtimes load them."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from support.artifacts import golden_outputs, onnx_bytes, parsed
from support.networks import SMALL, lively_model, random_images

from capsnet.export.formats.onnx import to_onnx
from capsnet.export.formats.onnx_versions import drop_needless_allowzero, to_opset_17
from capsnet.export.lower import lower
from capsnet.export.options import ExportOptions


def graph_of(nodes, weights, opset=18):
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "m"])
        for name in ("given", "result")
    ]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "graph", values[:1], values[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


@pytest.mark.parametrize(("opset", "ir_version"), [(None, 8), (18, 8), (19, 9), (21, 10)])
def test_ir_version_is_the_lowest_of_the_opset(opset, ir_version):
    model = parsed(onnx_bytes(SMALL, opset=opset))
    assert model.ir_version == ir_version
    assert model.opset_import[0].version == (opset or 17)


def test_no_reshape_asks_for_zeros():
    for node in parsed(onnx_bytes(SMALL, reconstruction=True)).graph.node:
        assert "allowzero" not in {attribute.name for attribute in node.attribute}


def test_a_reshape_that_needs_zeros_keeps_them():
    node = helper.make_node("Reshape", ["given", "shape"], ["result"], allowzero=1)
    model = graph_of([node], {"shape": np.array([0, 3])})
    drop_needless_allowzero(model.graph)
    assert [attribute.name for attribute in model.graph.node[0].attribute] == ["allowzero"]


def test_reductions_of_opset_17_compute_the_same():
    nodes = [
        helper.make_node("ReduceMax", ["given", "axes"], ["largest"], keepdims=1),
        helper.make_node("ReduceL2", ["largest"], ["result"], keepdims=0),
    ]
    model = graph_of(nodes, {"axes": np.array([1])})
    given = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    [expected] = ReferenceEvaluator(model).run(None, {"given": given})
    assert to_opset_17(model)
    onnx.checker.check_model(model)
    assert not model.graph.initializer
    [found] = ReferenceEvaluator(model).run(None, {"given": given})
    assert found == expected == pytest.approx(np.linalg.norm(given.max(1)))


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("Split", ["given"], ["result"], num_outputs=1),
        helper.make_node("ReduceMax", ["given", "computed"], ["result"]),
    ],
)
def test_what_opset_17_lacks_stays_as_it_is(node):
    model = graph_of([node], {})
    before = model.SerializeToString()
    assert not to_opset_17(model)
    assert model.SerializeToString() == before


def test_int8_runs_on_the_reference_evaluator(tmp_path):
    images = random_images(SMALL, 40)
    lowered = lower(lively_model(SMALL), precision="int8")
    metadata = to_onnx(lowered, tmp_path / "a.onnx", ExportOptions(calibration=images))
    assert (metadata.opset, metadata.ir_version) == (19, 9)
    found = ReferenceEvaluator(onnx.load(tmp_path / "a.onnx")).run(None, {"image": images[:3]})
    golden = golden_outputs(SMALL, images[:3], ("lengths", "capsules"))
    for values, expected in zip(found, golden.values(), strict=True):
        np.testing.assert_allclose(values, expected, atol=0.1)

"""The ONNX file computes the same numbers in two engines, describes itself, and repeats by byte."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from support.artifacts import edited, golden_outputs, metadata_of, onnx_bytes, parsed
from support.networks import SMALL, TINY, altered, lively_model, random_images, with_layers

from capsnet.artifact import COUPLINGS, ArtifactMetadata
from capsnet.config import CapsNetConfig
from capsnet.errors import ExportError
from capsnet.export.formats.onnx import to_onnx
from capsnet.export.lower import lower
from capsnet.export.options import ExportOptions
from capsnet.formats import OPSETS
from capsnet.layers.dense_routing import ROUTINGS
from capsnet.stages import record_stages

ALL = ("lengths", "capsules", "reconstruction")
SQUASHED = altered(TINY, primary_activation="squash")
STACK = with_layers(SMALL, (7, 5, 2), (4, 6, 3))
ONCE = with_layers(SMALL, (5, 6, 1))


def run_onnxruntime(content, images, names):
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(list(names), {"image": images}), strict=True))


def run_reference(content, images, names):
    evaluator = ReferenceEvaluator(parsed(content))
    return dict(zip(names, evaluator.run(list(names), {"image": images}), strict=True))


def assert_golden(config, found, images):
    """The outputs are float32 and within a few roundings of the readable model in float64."""
    golden = golden_outputs(config, images, tuple(found))
    for name, values in found.items():
        assert values.dtype == np.float32
        assert values.shape == golden[name].shape
        error = np.abs(values - golden[name]).max() / np.abs(golden[name]).max()
        assert error < 2e-6, f"{name}: {error}"


def interface(values):
    return [
        (
            value.name,
            onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name,
            [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim],
        )
        for value in values
    ]


# Numbers


@pytest.mark.slow
@pytest.mark.parametrize("run", [run_onnxruntime, run_reference])
@pytest.mark.parametrize(
    ("config", "reconstruction"),
    [(TINY, True), (SQUASHED, False), (STACK, True), (ONCE, False)],
    ids=["tiny", "squash", "stack", "one iteration"],
)
def test_artifact_equals_the_readable_model_in_float64(config, reconstruction, run):
    content = onnx_bytes(config, reconstruction=reconstruction)
    images = random_images(config, 3)
    assert_golden(config, run(content, images, ALL if reconstruction else ALL[:2]), images)


@pytest.mark.slow
@pytest.mark.parametrize("run", [run_onnxruntime, run_reference])
@pytest.mark.parametrize("routing", ROUTINGS)
def test_artifact_of_every_routing_equals_the_readable_model(routing, run):
    content = onnx_bytes(SMALL, routing=routing)
    assert metadata_of(content)["forms"]["routing"] == routing
    images = random_images(SMALL, 3)
    assert_golden(SMALL, run(content, images, ALL[:2]), images)


@pytest.mark.parametrize("routing", ROUTINGS)
def test_products_are_of_equal_ranks(routing):
    """OpenVINO runs no product of ranks 2 and 3 whose batch is open."""
    model = onnx.shape_inference.infer_shapes(parsed(onnx_bytes(SMALL, routing=routing)))
    graph = model.graph
    ranks = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        ranks[value.name] = len(value.type.tensor_type.shape.dim)
    products = [node for node in graph.node if node.op_type == "MatMul"]
    assert len(products) >= 5
    for node in products:
        assert len({ranks[name] for name in node.input}) == 1, node.name


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64])
def test_one_file_serves_every_batch_size(count):
    images = random_images(TINY, count, seed=count)
    found = run_onnxruntime(onnx_bytes(TINY, reconstruction=True), images, ALL)
    assert_golden(TINY, found, images)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 3])
def test_file_of_a_fixed_batch_size_takes_that_size(batch):
    content = onnx_bytes(SMALL, batch=batch)
    images = random_images(SMALL, batch)
    assert_golden(SMALL, run_onnxruntime(content, images, ALL[:2]), images)
    model = parsed(content)
    assert interface(model.graph.input) == [("image", "float32", [batch, 1, 12, 12])]
    assert interface(model.graph.output) == [
        ("lengths", "float32", [batch, 5]),
        ("capsules", "float32", [batch, 5, 6]),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("opset", OPSETS)
def test_every_opset_is_the_one_asked_for_and_runs(opset):
    content = onnx_bytes(ONCE if opset not in (17, 18, 23) else SMALL, opset=opset)
    document = ArtifactMetadata.from_json(json.dumps(metadata_of(content)))
    config = CapsNetConfig.from_dict(document.config)
    imported = [(part.domain, part.version) for part in parsed(content).opset_import]
    assert imported == [("", opset)]
    assert metadata_of(content)["opset"] == opset
    images = random_images(config, 3)
    assert_golden(config, run_onnxruntime(content, images, ALL[:2]), images)


def test_opsets_are_those_of_the_documentation():
    assert list(OPSETS) == [17, 18, 19, 20, 21, 22, 23]


def test_every_stage_computes_what_the_lowered_network_computes_there():
    images = random_images(STACK, 3)
    with torch.no_grad():
        lowered = lower(lively_model(STACK).double(), reconstruction=True)
        stages = record_stages(lowered, torch.from_numpy(images).double())

    def output_all(model):
        known = {value.name: value for value in (*model.graph.value_info, *model.graph.output)}
        model.graph.ClearField("output")
        model.graph.output.extend(known[name] for name in stages)

    content = edited(onnx_bytes(STACK, reconstruction=True), output_all)
    for name, values in run_onnxruntime(content, images, tuple(stages)).items():
        expected = stages[name].numpy()
        assert values.shape == expected.shape, name
        scale = np.abs(expected).max()
        np.testing.assert_allclose(values, expected, rtol=0, atol=3e-6 * scale, err_msg=name)


# Interface and metadata


@pytest.mark.parametrize("reconstruction", [False, True])
def test_inputs_and_outputs_have_the_contract_s_names_order_and_types(reconstruction):
    graph = parsed(onnx_bytes(TINY if reconstruction else SMALL, reconstruction=reconstruction))
    image, classes, dim = ([1, 28, 28], 10, 8) if reconstruction else ([1, 12, 12], 5, 6)
    assert interface(graph.graph.input) == [("image", "float32", ["batch", *image])]
    assert interface(graph.graph.output) == [
        ("lengths", "float32", ["batch", classes]),
        ("capsules", "float32", ["batch", classes, dim]),
        *([("reconstruction", "float32", ["batch", *image])] if reconstruction else []),
    ]


def claim(what, couplings):
    """What the metadata says of the routing of a graph with so many softmaxes."""
    return {"what": what, "operators": list(COUPLINGS), "least": couplings, "most": couplings}


def test_metadata_is_complete_and_holds_nothing_else(tmp_path):
    config = ONCE
    options = ExportOptions(batch=2, checkpoint_sha256="ab" * 32)
    returned = to_onnx(lower(lively_model(config)), tmp_path / "a.onnx", options)
    content = (tmp_path / "a.onnx").read_bytes()
    model = parsed(content)
    assert metadata_of(content) == {
        "schema_version": 3,
        "class_names": [],
        "training_inputs": None,
        "toolkit_version": version("capsnet-export"),
        "exporter": "torch.onnx",
        "versions": {name: version(name) for name in ("torch", "onnx", "onnxscript")},
        "checkpoint_sha256": "ab" * 32,
        "config": json.loads(config.to_json()),
        "forms": {"routing": "projected", "convolution": "direct"},
        "decision": "lengths",
        "claims": [claim("routing of 1 iterations", 0)],
        "precision": "fp32",
        "inputs": [{"name": "image", "dtype": "float32", "shape": [2, 1, 12, 12]}],
        "layout": "nchw",
        "outputs": [
            {"name": "lengths", "dtype": "float32", "shape": [2, 5]},
            {"name": "capsules", "dtype": "float32", "shape": [2, 5, 6]},
        ],
        "opset": model.opset_import[0].version,
        "ir_version": model.ir_version,
    }
    assert ArtifactMetadata.from_json(json.dumps(metadata_of(content))) == returned
    assert [prop.key for prop in model.metadata_props] == ["capsnet"]


def test_metadata_claims_the_iterations_of_every_layer():
    metadata = metadata_of(onnx_bytes(STACK, reconstruction=True))
    assert metadata["claims"] == [claim("routing of 2 iterations, routing of 3 iterations", 1 + 2)]
    layers = metadata["config"]["capsule_layers"]
    assert [layer["routing_iterations"] for layer in layers] == [2, 3]


# The graph


@pytest.mark.parametrize("config", [TINY, STACK], ids=["tiny", "stack"])
def test_nodes_are_named_after_their_stage_and_operator(config):
    lowered = lower(lively_model(config), reconstruction=True)
    stages = record_stages(lowered, torch.from_numpy(random_images(config, 2)))
    nodes = parsed(onnx_bytes(config, reconstruction=True)).graph.node
    for node in nodes:
        stage, _, rest = node.name.rpartition("/")
        assert stage in stages, node.name
        assert re.fullmatch(rf"{node.op_type}(_[2-9]|_[1-9]\d+)?", rest), node.name
    assert len({node.name for node in nodes}) == len(nodes)


@pytest.mark.parametrize("config", [TINY, STACK], ids=["tiny", "stack"])
def test_stages_keep_their_names_in_the_graph(config):
    lowered = lower(lively_model(config), reconstruction=True)
    stages = record_stages(lowered, torch.from_numpy(random_images(config, 2)))
    model = parsed(onnx_bytes(config, reconstruction=True))
    produced = {name: node.name for node in model.graph.node for name in node.output}
    assert set(stages) <= produced.keys()
    for stage in stages:
        assert produced[stage].startswith(f"{stage}/") or stage == "capsules"


@pytest.mark.parametrize(
    ("config", "expected"), [(TINY, [3]), (STACK, [2, 3])], ids=["tiny", "stack"]
)
def test_routing_iterations_can_be_counted_in_the_graph(config, expected):
    model = parsed(onnx_bytes(config, reconstruction=True))
    produced = [name for node in model.graph.node for name in node.output]
    found = [re.fullmatch(r"layer(\d+)\.iteration(\d+)\.capsules", name) for name in produced]
    pairs = sorted((int(match[1]), int(match[2])) for match in found if match)
    assert pairs == [(layer, n + 1) for layer, count in enumerate(expected) for n in range(count)]


def test_weights_are_inside_the_file_and_named_after_the_network():
    model = parsed(onnx_bytes(TINY, reconstruction=True))
    names = {tensor.name for tensor in model.graph.initializer}
    assert {
        *(f"stem.conv.{part}" for part in ("weight", "bias")),
        *(f"primary_capsules.conv.{part}" for part in ("weight", "bias")),
        "layer0.weight",
        "decoder.1.weight",
    } <= names
    assert not [t.name for t in model.graph.initializer if t.external_data or t.data_location]
    assert not model.functions
    weights = sum(len(t.raw_data) for t in model.graph.initializer)
    # Every weight once: a copy in another layout would make the file larger.
    bound = 4 * sum(p.numel() for p in lively_model(TINY).parameters())
    assert weights < 1.05 * bound


# Repetition and privacy

EXPORT = """
import platform, socket, sys
socket.gethostname = platform.node = lambda: "zaphod-host"
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import torch
from support.networks import SMALL, lively_model
torch.set_num_threads(1)
from capsnet.export.lower import lower
from capsnet.export.formats.onnx import to_onnx
lowered = lower(lively_model(SMALL), reconstruction=True, forms={"convolution": "winograd"})
to_onnx(lowered, Path("model.onnx"))
"""


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Bytes and words of two exports, from processes that have nothing in common."""
    children, folders = [], []
    for number in (1, 2):
        folder = tmp_path_factory.mktemp(f"zaphod-folder-{number}")
        names = dict.fromkeys(("USER", "LOGNAME", "USERNAME"), f"zaphod-{number}")
        command = [
            sys.executable,
            "-P",
            "-W",
            "error",
            "-c",
            EXPORT,
            str(Path(__file__).parents[2]),
        ]
        children.append(
            subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, **names, "PYTHONHASHSEED": str(number)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        )
        folders.append(folder)
    words = [child.communicate(timeout=300)[0].decode() for child in children]
    assert [child.returncode for child in children] == [0, 0], words
    return [(folder / "model.onnx").read_bytes() for folder in folders], words


def strings(message):
    """Every text and byte string in a protocol buffer, weights left out."""
    for field, value in message.ListFields():
        if isinstance(message, onnx.TensorProto) and field.name.endswith("_data"):
            continue
        for item in value if field.is_repeated else [value]:
            if field.type == field.TYPE_MESSAGE:
                yield from strings(item)
            elif field.type == field.TYPE_BYTES:
                yield item.decode(errors="replace")
            elif field.type == field.TYPE_STRING:
                yield item


@pytest.mark.slow
def test_exports_in_different_folders_and_hash_orders_are_identical(exports):
    (first, second), _ = exports
    assert first == second


def test_exports_print_and_warn_nothing(exports):
    assert exports[1] == ["", ""]


def test_artifact_tells_nothing_about_the_machine(exports):
    texts = list(strings(parsed(exports[0][0])))
    assert len(texts) > 200  # that the walk sees nodes, attributes and metadata
    assert any("schema_version" in text for text in texts)
    telling = re.compile(
        r"zaphod|\.py\b|Traceback|stack_trace|File \"|, line \d|(^|[\s\"'=:(])(/[\w.@+-]+){2,}"
        r"|[A-Za-z]:\\|\b20\d\d-\d\d-\d\d"
    )
    assert [text for text in texts if telling.search(text)] == []
    for place in (sys.prefix, str(Path(torch.__file__).parent), str(Path(__file__).parents[2])):
        assert [text for text in texts if place in text] == []


def test_search_for_telling_strings_sees_stack_traces():
    model = parsed(onnx_bytes(SMALL))
    onnx.helper.set_model_props(model, {"pkg.torch": 'File "/a/b.py", line 3'})
    model.graph.node[0].metadata_props.add(key="k", value="in a node")
    assert 'File "/a/b.py", line 3' in list(strings(model))
    assert "in a node" in list(strings(model))


# Failures


@pytest.mark.parametrize(
    "error",
    [
        torch.onnx.OnnxExporterError("no such operator\nmore"),
        RuntimeError("no such operator"),
        ValueError("no such operator"),
        TypeError("no such operator"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_failure_of_the_exporter_is_an_export_error_in_one_line(tmp_path, monkeypatch, error):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(ExportError, match=r"the network: no such operator$"):
        to_onnx(lower(lively_model(SMALL)), tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_failure_of_the_exporter_without_a_word_is_an_export_error(tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(ExportError, match="RuntimeError"):
        to_onnx(lower(lively_model(SMALL)), tmp_path / "a.onnx")


def exporter_giving(damage):
    """A ``torch.onnx.export`` that gives a sound graph after ``damage`` has changed it."""
    stages = record_stages(lower(lively_model(SMALL)), torch.from_numpy(random_images(SMALL, 2)))
    model = parsed(onnx_bytes(SMALL, opset=18))  # the oldest that it writes itself
    known = {value.name: value for value in (*model.graph.value_info, *model.graph.output)}
    model.graph.ClearField("output")
    model.graph.output.extend(known[name] for name in stages)
    damage(model.graph)
    return lambda *_, **__: SimpleNamespace(model_proto=model)


def batch_axis(values, name):
    (value,) = [value for value in values if value.name == name]
    return value.type.tensor_type.shape.dim[0]


def test_sound_graph_of_the_exporter_is_accepted(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.onnx, "export", exporter_giving(lambda _: None))
    to_onnx(lower(lively_model(SMALL)), tmp_path / "a.onnx")
    images = random_images(SMALL, 3)
    content = (tmp_path / "a.onnx").read_bytes()
    assert_golden(SMALL, run_onnxruntime(content, images, ALL[:2]), images)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda graph: graph.node[0].ClearField("input"), "is not valid"),
        (lambda graph: setattr(graph.node[1], "op_type", "Rely"), "is not valid"),
        (lambda graph: setattr(graph.input[0], "name", "picture"), "is not valid"),
        (lambda graph: setattr(batch_axis(graph.input, "image"), "dim_value", 2), "interface"),
        (lambda graph: setattr(batch_axis(graph.output, "lengths"), "dim_param", "n"), "interface"),
    ],
    ids=["no input", "unknown operator", "renamed input", "baked batch", "other batch axis"],
)
def test_wrong_graph_of_the_exporter_is_an_export_error(tmp_path, monkeypatch, damage, message):
    monkeypatch.setattr(torch.onnx, "export", exporter_giving(damage))
    with pytest.raises(ExportError, match=message):
        to_onnx(lower(lively_model(SMALL)), tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []

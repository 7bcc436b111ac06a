"""Files that were made to do harm are refused before anything in them runs."""

import io
import json
import os
import pickle
import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from support.artifacts import metadata_for
from support.hostile import (
    VERSION_0_1,
    Marker,
    changed_archive,
    records_of,
    torch_archive,
    with_code,
    with_nodes,
    with_program,
)
from support.networks import SMALL

from capsnet.errors import ArtifactError, ResultError
from capsnet.export.formats.pt2 import _archive as write_pt2
from capsnet.runtime.sessions.opening import open_session

TESTS = Path(__file__).parents[2]
FILES = ["small.onnx", "small.torchscript.pt", "small.pt2"]
FORGED = {  # a certificate of whatever lies there
    "schema_version": 1,
    "verdict": "pass",
    "device": "cpu",
    "environment": {},
    "parity": {"passed": True, "overridden": False},
}


@pytest.fixture
def refuse(tmp_path):
    """Opening these bytes fails in words, with a certificate or without, and runs nothing."""
    marker = tmp_path / "marker"

    def check(content, match):
        path = tmp_path / "model"
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match=match) as caught:
            open_session(path, "cpu")
        assert str(path) in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1
        assert not marker.exists()

    check.marker = marker
    return check


def evil(marker):
    return pickle.dumps(Marker(marker), protocol=2)


def zipped_pickle(marker):
    file = io.BytesIO()
    torch.save(Marker(marker), file)
    return file.getvalue()


def test_the_pickle_of_these_tests_does_run(tmp_path):
    pickle.loads(evil(tmp_path / "marker"))
    assert (tmp_path / "marker").exists()


def test_the_writer_of_these_tests_writes_what_is_accepted(tmp_path):
    for file in FILES[1:]:
        (tmp_path / file).write_bytes(changed_archive(file, {}))
        assert open_session(tmp_path / file, "cpu").format in file


# torch.export archives: what torch unpickles, evaluates or loads


def test_pickled_inputs_are_refused(refuse):
    content = changed_archive("small.pt2", {"data/sample_inputs/model.pt": evil(refuse.marker)})
    refuse(content, "holds pickled objects")
    content = changed_archive(
        "small.pt2", {"data/sample_inputs/model.pt": zipped_pickle(refuse.marker)}
    )
    refuse(content, "holds pickled objects")


@pytest.mark.parametrize("name", ["data/sample_inputs/MODEL.pt", "Data/sample_inputs/model.pt"])
@pytest.mark.parametrize("first", [True, False])
def test_records_that_differ_in_case_are_refused(refuse, name, first):
    added = (f"archive/{name}", zipped_pickle(refuse.marker))
    own = list(records_of("small.pt2").items())
    refuse(torch_archive([added, *own] if first else [*own, added]), "nothing but case")


@pytest.mark.parametrize("first", [True, False])
def test_records_of_one_name_are_refused(refuse, first):
    added = ("archive/data/sample_inputs/model.pt", zipped_pickle(refuse.marker))
    own = list(records_of("small.pt2").items())
    refuse(torch_archive([added, *own] if first else [*own, added]), "occurs twice")


@pytest.mark.parametrize("prefix", ["opaque_obj_0", "custom_obj_0", "weight_0", "tensor_x"])
@pytest.mark.parametrize("use_pickle", [True, False])
def test_constants_that_torch_unpickles_are_refused(refuse, prefix, use_pickle):
    entry = {"path_name": prefix, "is_param": False, "use_pickle": use_pickle, "tensor_meta": None}
    content = changed_archive(
        "small.pt2",
        {
            f"data/constants/{prefix}": evil(refuse.marker),
            "data/constants/model_constants_config.json": json.dumps(
                {"config": {"a": entry}}
            ).encode(),
        },
    )
    refuse(content, "which the exporter|a record that the exporter does not write|pickled tensors")


def test_pickled_weights_are_refused(refuse):
    name = "data/weights/model_weights_config.json"
    document = json.loads(records_of("small.pt2")[f"archive/{name}"])
    next(iter(document["config"].values()))["use_pickle"] = True
    content = changed_archive(
        "small.pt2",
        {name: json.dumps(document).encode(), "data/weights/weight_0": evil(refuse.marker)},
    )
    refuse(content, "pickled tensors")


@pytest.mark.parametrize(
    "name",
    [
        "data/weights/model.pt",
        "data/aotinductor/model/a.wrapper.so",
        "extra/other",
        "models/b.json",
    ],
)
def test_other_records_are_refused(refuse, name):
    refuse(changed_archive("small.pt2", {name: evil(refuse.marker)}), "does not write, ")


def test_a_symbolic_size_that_is_code_is_refused(refuse):
    call = f"__import__('os').system('touch {refuse.marker}')"
    refuse(with_program("Symbol('s", f"{call} or Symbol('s"), "may be code")


def test_guards_are_refused(refuse):
    call = f"__import__('os').system('touch {refuse.marker}') or True"
    text = records_of("small.pt2")["archive/models/model.json"].decode()
    document = {**json.loads(text), "guards_code": [call]}
    content = changed_archive("small.pt2", {"models/model.json": json.dumps(document).encode()})
    refuse(content, "may be code|guards")


@pytest.mark.parametrize(
    "target",
    [
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.rand.default",
        "torch.ops.aten.exp.out",
        "torch.ops.aten.exp_.default",
        "torch.ops.higher_order.cond",
        "torch.load",
        "torch.hub.load",
        "_operator.pow",
        "_operator.attrgetter",
        "math.factorial",
        "#custom:op",
        "os.system",
    ],
)
def test_other_operators_of_torch_export_are_refused(refuse, target):
    content = with_program('"torch.ops.aten.exp.default"', json.dumps(target))
    refuse(content, "holds the operator|may be code")


def test_a_weight_of_another_size_is_refused(refuse):
    content = changed_archive("small.pt2", {"data/weights/weight_0": b""})
    refuse(content, "reaches beyond")
    content = changed_archive("small.pt2", {"data/weights/weight_0": bytes(399)})
    refuse(content, "cut off")


def test_a_key_that_occurs_twice_is_refused(refuse):
    refuse(with_program('"guards_code"', '"guards_code": [], "guards_code"'), "more than once")


# TorchScript


@pytest.mark.parametrize(
    "line",
    [
        '_f = torch.from_file("{marker}", True, 4)',
        'torch.save(image, "{marker}")',
        "_r = torch.rand([2])",
        "while True:\n      pass",
        "if bool(image):\n      pass",
        "for i in range(3):\n      pass",
        "image = torch.exp_(image)",
        '_g = getattr(self, "__class__")',
        '_g = getattr(self, "forward")',
        "_w = torch.mul_(CONSTANTS.c0, 2)",
        "_w = torch.mul_(self.layer0, 2)",
        "_w = (self).backward(image)",
        "ops.prim.RaiseException(image)",
        "_l = torch.mul([1], 1000000)",
        "_z = torch.zeros([100000, 100000])",
        "_c = CONSTANTS.c99",
        "_d = image.__class__",
        "# comment",
        '_s = "\\\\x41"',
        "_l = lambda x: x",
    ],
)
def test_other_code_is_refused(refuse, line):
    line = line.replace("{marker}", str(refuse.marker).replace("-", "_"))
    match = "the operator|in place|repeats|more than|missing|names __|characters|cannot be parsed"
    refuse(with_code(line), match)


def test_code_that_is_sound_is_accepted(tmp_path):
    (tmp_path / "model").write_bytes(with_code("_e = torch.exp(image)"))
    assert open_session(tmp_path / "model", "cpu").format == "torchscript"


@pytest.mark.parametrize("kind", ["torchscript", "pt2"])
def test_torch_computes_nothing_of_its_own_that_is_too_large(tmp_path, kind):
    class Large(torch.nn.Module):
        def forward(self, image):
            large = torch.ones(2**14, 1) @ torch.ones(1, 2**14)
            lengths = image.flatten(1)[:, :5] + large.sum()
            return lengths, lengths[..., None].expand(-1, -1, 6)

    if kind == "torchscript":
        large = "torch.matmul(torch.ones([16384, 1]), torch.ones([1, 16384]))"
        content = with_code(f"image = torch.add(image, torch.max({large}))")
    else:
        dynamic = ({0: torch.export.Dim("batch")},)
        image = torch.zeros(2, 1, 12, 12)
        program = torch.export.export(Large(), (image,), dynamic_shapes=dynamic)
        content = write_pt2(program, {"capsnet": metadata_for(SMALL).to_json()}).getvalue()
    (tmp_path / "model").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"computes 268[0-9]{6} elements for one image"):
        open_session(tmp_path / "model", "cpu")


@pytest.mark.parametrize(
    "method",
    [
        "  def __setstate__(self, state: Tensor) -> None:\n    return None\n",
        "  def other(self, image: Tensor) -> Tensor:\n    return image\n",
    ],
)
def test_other_methods_are_refused(refuse, method):
    records = records_of("small.torchscript.pt")
    [name] = [name for name in records if name.endswith(".py")]
    source = records[name] + method.encode()
    content = changed_archive("small.torchscript.pt", {name.removeprefix("archive/"): source})
    refuse(content, "could run on loading")


def test_a_function_outside_of_classes_is_refused(refuse):
    records = records_of("small.torchscript.pt")
    [name] = [name for name in records if name.endswith(".py")]
    source = records[name] + b"def f(x: Tensor) -> Tensor:\n  return x\n"
    content = changed_archive("small.torchscript.pt", {name.removeprefix("archive/"): source})
    refuse(content, "something else than classes")


@pytest.mark.parametrize("name", ["constants/0", "data/0"])
@pytest.mark.parametrize("keep", [0, 16])
def test_a_tensor_without_its_bytes_is_refused(refuse, name, keep):
    data = records_of("small.torchscript.pt")[f"archive/{name}"][:keep]
    content = changed_archive("small.torchscript.pt", {name: data})
    refuse(content, f"the record {name} holds {keep} bytes, its tensor needs")


@pytest.mark.parametrize("name", ["data.pkl", "constants.pkl"])
def test_a_pickle_that_calls_something_else_is_refused(refuse, name):
    content = changed_archive("small.torchscript.pt", {name: evil(refuse.marker)})
    refuse(content, "which is never executed")


def test_a_module_that_holds_itself_is_refused(refuse):
    kind = b"c__torch__.capsnet.export.lower.___torch_mangle_0\nLoweredCapsNet\n"
    cyclic = b"\x80\x02" + kind + b")\x81q\x00}(X\x06\x00\x00\x00layer0h\x00ub."
    refuse(changed_archive("small.torchscript.pt", {"data.pkl": cyclic}), "data.pkl is damaged")


# What every archive may be


def ziparchive(file, **options):
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", **options) as archive:
        for name, data in records_of(file).items():
            archive.writestr(name, data)
    return target.getvalue()


@pytest.mark.parametrize("file", FILES[1:])
def test_archives_that_torch_would_not_write_are_refused(refuse, file):
    sound = (VERSION_0_1 / file).read_bytes()
    refuse(ziparchive(file), "not one that torch writes")
    refuse(ziparchive(file, compression=zipfile.ZIP_DEFLATED), "not one that torch writes")
    refuse(sound + b"\0", "not one that torch writes|truncated or damaged")
    refuse(sound[:-30] + b"PK\5\6" + bytes(4) + sound[-22:], "torch writes|damaged")
    own = list(records_of(file).items())
    other = ("other/data.pkl", b"")
    refuse(torch_archive([*own, other]), "not all in one folder")
    refuse(torch_archive([*own, ("archive/../x", b"")]), "not one of names|does not write")
    for keep in range(0, len(sound), len(sound) // 40):
        refuse(sound[:keep] if keep else b"PK", "truncated|damaged|neither|empty|another kind")


# ONNX


def side(nodes, name="body"):
    value = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    return helper.make_graph(nodes, name, [], [value])


def test_external_data_is_refused(refuse, tmp_path):
    model = onnx.load(VERSION_0_1 / "small.onnx")
    onnx.save(
        model,
        tmp_path / "outside.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    refuse((tmp_path / "outside.onnx").read_bytes(), "keeps tensors in another file")


@pytest.mark.parametrize("place", [1, 2])
def test_external_data_without_a_location_is_refused(refuse, place):
    model = onnx.load(VERSION_0_1 / "small.onnx")
    model.graph.initializer[0].data_location = place % 2
    del model.graph.initializer[0].external_data[:]
    if place == 2:
        model.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")
    refuse(model.SerializeToString(), "keeps tensors in another file")


@pytest.mark.parametrize("operator", ["If", "Loop", "Scan", "SequenceMap"])
def test_control_flow_is_refused(refuse, operator):
    inner = side([helper.make_node("Relu", ["image"], ["y"])])
    node = helper.make_node(operator, ["image"], ["z"], body=inner)
    refuse(with_nodes([node]), "holds a graph")
    refuse(with_nodes([helper.make_node(operator, ["image"], ["z"])]), "holds the operator")


@pytest.mark.parametrize(
    ("operator", "domain"),
    [
        ("RandomNormal", ""),
        ("Bernoulli", ""),
        ("StringNormalizer", ""),
        ("ImageDecoder", ""),
        ("Relu", "com.evil"),
        ("Attention", "com.microsoft"),
        ("", ""),
    ],
)
def test_other_operators_of_onnx_are_refused(refuse, operator, domain):
    node = helper.make_node(operator, ["image"], ["z"], domain=domain)
    refuse(with_nodes([node]), "holds the operator")


def test_functions_and_training_are_refused(refuse):
    model = onnx.load(VERSION_0_1 / "small.onnx")
    model.training_info.add()
    refuse(model.SerializeToString(), "it holds training")
    model = onnx.load(VERSION_0_1 / "small.onnx")
    model.functions.add(name="Relu", domain="")
    refuse(model.SerializeToString(), "it holds functions")


def test_other_domains_are_refused(refuse):
    model = onnx.load(VERSION_0_1 / "small.onnx")
    model.opset_import.append(helper.make_opsetid("com.evil", 1))
    refuse(model.SerializeToString(), "operators of com.evil")


def numbers(name, *values):
    return numpy_helper.from_array(np.array(values, np.int64), name)


def floats(name, *sizes):
    return numpy_helper.from_array(np.ones(sizes, np.float32), name)


TOO_LARGE = r"computes \d{10,} elements for one image"


@pytest.mark.parametrize("operator", ["ConstantOfShape", "Expand", "Tile", "Pad", "Range"])
def test_constants_that_blow_up_are_refused(refuse, operator):
    huge = {
        "Pad": numbers("huge", *[0] * 6, 100_000, 100_000),
        "Range": numpy_helper.from_array(np.array(10**10, np.int64), "huge"),
    }.get(operator, numbers("huge", 1, 1, 100_000, 100_000))
    one = numpy_helper.from_array(np.array(1, np.int64), "one")
    inputs = {"ConstantOfShape": ["huge"], "Range": ["one", "huge", "one"]}
    node = helper.make_node(operator, inputs.get(operator, ["row", "huge"]), ["z"])
    refuse(with_nodes([node], [huge, one, floats("row", 1, 1, 1, 1)]), TOO_LARGE)


def test_sizes_that_are_computed_beyond_bounds_are_refused(refuse):
    nodes = [
        helper.make_node("Mul", ["thousand", "thousand"], ["a"]),
        helper.make_node("Mul", ["a", "a"], ["b"]),
        helper.make_node("ConstantOfShape", ["b"], ["z"]),
    ]
    refuse(with_nodes(nodes, [numbers("thousand", 1000)]), f"{TOO_LARGE}|known only when it runs")


def product(*inputs):
    """Two weights of 64 KiB whose product has 2**28 elements, alone or scaled by the image."""
    nodes = [
        helper.make_node("ReduceMax", ["image"], ["light"], keepdims=0),
        helper.make_node("Mul", ["column", "light"], ["scaled"]),
        helper.make_node("MatMul", [*inputs], ["z"]),
    ]
    return with_nodes(nodes, [floats("column", 2**14, 1), floats("row", 1, 2**14)])


@pytest.mark.parametrize("left", ["column", "scaled"])
@pytest.mark.parametrize("claim", [None, [2, 3], ["a", "b"]])
def test_products_of_its_own_weights_are_refused_before_they_are_computed(refuse, left, claim):
    model = onnx.load_from_string(product(left, "row"))
    if claim is not None:  # what the file says of its shapes is not believed
        said = helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, claim)
        model.graph.value_info.append(said)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refuse(model.SerializeToString(), "computes 268[0-9]{6} elements for one image")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # of 1 GiB


def test_what_grows_faster_than_the_batch_is_refused(refuse):
    nodes = [
        helper.make_node("Reshape", ["image", "to_row"], ["one"]),
        helper.make_node("Transpose", ["one"], ["other"]),
        *(helper.make_node("MatMul", ["other", "one"], [f"z{n}"]) for n in range(3)),
    ]
    refuse(with_nodes(nodes, [numbers("to_row", 1, -1)]), "grows faster than the batch")


def test_a_size_that_the_image_decides_is_refused(refuse):
    nodes = [
        helper.make_node("ReduceMax", ["image"], ["light"], axes=[0, 1, 2, 3], keepdims=0),
        helper.make_node("Cast", ["light"], ["number"], to=7),
        helper.make_node("Reshape", ["number", "to_row"], ["size"]),
        helper.make_node("ConstantOfShape", ["size"], ["z"]),
    ]
    del nodes[0].attribute[0]  # all axes
    refuse(with_nodes(nodes, [numbers("to_row", 1)]), "known only when it runs")


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("ConvTranspose", ["image", "kernel"], ["z"]),
        helper.make_node("Einsum", ["wide", "tall", "wide"], ["z"], equation="ab,cb,ab->ab"),
        helper.make_node("Einsum", ["wide", "tall", "wide"], ["z"], equation="...b,cb,...b->...b"),
    ],
)
def test_what_an_operator_needs_inside_is_bounded(refuse, node):
    weights = [floats("kernel", 1, 1, 1000, 1000), floats("wide", 2**14, 1)]
    nodes = [helper.make_node("Identity", ["wide"], ["tall"]), node]
    refuse(with_nodes(nodes, weights), "computes .* elements for one image|does not name all axes")


@pytest.mark.parametrize("operator", ["Div", "Mod"])
@pytest.mark.parametrize("zero", ["constant", "computed"])
def test_integers_are_not_divided_by_zero(refuse, operator, zero):
    weights = [numbers("four", 4), numbers("zero", 0)]
    nodes = [helper.make_node(operator, ["four", "zero"], ["z"])]
    if zero == "computed":
        nodes = [
            helper.make_node("Sub", ["four", "four"], ["nothing"]),
            helper.make_node(operator, ["four", "nothing"], ["z"]),
        ]
    refuse(with_nodes(nodes, weights), "divides integers by what may be zero")


@pytest.mark.parametrize("name", ["group", "strides", "dilations", "kernel_shape"])
def test_attributes_that_must_be_positive(refuse, name):
    model = onnx.load(VERSION_0_1 / "small.onnx")
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    kept = [a for a in conv.attribute if a.name != name]
    del conv.attribute[:]
    value = 0 if name == "group" else [0, 0]
    conv.attribute.extend([*kept, helper.make_attribute(name, value)])
    refuse(model.SerializeToString(), f"has {name} .*expected at least 1")


def test_a_tensor_that_claims_more_than_the_file_is_refused(refuse):
    model = onnx.load(VERSION_0_1 / "small.onnx")
    model.graph.initializer[0].dims[:] = [1 << 40]
    refuse(model.SerializeToString(), "more than the file holds")


# Files that are none, and files that change


@pytest.mark.parametrize("required", [True, False])
def test_a_pipe_is_refused_at_once(tmp_path, required):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ArtifactError, match="a pipe or a device, not a regular file"):
        open_session(tmp_path / "pipe", "cpu", require_certificate=required)
    with pytest.raises(ArtifactError, match="a pipe or a device, not a regular file"):
        open_session("/dev/zero", "cpu", require_certificate=required)


@pytest.mark.parametrize("file", FILES)
def test_the_file_is_read_once(tmp_path, monkeypatch, file):
    path = tmp_path / "model"
    path.write_bytes((VERSION_0_1 / file).read_bytes())
    opened = []
    monkeypatch.setattr(
        os, "open", lambda p, *a, _open=os.open: (opened.append(p), _open(p, *a))[1]
    )
    real = io.open

    def counted(name, *arguments, **options):
        opened.append(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(io, "open", counted)
    open_session(path, "cpu")
    assert [name for name in opened if str(name) == str(path)] == [path]


def certify(path, **changes):
    import hashlib

    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    document = {**FORGED, "artifact": {"sha256": digest}} | changes
    path.with_name(f"{path.name}.parity.json").write_text(json.dumps(document))


def test_the_bytes_that_were_proven_are_those_that_run(tmp_path, monkeypatch):
    path = tmp_path / "model"
    path.write_bytes((VERSION_0_1 / "small.onnx").read_bytes())
    certify(path)
    other = (VERSION_0_1 / "small.int8.onnx").read_bytes()
    from capsnet.runtime.sessions import opening

    def swapped(*arguments):
        path.write_bytes(other)  # between the check and the use
        return real(*arguments)

    real = opening.read_certificate
    monkeypatch.setattr(opening, "read_certificate", swapped)
    session = open_session(path, "cpu", require_certificate=True)
    assert session.metadata.precision == "fp32"
    with pytest.raises(ArtifactError, match="belongs to other bytes"):
        open_session(path, "cpu", require_certificate=True)


# Certificates


def test_a_pipe_as_certificate_is_refused_at_once(tmp_path):
    path = tmp_path / "model"
    path.write_bytes((VERSION_0_1 / "small.onnx").read_bytes())
    os.mkfifo(tmp_path / "model.parity.json")
    with pytest.raises(ArtifactError, match=r"certificate .* is damaged"):
        open_session(path, "cpu", require_certificate=True)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, b"\xff\xfe", '{"verdict": 1'])
def test_a_certificate_that_is_no_document_is_refused(tmp_path, text):
    path = tmp_path / "model"
    path.write_bytes((VERSION_0_1 / "small.onnx").read_bytes())
    content = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "model.parity.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"certificate .* is damaged"):
        open_session(path, "cpu", require_certificate=True)


def test_a_certificate_with_two_verdicts_is_refused(tmp_path):
    path = tmp_path / "model"
    path.write_bytes((VERSION_0_1 / "small.onnx").read_bytes())
    certify(path)
    certificate = tmp_path / "model.parity.json"
    certificate.write_text(certificate.read_text().replace("{", '{"verdict": "fail", ', 1))
    with pytest.raises(ArtifactError, match="'verdict' occurs more than once"):
        open_session(path, "cpu", require_certificate=True)


def test_parity_within_a_looser_tolerance_is_no_proof(tmp_path):
    path = tmp_path / "model"
    path.write_bytes((VERSION_0_1 / "small.onnx").read_bytes())
    certify(path, parity={"passed": True, "overridden": True})
    with pytest.raises(ResultError, match="only within a tolerance that was set looser"):
        open_session(path, "cpu", require_certificate=True)


def test_what_a_certificate_says_of_versions_is_printable(tmp_path):
    path = tmp_path / "model"
    path.write_bytes((VERSION_0_1 / "small.onnx").read_bytes())
    certify(path, environment={"numpy\x1b[2J": "1\x07\n2"})
    notes = open_session(path, "cpu", require_certificate=True).notes
    assert not any(c in note for note in notes for c in "\x1b\x07")
    assert any("numpy\\x1b[2J" in note for note in notes)


# Mutations: whatever happens to the bytes, only the documented errors come out

CHILD = """
import random, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
from capsnet.checkpoint import load_checkpoint
from capsnet.errors import ArtifactError, CheckpointError, DeviceError, ResultError
from capsnet.runtime.sessions.opening import open_session
sys.path.insert(0, sys.argv[5])
from support.hostile import records_of, torch_archive
source, target = Path(sys.argv[1]), Path(sys.argv[2])
seed, count = int(sys.argv[3]), int(sys.argv[4])
sound, draw = source.read_bytes(), random.Random(seed)
for number in range(count):
    content, record = bytearray(sound), None
    if source.suffix in (".pt", ".pt2") and number % 4:  # inside, with a checksum that fits
        records = records_of(source.name)
        record = draw.choice([n for n, data in records.items() if data])
        content = bytearray(records[record])
    kind = draw.randrange(4)
    if kind == 0:
        del content[draw.randrange(len(content)):]
    elif kind == 1:
        start = draw.randrange(len(content))
        content[start : start + draw.randrange(1, 64)] = draw.randbytes(draw.randrange(64))
    for _ in range(draw.choice((1, 1, 2, 8)) if kind > 1 else 0):
        place = draw.randrange(len(content))
        content[place] = draw.choice((content[place] ^ 1 << draw.randrange(8), 0, 255, 1))
    if record is not None:
        content = torch_archive(list((records | {record: bytes(content)}).items()))
    target.write_bytes(content)
    print(number, flush=True)
    try:
        if source.suffix == ".safetensors":
            load_checkpoint(target)
        else:
            open_session(target, "cpu")
    except (ArtifactError, DeviceError, ResultError, CheckpointError) as error:
        assert len(str(error).splitlines()) == 1, repr(error)
print("done")
"""


@pytest.mark.parametrize(
    "file", [*FILES, "small.int8.onnx", "small.fp16.onnx", "small.safetensors"]
)
def test_mutations_raise_only_what_is_documented(tmp_path, file):
    target = tmp_path / f"mutated{Path(file).suffix}"
    child = subprocess.run(
        [
            sys.executable,
            "-c",
            CHILD,
            str(VERSION_0_1 / file),
            str(target),
            "11",
            "200",
            str(TESTS),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert child.returncode == 0, f"{child.stdout[-20:]} {child.stderr[-2000:]}"
    assert child.stdout.endswith("done\n")
    assert "Traceback" not in child.stderr

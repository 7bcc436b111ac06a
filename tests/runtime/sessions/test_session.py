"""A session opens what capsnet exported, refuses all else in words, and says where it runs."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from support.artifacts import (
    edited,
    golden_outputs,
    metadata_of,
    onnx_bytes,
    parsed,
    with_dynamic_interface,
    with_metadata,
)
from support.networks import SMALL, TINY, random_images, with_layers

from capsnet.errors import ArtifactError, DataError, DeviceError
from capsnet.formats import FORMATS, Format
from capsnet.runtime.sessions import cuda
from capsnet.runtime.sessions import onnx as ort
from capsnet.runtime.sessions.onnx import OrtSession
from capsnet.runtime.sessions.opening import artifact_format, open_session

VERSION_0_1 = Path(__file__).parents[2] / "data" / "version_0.1"
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


@pytest.fixture
def artifact(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_bytes())
    return path


def write(folder, content):
    path = folder / "model.onnx"
    path.write_bytes(content)
    return path


def refuse(path, match, error=ArtifactError, device="cpu"):
    """Opening fails with an error that says ``match`` and names the file."""
    with pytest.raises(error, match=match) as caught:
        open_session(path, device)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


# What is recognised


def test_path_may_be_text(artifact):
    assert artifact_format(str(artifact)) == "onnx"
    session = open_session(str(artifact), "cpu")
    np.testing.assert_array_equal(
        session.run(IMAGES)["lengths"], open_session(artifact, "cpu").run(IMAGES)["lengths"]
    )


def test_row_that_is_added_to_the_table_is_recognised_and_opened(tmp_path, monkeypatch):
    def opened(path, content, *options):
        return OrtSession(path, content[8:], *options)

    row = Format("wrapped", "w", lambda head, _: head == b"wrapped!", export=print, open=opened)
    monkeypatch.setitem(FORMATS, "wrapped", row)
    path = write(tmp_path, b"wrapped!" + onnx_bytes())
    session = open_session(path, "cpu")
    assert artifact_format(path) == session.format == "wrapped"
    assert session.run(IMAGES)["lengths"].shape == (2, 5)
    path.write_bytes(b"something else")
    refuse(path, "is neither onnx, torchscript, pt2 nor wrapped: it starts with 73 6f")


@pytest.mark.parametrize("name", ["model.onnx", "model.bin", "model", "model.pt"])
def test_onnx_is_recognised_by_content_not_by_name(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(onnx_bytes())
    assert artifact_format(path) == "onnx"
    session = open_session(path, "cpu")
    assert session.format == "onnx"
    assert session.device == "cpu"


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "it is empty; export it with capsnet-export"),
        (b"a text about capsules\n", "it starts with 61 20 74 65; export it"),
        (b"\x08", "it starts with 08"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "it starts with 89 50 4e 47"),
        (b"PK\x05\x06" + bytes(18), "it is a zip archive of another kind; export it"),
        (b"\x08\x0a" + b"\xff" * 50, "truncated, damaged, or not what capsnet-export writes"),
    ],
    ids=["empty", "text", "one byte", "image", "zip", "damaged"],
)
def test_other_files_are_refused(tmp_path, content, match):
    refuse(write(tmp_path, content), match)


def test_missing_file_is_refused(tmp_path):
    refuse(tmp_path / "none.onnx", "cannot read .*: No such file")


def test_folder_is_refused(tmp_path):
    refuse(tmp_path, "cannot read .*: Is a directory")


@pytest.mark.parametrize("share", [0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.9999])
def test_truncated_file_is_refused(tmp_path, share):
    content = onnx_bytes()
    path = write(tmp_path, content[: int(len(content) * share)])
    refuse(path, "truncated, damaged|without capsnet metadata")


def foreign_model():
    tensor = onnx.TensorProto.FLOAT
    image = onnx.helper.make_tensor_value_info("image", tensor, ["batch", 1, 12, 12])
    lengths = onnx.helper.make_tensor_value_info("lengths", tensor, ["batch", 1, 12, 12])
    node = onnx.helper.make_node("Relu", ["image"], ["lengths"])
    graph = onnx.helper.make_graph([node], "foreign", [image], [lengths])
    opset = onnx.helper.make_opsetid("", 18)
    return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString()


def test_foreign_onnx_file_is_refused(tmp_path):
    refuse(write(tmp_path, foreign_model()), "onnx without capsnet metadata: export it with")


def test_sound_metadata_in_a_foreign_file_is_refused(tmp_path):
    content = with_metadata(foreign_model(), metadata_of(onnx_bytes()))
    refuse(write(tmp_path, content), "the metadata contradicts the graph: its outputs are")


@pytest.mark.parametrize("file", ["small.onnx", "small.torchscript.pt", "small.pt2"])
def test_library_that_is_missing_is_named(monkeypatch, file):
    library = "onnxruntime" if file == "small.onnx" else "torch"
    for name in list(sys.modules):
        if name.startswith("capsnet.runtime.sessions."):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    refuse(VERSION_0_1 / file, f"cannot be imported: .*{library}.*: capsnet doctor", DeviceError)


# Metadata


@pytest.mark.parametrize("version", [4, 0, "1", None])
def test_metadata_of_another_schema_is_refused(tmp_path, version):
    document = {**metadata_of(onnx_bytes()), "schema_version": version}
    path = write(tmp_path, with_metadata(onnx_bytes(), document))
    refuse(path, f"schema version {version}, this toolkit reads up to 3: upgrade capsnet-export")


@pytest.mark.parametrize(
    "key",
    [
        "checkpoint_sha256",
        "config",
        "exporter",
        "inputs",
        "outputs",
        "precision",
        "schema_version",
        "toolkit_version",
        "versions",
    ],
)
def test_metadata_without_one_of_its_keys_is_refused(tmp_path, key):
    document = metadata_of(onnx_bytes())
    assert len(document) == 17
    del document[key]
    content = with_metadata(onnx_bytes(), document)
    refuse(write(tmp_path, content), f"the metadata is damaged: .*{key}.*export again")


@pytest.mark.parametrize("key", ["opset", "ir_version"])
def test_metadata_of_other_formats_has_no_opset(tmp_path, key):
    document = metadata_of(onnx_bytes())
    del document[key]
    session = open_session(write(tmp_path, with_metadata(onnx_bytes(), document)), "cpu")
    assert getattr(session.metadata, key) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "7",
        '"text"',
        '{"schema_version": 1}',
        "[" * 100_000,
    ],
    ids=["empty", "cut", "null", "list", "number", "string", "incomplete", "deep"],
)
def test_metadata_that_is_no_document_is_refused(tmp_path, text):
    refuse(write(tmp_path, with_metadata(onnx_bytes(), text)), "the metadata is damaged")


def test_metadata_that_is_no_text_is_refused(tmp_path):
    content = onnx_bytes().replace(b'"schema_version"', b'"schema_ve\xff\xfeion"')
    assert content != onnx_bytes()
    refuse(write(tmp_path, content), "damaged")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (("inputs", []), "names the inputs and outputs lengths, capsules, expected at least one"),
        (("outputs", []), "names the inputs and outputs image, expected at least one"),
        (("outputs", 0, "name", "capsules"), "capsules, capsules, expected .* all different"),
        (("outputs", 0, "name", "scores"), "contradicts itself: lengths decides the class"),
        (("decision", "scores"), "contradicts itself: scores decides the class"),
        (("outputs", 0, "dtype", "float16"), "output that is not float32"),
        (("inputs", 0, "dtype", "int64"), "input or output that is not float32"),
        (("inputs", 0, "dtype", "uint8"), "contradicts the graph: its inputs are image float32"),
        (("outputs", 0, "dtype", "uint8"), "output that is not float32"),
        (("layout", "nchw8"), "the layout 'nchw8'"),
        (("outputs", 1, "shape", []), "not float32 with a batch axis"),
        (("outputs", 1, "shape", [4, 5, 6]), "contradicts itself: .*different batch sizes"),
        (("inputs", 0, "shape", "12"), r"damaged: inputs\[0\]\.shape"),
        (("outputs", 1, "colour", "red"), r"damaged: outputs\[1\]\.colour"),
        (("claims", 0, "least", "2"), r"damaged: claims\[0\]\.least"),
        (("surplus", 1), "damaged.*surplus"),
        (("precision", "fp7"), "damaged: precision must be one of .*'fp7'"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_metadata_that_contradicts_itself_is_refused(tmp_path, change, match):
    *keys, last, value = change
    document = part = metadata_of(onnx_bytes())
    for key in keys:
        part = part[key]
    part[last] = value
    refuse(write(tmp_path, with_metadata(onnx_bytes(), document)), match)


def other_document(batch="batch", image=(1, 12, 12), classes=5, dim=6, couplings=2, name="image"):
    """A consistent document, but of a network with other sizes."""
    document = metadata_of(onnx_bytes())
    document["inputs"][0] |= {"name": name, "shape": [batch, *image]}
    document["outputs"][0]["shape"] = [batch, classes]
    document["outputs"][1]["shape"] = [batch, classes, dim]
    document["claims"][0] |= {"least": couplings, "most": couplings}
    return document


@pytest.mark.parametrize(
    ("sizes", "match"),
    [
        (
            {"image": [1, 14, 12]},
            r"inputs are image float32 \[batch, 1, 12, 12\], the metadata says "
            r"image float32 \[batch, 1, 14, 12\]",
        ),
        ({"image": [3, 12, 12]}, r"inputs are .*\[batch, 3, 12, 12\]"),
        ({"name": "picture"}, "inputs are image .*the metadata says picture"),
        ({"batch": 4}, r"inputs are .*\[batch, 1, 12, 12\], the metadata .*\[4, 1, 12"),
        ({"batch": "n"}, "inputs are"),
        ({"classes": 6}, r"outputs are lengths .*\[batch, 6\]"),
        ({"dim": 7}, r"outputs are .*\[batch, 5, 7\]"),
        ({"couplings": 1}, r"routing of 3 iterations takes 1 of Exp/Softmax, .* has 2"),
        ({"couplings": 3}, r"routing of 3 iterations takes 3 of Exp/Softmax, .* has 2"),
    ],
    ids=["height", "channels", "name", "fixed", "axis", "classes", "dim", "fewer", "more"],
)
def test_metadata_that_contradicts_the_graph_is_refused(tmp_path, sizes, match):
    content = with_metadata(onnx_bytes(), other_document(**sizes))
    refuse(write(tmp_path, content), f"the metadata contradicts the graph: .*{match}.*export it")


def test_document_of_the_test_itself_is_accepted_when_nothing_is_changed(tmp_path):
    assert other_document() == metadata_of(onnx_bytes())
    session = open_session(write(tmp_path, with_metadata(onnx_bytes(), other_document())), "cpu")
    assert json.loads(session.metadata.to_json()) == other_document()


@pytest.mark.parametrize(
    ("least", "most", "passes"),
    [(1, None, True), (2, 5, True), (0, 2, True), (3, None, False), (0, 1, False)],
)
def test_claims_are_bounds_that_the_graph_keeps(tmp_path, least, most, passes):
    claim = {"what": "two products", "operators": ["Exp"], "least": least, "most": most}
    document = {**metadata_of(onnx_bytes()), "claims": [claim]}
    path = write(tmp_path, with_metadata(onnx_bytes(), document))
    if passes:
        assert open_session(path, "cpu").metadata.claims[0].what == "two products"
    else:
        refuse(path, "the metadata contradicts the graph: two products takes .*Exp")


def with_output_renamed(model):
    for node in model.graph.node:
        node.output[:] = ["scores" if name == "lengths" else name for name in node.output]
    model.graph.output[0].name = "scores"


def with_outputs_swapped(model):
    first, second = model.graph.output[0], model.graph.output[1]
    swapped = [second, first]
    copies = [type(value).FromString(value.SerializeToString()) for value in swapped]
    model.graph.ClearField("output")
    model.graph.output.extend(copies)


def with_output_in_half_precision(model):
    for node in model.graph.node:
        node.output[:] = ["lengths32" if name == "lengths" else name for name in node.output]
    half = onnx.TensorProto.FLOAT16
    model.graph.node.append(onnx.helper.make_node("Cast", ["lengths32"], ["lengths"], to=half))
    model.graph.output[0].type.tensor_type.elem_type = half


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (with_output_renamed, "its outputs are scores float32"),
        (with_outputs_swapped, "its outputs are capsules float32 .*; lengths"),
        (lambda model: model.graph.output.pop(), r"its outputs are lengths float32 \[batch, 5\], "),
        (with_output_in_half_precision, r"its outputs are lengths tensor\(float16\)"),
    ],
    ids=["renamed", "swapped", "missing", "half"],
)
def test_graph_with_other_outputs_than_its_metadata_is_refused(tmp_path, edit, match):
    refuse(write(tmp_path, edited(onnx_bytes(), edit)), f"contradicts the graph: {match}")


# Running


def test_outputs_come_by_name_in_order_and_are_those_of_the_readable_model(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_bytes(TINY, reconstruction=True))
    images = random_images(TINY, 5)
    found = open_session(path, "cpu").run(images)
    assert list(found) == ["lengths", "capsules", "reconstruction"]
    golden = golden_outputs(TINY, images, tuple(found))
    for name, values in found.items():
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, golden[name], rtol=0, atol=2e-6)


SHAPE = (2, 1, 12, 12)
DIVIDE = "divide pixels of 0..255 by 255"
FIT = "give images of this shape"


@pytest.mark.parametrize(
    ("images", "advice"),
    [
        (np.zeros(SHAPE, np.uint8), DIVIDE),
        (np.zeros(SHAPE, np.int64), DIVIDE),
        (np.zeros(SHAPE, bool), "convert False and True"),
        (np.zeros(SHAPE, np.complex64), "convert them to float32"),
        (np.full(SHAPE, "0.5"), "convert them to float32"),
        (np.full(SHAPE, None), "convert them to float32"),
        (np.zeros((2, 1, 12, 13), np.float32), FIT),
        (np.zeros((1, 12, 12), np.float32), r"give one image as images\[None\]"),
        (np.zeros((2, 12, 12), np.float32), FIT),
        (np.zeros((2, 3, 12, 12), np.float32), FIT),
        (np.zeros((), np.float32), FIT),
        (np.full(SHAPE, 1e300), "values beyond float32"),
    ],
    ids=lambda value: f"{value.dtype}{list(value.shape)}" if hasattr(value, "dtype") else "",
)
@pytest.mark.parametrize("batch", [None, 3])
def test_images_of_another_type_or_shape_are_refused(tmp_path, images, advice, batch):
    session = open_session(write(tmp_path, onnx_bytes(batch=batch)), "cpu")
    with pytest.raises(DataError, match=advice) as caught:
        session.run(images)
    assert f"the images are {images.dtype} {list(images.shape)}" in str(caught.value)
    assert "takes float32 [batch, 1, 12, 12] with values 0..1" in str(caught.value)


IMAGES = random_images(SMALL, 2)


def read_only(images):
    images = images.copy()
    images.flags.writeable = False
    return images


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (7, r"the images are int64 \[\], the artifact takes"),
        (None, r"the images are object \[\], the artifact takes"),
        ("images.npy", r"the images are <U10 \[\], the artifact takes"),
        ([], r"the images are float64 \[0\], the artifact takes"),
        ([[0.5, 0.5], [0.5]], "cannot be read as one array: .*all images of one size"),
        ([IMAGES[0], IMAGES[1, :, :-1]], "cannot be read as one array"),
        ((IMAGES * 255).astype(int).tolist(), DIVIDE),
        (torch.zeros(SHAPE, dtype=torch.uint8), DIVIDE),
        (torch.zeros(SHAPE, requires_grad=True), "cannot be read as one array: .*detach"),
        ([torch.zeros(SHAPE[1:], requires_grad=True)], "cannot be read as one array: .*detach"),
        (torch.zeros(SHAPE, dtype=torch.bfloat16), "cannot be read as one array: .*BFloat16"),
        (np.ma.masked_array(IMAGES, IMAGES > 0.5), "are masked, .*fill them"),
        ([np.ma.masked_array(IMAGES[0], IMAGES[0] > 0.5)], "are masked, .*fill them"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_images_is_refused_in_words(artifact, images, message):
    with pytest.raises(DataError, match=message) as caught:
        open_session(artifact, "cpu").run(images)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("file", ["small.onnx", "small.torchscript.pt", "small.pt2"])
@pytest.mark.parametrize(
    "convert",
    [
        np.ndarray.tolist,
        list,
        tuple,
        torch.from_numpy,
        lambda images: list(torch.from_numpy(images)),
        lambda images: images.astype(np.float64),
        lambda images: images.astype(np.longdouble),
        lambda images: images.astype(">f4"),
        read_only,
        lambda images: np.asfortranarray(images),
        lambda images: images[::-1, :, ::-1].copy()[::-1, :, ::-1],
    ],
    ids=["list", "arrays", "tuple", "tensor", "tensors", "f8", "f16", ">f4", "ro", "F", "strides"],
)
@pytest.mark.parametrize("count", [1, 33])
def test_images_in_every_form_give_the_same_results(file, convert, count):
    session = open_session(VERSION_0_1 / file, "cpu")
    images = random_images(SMALL, count)
    expected, found = session.run(images), session.run(convert(images))
    for name, values in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], values)


def test_half_precision_is_read_as_what_it_says(artifact):
    session = open_session(artifact, "cpu")
    half = IMAGES.astype(np.float16)
    found, expected = session.run(half), session.run(half.astype(np.float32))
    np.testing.assert_array_equal(found["lengths"], expected["lengths"])


def test_proper_images_are_not_copied(artifact):
    session, seen = open_session(artifact, "cpu"), []
    compute = session._compute
    session._compute = lambda part: (seen.append(part["image"]), compute(part))[1]
    session.run(IMAGES)
    assert np.shares_memory(seen[0], IMAGES)


@pytest.mark.parametrize("batch", [None, 3])
def test_no_images_give_empty_outputs(tmp_path, batch):
    session = open_session(write(tmp_path, onnx_bytes(batch=batch)), "cpu")
    found = session.run(random_images(SMALL, 0))
    assert {name: (a.shape, a.dtype.name) for name, a in found.items()} == {
        "lengths": ((0, 5), "float32"),
        "capsules": ((0, 5, 6), "float32"),
    }


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 9])
def test_fixed_batch_is_filled_up_and_trimmed(tmp_path, count):
    images = random_images(SMALL, count)
    session = open_session(write(tmp_path, onnx_bytes(batch=3)), "cpu")
    sizes = []
    compute = session._compute
    session._compute = lambda part: (sizes.append(len(part["image"])), compute(part))[1]
    found = session.run(images)
    assert sizes == [3] * -(-count // 3)
    golden = golden_outputs(SMALL, images, ("lengths", "capsules"))
    for name, values in found.items():
        np.testing.assert_allclose(values, golden[name], rtol=0, atol=2e-6)


def test_images_that_are_not_contiguous_are_read_right(artifact):
    session = open_session(artifact, "cpu")
    images = random_images(SMALL, 6)
    mirrored = images[::2, :, :, ::-1]
    assert not mirrored.flags.c_contiguous
    expected = session.run(np.ascontiguousarray(mirrored))
    for name, values in session.run(mirrored).items():
        np.testing.assert_array_equal(values, expected[name])


def test_images_are_left_as_they_were(artifact):
    images = random_images(SMALL, 2)
    earlier = images.copy()
    open_session(artifact, "cpu").run(images)
    np.testing.assert_array_equal(images, earlier)


def test_graph_with_a_baked_batch_size_is_refused(tmp_path):
    content = edited(onnx_bytes(batch=3), with_dynamic_interface)
    refuse(write(tmp_path, content), r"its outputs are lengths float32 \[3, 5\]")


def test_failure_inside_onnxruntime_is_an_artifact_error(tmp_path, monkeypatch):
    monkeypatch.setattr(ort.OrtSession, "_check_interface", lambda *_: None)
    content = edited(onnx_bytes(batch=3), with_dynamic_interface)
    session = open_session(write(tmp_path, content), "cpu")
    with pytest.raises(ArtifactError, match="onnxruntime failed on a batch of 4: "):
        session.run(random_images(SMALL, 4))


# Where it runs


def test_placement_names_every_node_with_its_provider(artifact):
    session = open_session(artifact, "cpu")
    assert set(session.placement.values()) == {CPU}
    assert session.providers() == {CPU: len(session.placement)}
    exported = {node.name for node in parsed(onnx_bytes()).graph.node}
    assert len(exported & session.placement.keys()) > 20
    for stage in ("stem/Conv", "primary_capsules/Conv"):
        assert stage in session.placement


@pytest.fixture
def no_memory():
    """What was found out about CUDA is found out again, before and after."""
    cuda.why_no_cuda.cache_clear()
    yield
    cuda.why_no_cuda.cache_clear()


def without_gpu_build(monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])


def without_driver(monkeypatch):
    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(cuda, "ctypes", SimpleNamespace(CDLL=missing))


@pytest.mark.parametrize(
    ("lack", "match"),
    [
        (without_gpu_build, f"this onnxruntime has only {CPU}; install the GPU build: pip install"),
        (without_driver, "there is no NVIDIA driver on this machine"),
    ],
)
def test_cuda_without_a_gpu_is_refused_with_what_is_missing(
    artifact, monkeypatch, no_memory, lack, match
):
    lack(monkeypatch)
    refuse(artifact, f"no CUDA for .*: {match}.*set the device to cpu or auto", DeviceError, "cuda")


@pytest.mark.parametrize("lack", [without_gpu_build, without_driver])
@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_other_devices_run_on_the_cpu_without_a_gpu(artifact, monkeypatch, no_memory, lack, device):
    lack(monkeypatch)
    session = open_session(artifact, device)
    assert session.device == "cpu"
    assert set(session.providers()) == {CPU}


@pytest.fixture
def cuda_that_is_dropped(monkeypatch):
    """CUDA looks available, and onnxruntime silently leaves it out of the session."""
    real, asked = onnxruntime.InferenceSession, []

    def session(*arguments, providers, **options):
        asked.append([name if isinstance(name, str) else name[0] for name in providers])
        return real(*arguments, providers=[CPU], **options)

    monkeypatch.setattr(cuda, "why_no_cuda", lambda: "")
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    return asked


def test_cuda_that_silently_became_the_cpu_is_refused(artifact, cuda_that_is_dropped):
    refuse(artifact, f"does not run on CUDA.*{CPU}.*use --device cpu", DeviceError, "cuda")
    assert cuda_that_is_dropped[0] == [CUDA, CPU]


@pytest.mark.parametrize("tf32", [False, True])
def test_tf32_is_off_unless_it_is_asked_for(artifact, monkeypatch, cuda_that_is_dropped, tf32):
    options, session = [], onnxruntime.InferenceSession

    def keep(*arguments, providers, **others):
        options.append(providers[0])
        return session(*arguments, providers=providers, **others)

    monkeypatch.setattr(onnxruntime, "InferenceSession", keep)
    open_session(artifact, "auto", **({"tf32": True} if tf32 else {}))
    assert options[0] == (CUDA, {"use_tf32": "1" if tf32 else "0", "enable_cuda_graph": "0"})


def test_auto_takes_the_cpu_where_cuda_cannot_create_a_session(artifact, monkeypatch):
    real = onnxruntime.InferenceSession

    def session(*arguments, providers, **options):
        if providers != [CPU]:
            raise RuntimeError("CUDA error 803: system has unsupported display driver")
        return real(*arguments, providers=providers, **options)

    monkeypatch.setattr(cuda, "why_no_cuda", lambda: "")
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    opened = open_session(artifact, "auto")
    assert opened.device == "cpu"
    assert "CUDA error 803" in opened.device_reason
    refuse(artifact, "CUDA error 803", ArtifactError, "cuda")


@pytest.mark.parametrize("claim", ["float16", "int8"])
def test_precision_that_the_graph_does_not_have_is_refused(tmp_path, claim):
    precision = {"float16": "fp16"}.get(claim, claim)
    document = {**metadata_of(onnx_bytes()), "precision": precision}
    path = write(tmp_path, with_metadata(onnx_bytes(), document))
    refuse(path, f"the metadata contradicts the graph: {claim} takes at least 1 of .* has 0")


def test_session_says_why_it_runs_where_it_runs(artifact, monkeypatch, no_memory):
    without_driver(monkeypatch)
    assert "there is no NVIDIA driver" in open_session(artifact, "auto").device_reason
    assert open_session(artifact, "cpu").device_reason == "as asked"


def test_auto_takes_the_cpu_where_cuda_does_not_work(artifact, cuda_that_is_dropped):
    session = open_session(artifact, "auto")
    assert session.device == "cpu"
    assert session.providers() == {CPU: len(session.placement)}


def test_cpu_is_not_asked_for_cuda(artifact, cuda_that_is_dropped):
    assert open_session(artifact, "cpu").device == "cpu"
    assert cuda_that_is_dropped == [[CPU]]


def test_session_of_one_iteration_and_of_a_stack_open_too(tmp_path):
    for config in (with_layers(SMALL, (5, 6, 1)), with_layers(SMALL, (7, 5, 2), (4, 6, 3))):
        reconstruction = len(config.capsule_layers) == 2
        content = onnx_bytes(config, reconstruction=reconstruction)
        session = open_session(write(tmp_path, content), "cpu")
        assert session.metadata.config == json.loads(config.to_json())

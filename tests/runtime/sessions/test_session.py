"""A session opens what capsnet exported, refuses all else in words, and says where it runs."""

import json
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
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
from capsnet.runtime.sessions import cuda
from capsnet.runtime.sessions import onnx as ort
from capsnet.runtime.sessions.opening import artifact_format, open_session

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
        (b"\x08\x0a" + b"\xff" * 50, "onnxruntime cannot load"),
    ],
    ids=["empty", "text", "one byte", "image", "damaged"],
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


# Metadata


@pytest.mark.parametrize("version", [2, 0, "1", None])
def test_metadata_of_another_schema_is_refused(tmp_path, version):
    document = {**metadata_of(onnx_bytes()), "schema_version": version}
    path = write(tmp_path, with_metadata(onnx_bytes(), document))
    refuse(path, f"schema version {version}, this toolkit reads 1: upgrade capsnet-export")


def test_metadata_may_leave_out_the_direct_convolution(tmp_path):
    document = metadata_of(onnx_bytes())
    del document["convolution"]  # as in files from before there was another one
    session = open_session(write(tmp_path, with_metadata(onnx_bytes(), document)), "cpu")
    assert session.metadata.convolution == "direct"


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"convolution": "fft"}, "names the convolution 'fft', expected one of direct, winograd"),
        (
            {"convolution": "winograd", "precision": "fp16"},
            "contradicts itself: Winograd's convolution in fp16",
        ),
    ],
)
def test_metadata_of_an_impossible_convolution_is_refused(tmp_path, changes, match):
    document = {**metadata_of(onnx_bytes()), **changes}
    refuse(write(tmp_path, with_metadata(onnx_bytes(), document)), match)


@pytest.mark.parametrize(
    "key",
    [
        "checkpoint_sha256",
        "config",
        "exporter",
        "inputs",
        "ir_version",
        "opset",
        "outputs",
        "precision",
        "routing",
        "routing_iterations",
        "schema_version",
        "toolkit_version",
        "versions",
    ],
)
def test_metadata_without_one_of_its_keys_is_refused(tmp_path, key):
    document = metadata_of(onnx_bytes())
    assert len(document) == 14
    del document[key]
    content = with_metadata(onnx_bytes(), document)
    if key in ("opset", "ir_version"):  # other formats have none
        assert getattr(open_session(write(tmp_path, content), "cpu").metadata, key) is None
    else:
        refuse(write(tmp_path, content), f"the metadata is damaged: .*{key}.*export again")


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
        (("routing_iterations", [2]), r"contradicts itself: routing iterations \[2\].*\[3\]"),
        (("routing_iterations", []), r"contradicts itself: routing iterations \[\]"),
        (
            ("config", "capsule_layers", 0, "routing_iterations", 2),
            r"contradicts itself: routing iterations \[3\].*configuration says \[2\]",
        ),
        (("config", "image_shape", [1, 14, 14]), "contradicts itself: the inputs and out"),
        (("config", "image_shape", [1, 2, 2]), "damaged.*no pixels are left"),
        (("config", "capsule_layers", 0, "capsules", 6), "contradicts itself: the inputs"),
        (("config", "stem_kernel", "5"), "damaged.*stem_kernel must be a positive integer"),
        (("config", "colour", "red"), "damaged.*colour"),
        (("inputs", 0, "name", "picture"), "contradicts itself: the inputs and outputs"),
        (("inputs", 0, "shape", ["batch", 3, 12, 12]), "contradicts itself: the inputs"),
        (("inputs", []), "names other inputs or outputs"),
        (("outputs", 0, "name", "scores"), "names other inputs or outputs"),
        (("outputs", 1, "shape", ["batch", 5, 7]), "contradicts itself"),
        (("outputs", 0, "dtype", "float16"), "contradicts itself"),
        (("surplus", 1), "damaged.*surplus"),
        (
            ("precision", "fp7"),
            "precision",
        ),
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


def other_document(batch="batch", **config):
    """A consistent document, but of a network with other sizes."""
    document = metadata_of(onnx_bytes())
    document["config"] |= config
    channels_and_size = document["config"]["image_shape"]
    layer = document["config"]["capsule_layers"][-1]
    document["routing_iterations"] = [layer["routing_iterations"]]
    document["inputs"][0]["shape"] = [batch, *channels_and_size]
    document["outputs"][0]["shape"] = [batch, layer["capsules"]]
    document["outputs"][1]["shape"] = [batch, layer["capsules"], layer["dim"]]
    return document


def layer(capsules=5, dim=6, iterations=3):
    return [{"capsules": capsules, "dim": dim, "routing_iterations": iterations}]


@pytest.mark.parametrize(
    ("sizes", "match"),
    [
        (
            {"image_shape": [1, 14, 12]},
            r"inputs are image float32 \[batch, 1, 12, 12\], the metadata says "
            r"image float32 \[batch, 1, 14, 12\]",
        ),
        ({"image_shape": [3, 12, 12]}, r"inputs are .*\[batch, 3, 12, 12\]"),
        ({"batch": 4}, r"inputs are .*\[batch, 1, 12, 12\], the metadata .*\[4, 1, 12"),
        ({"batch": "n"}, "inputs are"),
        ({"capsule_layers": layer(capsules=6)}, r"outputs are lengths .*\[batch, 6\]"),
        ({"capsule_layers": layer(dim=7)}, r"outputs are .*\[batch, 5, 7\]"),
        ({"capsule_layers": layer(iterations=2)}, r"routing iterations \[2\]"),
        ({"capsule_layers": layer(iterations=4)}, r"routing iterations \[4\]"),
    ],
    ids=["height", "channels", "fixed batch", "axis", "classes", "dim", "fewer", "more"],
)
def test_metadata_that_contradicts_the_graph_is_refused(tmp_path, sizes, match):
    content = with_metadata(onnx_bytes(), other_document(**sizes))
    refuse(write(tmp_path, content), f"the metadata contradicts the graph: .*{match}.*export it")


def test_document_of_the_test_itself_is_accepted_when_nothing_is_changed(tmp_path):
    assert other_document(capsule_layers=layer()) == metadata_of(onnx_bytes())
    session = open_session(write(tmp_path, with_metadata(onnx_bytes(), other_document())), "cpu")
    assert json.loads(session.metadata.to_json()) == other_document()


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


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 1, 12, 12), np.float64),
        np.zeros((2, 1, 12, 12), np.uint8),
        np.zeros((2, 1, 12, 13), np.float32),
        np.zeros((2, 12, 12), np.float32),
        np.zeros((2, 3, 12, 12), np.float32),
        np.zeros((), np.float32),
    ],
    ids=lambda images: f"{images.dtype}{list(images.shape)}",
)
@pytest.mark.parametrize("batch", [None, 3])
def test_images_of_another_type_or_shape_are_refused(tmp_path, images, batch):
    session = open_session(write(tmp_path, onnx_bytes(batch=batch)), "cpu")
    with pytest.raises(DataError) as caught:
        session.run(images)
    assert f"the images are {images.dtype} {list(images.shape)}" in str(caught.value)
    assert "takes float32 [batch, 1, 12, 12] with values 0..1" in str(caught.value)


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
    session._compute = lambda part: (sizes.append(len(part)), compute(part))[1]
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
    refuse(artifact, f"no CUDA for .*: {match}.*use --device cpu or auto", DeviceError, "cuda")


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


@pytest.mark.parametrize("claim", ["fp16", "int8"])
def test_precision_that_the_graph_does_not_have_is_refused(tmp_path, claim):
    document = {**metadata_of(onnx_bytes()), "precision": claim}
    path = write(tmp_path, with_metadata(onnx_bytes(), document))
    refuse(path, f"the metadata contradicts the graph, which is not {claim}")


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
        assert session.metadata.config == config

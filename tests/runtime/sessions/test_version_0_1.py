"""Files that version 0.1 of the toolkit wrote open, and are what they say.

``small`` is ``SMALL`` of ``support.artifacts``; ``stack`` has two layers, squashes its primary
capsules and has no decoder. Their checkpoints are beside them.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from support.artifacts import metadata_of, with_metadata

from capsnet.checkpoint import load_checkpoint
from capsnet.errors import ArtifactError
from capsnet.formats import FORMATS
from capsnet.runtime.sessions.opening import open_session

FOLDER = Path(__file__).parents[2] / "data" / "version_0.1"
SMALL_OUTPUTS = [("lengths", (5,)), ("capsules", (5, 6)), ("reconstruction", (1, 12, 12))]
EXACT, HALF, QUANTISED = 3e-6, 4e-3, 0.06

FILES = {
    "small.onnx": ("onnx", "fp32", "projected", EXACT),
    "small.fp16.onnx": ("onnx", "fp16", "projected", HALF),
    "small.int8.onnx": ("onnx", "int8", "projected", QUANTISED),
    "small.batch3.onnx": ("onnx", "fp32", "projected", EXACT),
    "small.torchscript.pt": ("torchscript", "fp32", "projected", EXACT),
    "small.pt2": ("pt2", "fp32", "projected", EXACT),
    "stack.onnx": ("onnx", "fp32", "projected", EXACT),
    "stack.votes.onnx": ("onnx", "fp32", "votes", EXACT),
}


def golden(name, images):
    """Lengths and capsules of the checkpoint's network in float64."""
    model = load_checkpoint(FOLDER / f"{name.partition('.')[0]}.safetensors").double().eval()
    with torch.inference_mode():
        lengths, capsules = model(torch.from_numpy(images).double())
    return {"lengths": lengths.numpy(), "capsules": capsules.numpy()}


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_file_opens_with_the_interface_that_its_metadata_says(file):
    name, precision, routing, _ = FILES[file]
    session = open_session(FOLDER / file, "cpu")
    metadata = session.metadata
    assert session.format == name
    assert (metadata.precision, metadata.toolkit_version) == (precision, "0.1.0")
    assert metadata.forms == {"routing": routing, "convolution": "direct"}
    assert metadata.decision == "lengths"
    batch = 3 if "batch3" in file else "batch"
    assert metadata.fixed_batch == (3 if "batch3" in file else None)
    [given] = metadata.inputs
    assert (given.name, given.shape) == ("image", (batch, 1, 12, 12))
    expected = SMALL_OUTPUTS if file.startswith("small") else SMALL_OUTPUTS[:2]
    assert [(spec.name, spec.shape) for spec in metadata.outputs] == [
        (output, (batch, *shape)) for output, shape in expected
    ]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("count", [1, 4])
def test_file_computes_the_network_of_its_checkpoint(file, count):
    session = open_session(FOLDER / file, "cpu")
    images = np.random.default_rng(0).random((count, *session.metadata.image_shape), np.float32)
    found, expected = session.run(images), golden(file, images)
    assert list(found) == [spec.name for spec in session.metadata.outputs]
    for name, values in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], values, rtol=0, atol=FILES[file][-1])


def test_every_format_of_version_0_1_is_there():
    assert {row[0] for row in FILES.values()} == {"onnx", "torchscript", "pt2"} <= FORMATS.keys()


def changed(tmp_path, change, file="small.onnx"):
    content = (FOLDER / file).read_bytes()
    document = metadata_of(content)
    change(document)
    (tmp_path / "model.onnx").write_bytes(with_metadata(content, document))
    return tmp_path / "model.onnx"


def test_metadata_may_leave_out_the_direct_convolution(tmp_path):
    path = changed(tmp_path, lambda document: document.pop("convolution"))
    assert open_session(path, "cpu").metadata.forms["convolution"] == "direct"


@pytest.mark.parametrize("iterations", [[2], [], [3, 3]])
def test_iterations_that_the_configuration_does_not_have_are_refused(tmp_path, iterations):
    path = changed(tmp_path, lambda document: document.update(routing_iterations=iterations))
    with pytest.raises(ArtifactError, match=r"contradicts itself: routing iterations .*\[3\]"):
        open_session(path, "cpu")


@pytest.mark.parametrize("iterations", [2, 4])
def test_iterations_that_the_graph_does_not_have_are_refused(tmp_path, iterations):
    def change(document):
        document["routing_iterations"] = [iterations]
        document["config"]["capsule_layers"][0]["routing_iterations"] = iterations

    with pytest.raises(
        ArtifactError, match=rf"contradicts the graph: routing of \[{iterations}\] .* has 2"
    ):
        open_session(changed(tmp_path, change), "cpu")


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_precision_that_the_graph_does_not_have_is_refused(tmp_path, precision):
    path = changed(tmp_path, lambda document: document.update(precision=precision), "stack.onnx")
    with pytest.raises(ArtifactError, match=r"contradicts the graph: .* takes at least 1 of"):
        open_session(path, "cpu")


@pytest.mark.parametrize(
    "key", ["config", "inputs", "outputs", "precision", "routing", "routing_iterations", "versions"]
)
def test_metadata_without_one_of_its_keys_is_refused(tmp_path, key):
    path = changed(tmp_path, lambda document: document.pop(key))
    with pytest.raises(ArtifactError, match=f"the metadata is damaged: .*{key}.*export again"):
        open_session(path, "cpu")

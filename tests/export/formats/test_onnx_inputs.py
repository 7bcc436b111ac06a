"""Images as servers have them: bytes and channels last, converted inside the graph."""

import json

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from support.artifacts import edited, metadata_of
from support.networks import SMALL, altered, lively_model, random_images

import capsnet
from capsnet.errors import ConfigError, DataError
from capsnet.runtime.sessions.images import from_bytes, to_bytes

COLOUR = altered(SMALL, image_shape=(3, 12, 10))
CHOICES = [("uint8", "nchw"), ("float32", "nhwc"), ("uint8", "nhwc")]


def exported(path, input_dtype, layout, **options):
    """A proven file of such an input; the images are no multiples of 1/255."""
    certificate = capsnet.export_model(
        lively_model(COLOUR),
        path,
        images=random_images(COLOUR, 20),
        input_dtype=input_dtype,
        layout=layout,
        device="cpu",
        **options,
    )
    assert certificate.passed
    return capsnet.open_session(path, "cpu")


@pytest.mark.slow
@pytest.mark.parametrize(("input_dtype", "layout"), CHOICES)
def test_file_takes_what_was_asked_for_and_computes_the_same(tmp_path, input_dtype, layout):
    session = exported(tmp_path / "own.onnx", input_dtype, layout)
    usual = exported(tmp_path / "usual.onnx", "float32", "nchw")
    shape = ("batch", 3, 12, 10) if layout == "nchw" else ("batch", 12, 10, 3)
    [spec] = session.metadata.inputs
    assert (spec.dtype, spec.shape, session.metadata.layout) == (input_dtype, shape, layout)
    assert session.metadata.image_shape == (3, 12, 10)
    pixels = np.random.default_rng(1).integers(0, 256, (4, 3, 12, 10), np.uint8)
    images = from_bytes(pixels)
    expected = usual.run(images)
    given = pixels if input_dtype == "uint8" else images
    given = given if layout == "nchw" else np.ascontiguousarray(given.transpose(0, 2, 3, 1))
    plain = ReferenceEvaluator(onnx.load(tmp_path / "own.onnx")).run(None, {"image": given})
    for found, name in zip(plain, expected, strict=True):
        np.testing.assert_allclose(found, expected[name], atol=1e-5)
        assert (session.run(images)[name] == expected[name]).all()


@pytest.mark.slow
def test_session_takes_the_bytes_themselves(tmp_path):
    session = exported(tmp_path / "a.onnx", "uint8", "nhwc")
    pixels = np.random.default_rng(1).integers(0, 256, (3, 12, 10, 3), np.uint8)
    expected = session.run(from_bytes(pixels).transpose(0, 3, 1, 2))
    assert (session.run(pixels)["lengths"] == expected["lengths"]).all()
    bound = session.bind(3)
    bound.write(pixels)
    bound.run()
    assert (bound.read()["lengths"] == expected["lengths"]).all()
    with pytest.raises(DataError, match=r"takes uint8 \[batch, 12, 10, 3\]"):
        session.run(pixels.transpose(0, 3, 1, 2))
    with pytest.raises(DataError, match="values from nan to nan"):
        session.run(np.full((1, 3, 12, 10), np.nan, np.float32))


@pytest.mark.slow
def test_int8_of_bytes_quantises_what_it_quantises_otherwise(tmp_path):
    images = random_images(COLOUR, 40)
    for dtype in ("float32", "uint8"):
        exported(tmp_path / f"{dtype}.onnx", dtype, "nchw", precision="int8", calibration=images)
    usual, own = (onnx.load(tmp_path / f"{dtype}.onnx").graph for dtype in ("float32", "uint8"))
    assert [node.name for node in own.node][2:] == [node.name for node in usual.node]


@pytest.mark.slow
def test_a_wrong_division_is_not_proven(tmp_path):
    path, model, images = tmp_path / "a.onnx", lively_model(COLOUR), random_images(COLOUR, 8)
    exported(path, "uint8", "nchw")

    def divide_by_256(parsed):
        [largest] = [t for t in parsed.graph.initializer if t.name == "input.largest"]
        largest.CopyFrom(onnx.numpy_helper.from_array(np.float32(256), largest.name))

    path.write_bytes(edited(path.read_bytes(), divide_by_256))
    assert not capsnet.verify(path, model, images=images, device="cpu").passed


@pytest.mark.slow
def test_an_earlier_file_without_a_layout_still_opens(tmp_path):
    exported(tmp_path / "a.onnx", "float32", "nchw")
    document = metadata_of((tmp_path / "a.onnx").read_bytes())
    assert document.pop("layout") == "nchw"
    from capsnet.artifact import ArtifactMetadata

    assert ArtifactMetadata.from_json(json.dumps(document)).layout == "nchw"


def test_other_formats_take_the_usual_input_alone(tmp_path):
    with pytest.raises(ConfigError, match="takes float32 images in the layout nchw alone"):
        exported(tmp_path / "a.pt2", "uint8", "nchw")


def test_bytes_are_the_nearest_ones():
    pixels = np.arange(256, dtype=np.uint8)
    assert (to_bytes(from_bytes(pixels)) == pixels).all()
    assert to_bytes(np.float32([-1, 0.0019, 0.002, 2])).tolist() == [0, 0, 1, 255]

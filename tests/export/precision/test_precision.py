"""fp16 and int8: half and a third of the size, within their budgets, finite on every input."""

import json
from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from support.artifacts import metadata_of, parsed
from support.networks import SMALL, altered, lively_model, random_images

from capsnet.artifact import ArtifactMetadata
from capsnet.bundled import BUNDLED
from capsnet.checkpoint import load_checkpoint, save_checkpoint
from capsnet.cli.main import main
from capsnet.data.idx import mnist_calibration_images, mnist_test_set
from capsnet.errors import ConfigError, DataError, ExportError
from capsnet.export.formats.onnx import to_onnx
from capsnet.export.formats.pt2 import to_exported_program
from capsnet.export.formats.torchscript import to_torchscript
from capsnet.export.lower import lower
from capsnet.export.options import ExportOptions
from capsnet.networks import NetworkSource
from capsnet.precision import PRECISIONS
from capsnet.runtime.proof.parity import compare
from capsnet.runtime.proof.proof import prove
from capsnet.runtime.proof.reference import EagerModel
from capsnet.runtime.proof.request import Request
from capsnet.runtime.sessions.opening import open_session

EXPORTERS = {"onnx": to_onnx, "torchscript": to_torchscript, "pt2": to_exported_program}
WIDE = altered(SMALL, stem_channels=16, primary_groups=8)
"""Wide enough that every weight behind the stem is a large one."""

CALIBRATION = random_images(WIDE, 64, seed=1)


@pytest.fixture
def folder(tmp_path):
    save_checkpoint(lively_model(WIDE), tmp_path / "model.safetensors")
    np.save(tmp_path / "images.npy", random_images(WIDE, 8))
    np.save(tmp_path / "calibration.npy", CALIBRATION)
    return tmp_path


def judged(folder, name):
    request = Request(
        NetworkSource(folder / "model.safetensors"), folder / "images.npy", device="cpu"
    )
    return prove(folder / name, request).certificate


def int8_bytes(folder, images=CALIBRATION):
    lowered = lower(lively_model(WIDE), precision="int8")
    to_onnx(lowered, folder / "model.onnx", ExportOptions(calibration=images))
    return (folder / "model.onnx").read_bytes()


# fp16


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORTERS)
@pytest.mark.parametrize("reconstruction", [False, True])
def test_half_precision_is_proven_within_its_own_budget(folder, name, reconstruction):
    lowered = lower(lively_model(WIDE), reconstruction=reconstruction, precision="fp16")
    metadata = EXPORTERS[name](lowered, folder / "model")
    assert metadata.precision == "fp16"
    certificate = judged(folder, "model")
    assert certificate.passed, certificate.failures
    assert certificate.parity.budget == PRECISIONS["fp16"].budget
    assert certificate.artifact.metadata.precision == "fp16"


@pytest.mark.slow
def test_half_precision_is_no_single_precision_in_disguise(folder):
    to_onnx(lower(lively_model(WIDE), precision="fp16"), folder / "model.onnx")
    checks = judged(folder, "model.onnx").parity.checks
    assert max(check.errors.max for check in checks) > 1e-5
    model = parsed((folder / "model.onnx").read_bytes())
    kinds = {t.name: t.data_type for t in model.graph.initializer if np.prod(t.dims) > 16}
    assert set(kinds.values()) == {onnx.TensorProto.FLOAT16}
    assert {
        "stem.conv.weight",
        "primary_capsules.conv.weight",
        "layer0.weight",
    } <= kinds.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORTERS)
def test_half_precision_is_half_the_size(tmp_path, name):
    config = altered(WIDE, stem_channels=128, primary_groups=32)
    sizes = {}
    for precision in ("fp32", "fp16"):
        path = tmp_path / precision
        EXPORTERS[name](lower(lively_model(config), precision=precision), path)
        sizes[precision] = path.stat().st_size
    assert sizes["fp16"] < 0.6 * sizes["fp32"]


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORTERS)
@pytest.mark.parametrize("length", [1e-6, 1e-3, 1.0, 1e3])
def test_half_precision_takes_capsules_of_every_length(tmp_path, name, length):
    model = lively_model(SMALL)
    with torch.no_grad():  # every primary capsule is the same, of this length
        model.primary.weight.zero_()
        model.primary.bias.fill_(length / 0.01 / SMALL.primary.dim**0.5)
    EXPORTERS[name](lower(model, precision="fp16"), tmp_path / "model")
    images = random_images(SMALL, 2)
    found = open_session(tmp_path / "model", "cpu").run(images)
    names = ("lengths", "capsules")
    expected = EagerModel(model, torch.float64).run(images, names)
    for output in names:
        assert np.isfinite(found[output]).all()
        np.testing.assert_allclose(found[output], expected[output], atol=2e-3)


# int8


@pytest.mark.slow
def test_only_the_primary_convolution_is_quantised(folder):
    model = parsed(int8_bytes(folder))
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    small = [name for name, values in constants.items() if values.dtype == np.int8 and values.ndim]
    [weight] = [name for name in small if constants[name].ndim == 4]
    assert constants[weight].shape == (32, 16, 3, 3)
    assert np.abs(constants[weight].astype(int)).max() <= 64  # 7 bits
    assert constants["stem.conv.weight"].dtype == np.float32
    assert constants["layer0.weight.half"].dtype == np.float16
    counts = Counter(node.op_type for node in model.graph.node)
    assert counts["QuantizeLinear"] >= 1
    assert counts["DequantizeLinear"] >= 2
    scales = [v for v in constants.values() if v.dtype == np.float32 and v.shape == (32,)]
    assert scales  # one for each output channel


@pytest.mark.slow
def test_quantised_network_describes_itself_and_keeps_its_interface(folder):
    metadata = metadata_of(int8_bytes(folder))
    assert metadata["precision"] == "int8"
    session = open_session(folder / "model.onnx", "cpu")
    assert isinstance(session.metadata, ArtifactMetadata)
    for count in (0, 1, 5, 40):
        outputs = session.run(random_images(WIDE, count))
        assert outputs["lengths"].shape == (count, 5)
        assert outputs["lengths"].dtype == np.float32


@pytest.mark.slow
def test_quantised_network_is_proven_within_its_own_budget(folder):
    int8_bytes(folder)
    certificate = judged(folder, "model.onnx")
    assert certificate.passed, certificate.failures
    assert certificate.parity.budget.clips is True
    results = {result.name: result for result in certificate.hard_inputs}
    assert results["values from -1 to 2"].allowed is None
    assert results["uniform noise"].allowed is not None


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 8, 32, 33])
def test_network_of_a_fixed_batch_size_is_calibrated_at_that_size(folder, batch):
    to_onnx(
        lower(lively_model(WIDE), precision="int8"),
        folder / "m.onnx",
        ExportOptions(batch=batch, calibration=CALIBRATION),
    )
    outputs = open_session(folder / "m.onnx", "cpu").run(random_images(WIDE, 5))
    assert outputs["lengths"].shape == (5, 5)


@pytest.mark.slow
def test_quantiser_that_fails_is_a_failed_export(folder, monkeypatch):
    def fail(*arguments, **options):
        raise ValueError("no such range")

    monkeypatch.setattr("onnxruntime.quantization.quantize_static", fail)
    with pytest.raises(ExportError, match="could not quantise the network: no such range"):
        int8_bytes(folder)


@pytest.mark.slow
def test_same_calibration_gives_the_same_bytes(folder):
    assert int8_bytes(folder) == int8_bytes(folder)
    assert int8_bytes(folder) != int8_bytes(folder, CALIBRATION * np.float32(0.5))


@pytest.mark.parametrize(
    ("images", "match"),
    [
        (CALIBRATION[:31], "are 31, it takes at least 32"),
        (CALIBRATION[:0], "are 0, it takes"),
        (np.zeros_like(CALIBRATION), "are all the same"),
        (CALIBRATION[:1].repeat(64, axis=0), "are all the same"),
        (CALIBRATION[:, :, :-1], r"are \[1, 11, 12\], the network takes \[1, 12, 12\]"),
    ],
    ids=["few", "none", "black", "one image", "shape"],
)
def test_calibration_that_shows_nothing_is_refused(tmp_path, images, match):
    with pytest.raises(DataError, match=match):
        to_onnx(
            lower(lively_model(WIDE), precision="int8"),
            tmp_path / "model.onnx",
            ExportOptions(calibration=images),
        )
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.slow
def test_accuracy_that_is_lost_fails(folder):
    """Class flips within the margin are excused; too many that are wrong are not."""
    int8_bytes(folder)
    images = random_images(WIDE, 40)
    golden, baseline = (
        EagerModel(lively_model(WIDE), dtype) for dtype in (torch.float64, torch.float32)
    )
    session = open_session(folder / "model.onnx", "cpu")
    labels = golden.run(images, ("lengths",))["lengths"].argmax(-1)

    class Flipped:
        """Its lengths lie within the budget, and hardly any class is right."""

        metadata = session.metadata

        def run(self, images):
            outputs = session.run(images)
            outputs["lengths"] = outputs["lengths"] * 0 + 0.5
            return outputs

    flipped = compare(golden, baseline, Flipped(), images, labels, batch_sizes=(40,))
    assert any(failure.startswith("accuracy falls from 100.00%") for failure in flipped.failures)
    sound = compare(golden, baseline, session, images, labels, batch_sizes=(40,))
    assert not any("accuracy" in failure for failure in sound.failures)


@pytest.mark.parametrize(("precision", "images"), [("fp32", CALIBRATION), ("int8", None)])
def test_calibration_images_go_with_int8(precision, images, tmp_path):
    lowered = lower(lively_model(WIDE), precision=precision)
    with pytest.raises(
        ConfigError, match="calibration images go with a precision that is calibrated"
    ):
        to_onnx(lowered, tmp_path / "model.onnx", ExportOptions(calibration=images))


@pytest.mark.parametrize("name", ["torchscript", "pt2"])
def test_int8_is_for_onnx(name, tmp_path):
    with pytest.raises(ConfigError, match=f"int8 exists in onnx only, not in {name}"):
        EXPORTERS[name](lower(lively_model(WIDE), precision="int8"), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


# Command


def run(*arguments):
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return caught.value.code or 0


def export(folder, *arguments):
    return run(
        *("export", "--format", "onnx", "--device", "cpu", "--output", folder / "out.onnx"),
        *("--checkpoint", folder / "model.safetensors", "--images", folder / "images.npy"),
        *arguments,
    )


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_command_exports_and_proves_a_precision(folder, precision):
    extra = ("--calibrate", folder / "calibration.npy") if precision == "int8" else ()
    assert export(folder, "--precision", precision, *extra) == 0
    certificate = json.loads((folder / "out.onnx.parity.json").read_text())
    assert certificate["artifact"]["metadata"]["precision"] == precision


@pytest.mark.parametrize(
    ("arguments", "code", "match"),
    [
        (("--precision", "int8"), 3, "bundled MNIST images cannot calibrate it"),
        (("--precision", "int8", "--calibrate", "images.npy"), 3, "are 8, it takes at least 32"),
        (("--precision", "int8", "--calibrate", "none.npy"), 3, "none.npy"),
        (("--calibrate", "images.npy"), 2, "goes with --precision int8"),
        (("--precision", "int8", "--format", "pt2"), 2, "goes with --format onnx alone"),
    ],
)
def test_calibration_that_cannot_be_used_is_refused(
    folder, monkeypatch, capsys, arguments, code, match
):
    monkeypatch.chdir(folder)
    assert export(folder, *arguments) == code
    assert match in capsys.readouterr().err
    assert not (folder / "out.onnx").exists()


# The bundled model


def test_bundled_calibration_images_are_no_test_images():
    images = mnist_calibration_images()
    assert images.shape == (256, 1, 28, 28)
    assert images.dtype == np.float32
    assert (images.min(), images.max()) == (0, 1)
    pixels = np.rint(images * 255).astype(np.uint8)
    tested = {image.tobytes() for image in mnist_test_set().images}
    assert not any(image.tobytes() in tested for image in pixels)


@pytest.mark.slow
def test_bundled_model_in_int8_is_small_and_proven(tmp_path):
    model = load_checkpoint(BUNDLED["mnist"])
    single, path = tmp_path / "fp32.onnx", tmp_path / "int8.onnx"
    to_onnx(lower(model, forms={"convolution": "direct"}), single)
    to_onnx(
        lower(model, precision="int8"), path, ExportOptions(calibration=mnist_calibration_images())
    )
    assert path.stat().st_size <= 0.35 * single.stat().st_size
    certificate = prove(
        path, Request(NetworkSource(BUNDLED["mnist"]), samples=64, device="cpu")
    ).certificate
    assert certificate.passed, certificate.failures
    assert certificate.parity.accuracy.candidate >= 0.96

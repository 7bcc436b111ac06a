"""Winograd's convolution is the direct one in other words, with less arithmetic."""

import copy
import json
from fractions import Fraction

import numpy as np
import onnx
import pytest
import torch
from support.artifacts import edited, golden_outputs, metadata_of, parsed, with_weight
from support.networks import SMALL, lively_model, network, random_images
from torch import nn

from capsnet.bundled import BUNDLED
from capsnet.checkpoint import load_checkpoint, save_checkpoint
from capsnet.cli.main import main
from capsnet.errors import ConfigError
from capsnet.export.formats.onnx import to_onnx
from capsnet.export.lower import lower
from capsnet.export.lowering.winograd import WinogradConv2d, arithmetic_left, tile_rows, toom_cook
from capsnet.export.options import ExportOptions
from capsnet.model import CapsNet
from capsnet.runtime.bench.profile import floating_point_operations
from capsnet.runtime.proof.locate import locate, onnx_stages
from capsnet.runtime.proof.parity import compare
from capsnet.runtime.proof.reference import EagerModel
from capsnet.runtime.sessions.opening import open_session

FIVE_ROWS = network(
    image_shape=(1, 16, 12),
    stem_channels=4,
    stem_kernel=5,
    primary_groups=2,
    primary_dim=4,
    primary_kernel=3,
)
"""A network whose primary convolution has rows that no tile divides."""

# The transforms


@pytest.mark.parametrize("taps", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("rows", [2, 3, 4])
def test_transforms_correlate_exactly(rows, taps):
    output, to_kernel, to_data = toom_cook(rows, taps)
    points = rows + taps - 1
    assert (len(output), len(to_kernel), len(to_data)) == (rows, points, points)
    kernel = [Fraction(n) for n in (3, -7, 2, 11, -5)[:taps]]
    data = [Fraction(n, 3) for n in (4, 1, -9, 6, 2, -8, 5, 10)[:points]]

    def times(matrix, vector):
        return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]

    at_points = zip(times(to_kernel, kernel), times(to_data, data), strict=True)
    found = times(output, [a * b for a, b in at_points])
    expected = [sum(g * data[i + j] for j, g in enumerate(kernel)) for i in range(rows)]
    assert found == expected


@pytest.mark.parametrize(
    ("rows", "kernel", "stride", "expected"),
    [
        (6, 9, 2, 3),  # the paper's network
        (8, 9, 2, 4),
        (10, 9, 2, 2),
        (7, 9, 2, None),  # no tile divides the rows
        (4, 9, 1, None),  # nine taps need more points than float32 bears
        (6, 2, 2, None),  # one tap a phase: nothing to save
        (12, 5, 1, 4),
    ],
)
def test_tiles(rows, kernel, stride, expected):
    assert tile_rows(rows, kernel, stride) == expected


def test_arithmetic_that_is_left():
    assert arithmetic_left(3, 9, 2) == (7 + 6) / 27  # for each row of weights, of 9 products
    assert arithmetic_left(2, 3, 1) == 4 / 6
    assert arithmetic_left(4, 3, 2) == (5 + 4) / 12


@pytest.mark.parametrize(
    ("kernel", "stride", "height"),
    [
        *[(9, 2, 19), (9, 2, 20), (9, 2, 24), (9, 2, 27), (9, 3, 24), (9, 4, 21), (9, 4, 24)],
        *[(5, 1, 8), (5, 1, 10), (5, 2, 11), (3, 1, 5), (3, 2, 8), (4, 3, 14), (2, 1, 3)],
    ],
)
@torch.no_grad()
def test_convolution_equals_the_direct_one(kernel, stride, height):
    torch.manual_seed(0)
    direct = nn.Conv2d(3, 5, kernel, stride).double()
    images = torch.randn(2, 3, height, kernel + 3).double()
    expected = direct(images)
    found = WinogradConv2d(direct, height)(images)
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert (found - expected).abs().max() < 1e-12


@torch.no_grad()
@pytest.mark.parametrize("height", [20, 24], ids=["six points", "seven points"])
def test_rounding_stays_near_that_of_the_direct_one(height):
    torch.manual_seed(0)
    direct = nn.Conv2d(64, 64, 9, 2)
    images = torch.relu(torch.randn(8, 64, height, 20))
    expected = copy.deepcopy(direct).double()(images.double())
    errors = [
        (convolution(images) - expected).pow(2).mean().sqrt().item()
        for convolution in (direct, WinogradConv2d(direct, height))
    ]
    # 1.4 and 1.7 times; in one chain 2.7 and 3.3, with points such as 0, 1, 2, ... 6 hundreds.
    assert 0 < errors[1] < 2.2 * errors[0]


def test_convolution_without_a_tile_is_refused():
    with pytest.raises(ValueError, match="no tile for 7 rows, a kernel of 9, stride 2"):
        WinogradConv2d(nn.Conv2d(3, 5, 9, 2), 22)


# The artifact


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    path = tmp_path_factory.mktemp("winograd") / "model.onnx"
    to_onnx(lower(lively_model(SMALL), forms={"convolution": "winograd"}), path)
    return path.read_bytes()


@pytest.mark.slow
def test_artifact_says_how_it_computes(content, tmp_path):
    assert metadata_of(content)["forms"]["convolution"] == "winograd"
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert open_session(path, "cpu").metadata.forms["convolution"] == "winograd"


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "opset"), [(2, 18), (None, 23), (5, 20)])
def test_artifact_is_right_in_every_operator_set_and_batch_size(batch, opset, tmp_path):
    path = tmp_path / "model.onnx"
    lowered = lower(lively_model(SMALL), forms={"convolution": "winograd"})
    to_onnx(lowered, path, ExportOptions(batch=batch, opset=opset))
    images = random_images(SMALL, 7)
    expected = golden_outputs(SMALL, images, ("lengths",))["lengths"]
    np.testing.assert_allclose(
        open_session(path, "cpu").run(images)["lengths"], expected, atol=1e-5
    )


def judged(content, folder):
    path = folder / "judged.onnx"
    path.write_bytes(content)
    model = lively_model(SMALL)
    golden, baseline = EagerModel(model, torch.float64), EagerModel(model, torch.float32)
    return compare(golden, baseline, open_session(path, "cpu"), random_images(SMALL, 64))


def test_artifact_is_right(content, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    images = random_images(SMALL, 5)
    found = open_session(path, "cpu").run(images)
    expected = golden_outputs(SMALL, images, ("lengths", "capsules"))
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-5)
    assert judged(content, tmp_path).passed


def initializers(content, start):
    names = [tensor.name for tensor in parsed(content).graph.initializer]
    return [name for name in names if name.startswith(start)]


def test_every_transform_and_kernel_counts(content, tmp_path):
    def spoil(values):
        values[np.unravel_index(np.abs(values).argmax(), values.shape)] *= 1.01

    names = initializers(content, "primary_capsules.conv.")
    # Of F(3, 2) and F(3, 1), which share a transform, and the bias.
    assert len(names) == 2 * (4 + 3) - 1 + 1
    for name in names:
        assert not judged(edited(content, with_weight(name, spoil)), tmp_path).passed, name


def test_fault_inside_is_located(content, tmp_path):
    def spoil(values):
        values *= 1.01

    path = tmp_path / "model.onnx"
    lowered = lower(lively_model(SMALL), forms={"convolution": "winograd"})
    for faulty, first in (
        (content, None),
        (
            edited(content, with_weight("primary_capsules.conv.kernel1_0", spoil)),
            "primary_capsules",
        ),
    ):
        path.write_bytes(faulty)
        images = random_images(SMALL, 8)
        found = {
            name: lowered.to_readable(name, torch.from_numpy(values)).numpy()
            for name, values in onnx_stages(path.read_bytes(), images).items()
        }
        stages = locate(lively_model(SMALL), found, images, "fp32")
        wrong = [stage.name for stage in stages if not stage.passed]
        assert (wrong[0] if wrong else None) == first


@pytest.mark.slow
def test_bundled_network_needs_half_of_the_arithmetic(tmp_path):
    model = load_checkpoint(BUNDLED["mnist"])
    operations = {}
    for convolution, forms in (("direct", {"convolution": "direct"}), ("auto", {})):
        to_onnx(lower(model, forms=forms), tmp_path / "model.onnx")
        graph = onnx.load(tmp_path / "model.onnx")
        operations[convolution] = floating_point_operations(graph, 1)
    assert metadata_of((tmp_path / "model.onnx").read_bytes())["forms"]["convolution"] == "winograd"
    assert 0.45 < operations["auto"] / operations["direct"] < 0.6


def wide(height, **values):
    """A network of 128 channels on images of this height."""
    return network(image_shape=(1, height, 28), stem_channels=128, primary_groups=16, **values)


@pytest.mark.parametrize(
    ("config", "precision", "expected"),
    [
        (network(stem_channels=128, primary_groups=16), "fp32", "winograd"),
        (network(stem_channels=64, primary_groups=16), "fp32", "direct"),
        (network(stem_channels=128, primary_groups=8), "fp32", "direct"),
        (wide(30), "fp32", "direct"),  # 7 rows
        (wide(36), "fp32", "winograd"),  # 10 rows
        (wide(33, primary_kernel=3), "fp32", "direct"),  # too little is saved
        (network(stem_channels=128, primary_groups=16), "fp16", "direct"),
        (network(stem_channels=128, primary_groups=16), "int8", "direct"),
    ],
)
def test_auto_takes_what_was_measured_to_be_faster(config, precision, expected):
    assert lower(CapsNet(config), precision=precision).forms["convolution"] == expected


@pytest.mark.parametrize(
    "choice",
    [{"forms": {"convolution": "Winograd"}}, {"precision": "bf16"}],
    ids=["convolution", "precision"],
)
def test_unknown_choice_is_refused(choice):
    with pytest.raises(ConfigError, match=r"must be one of .*, got '(Winograd|bf16)'"):
        lower(CapsNet(SMALL), **choice)


def test_winograd_is_refused_where_it_does_not_fit():
    for config, precision in ((FIVE_ROWS, "fp32"), (SMALL, "fp16"), (SMALL, "int8")):
        with pytest.raises(ConfigError, match="Winograd's convolution is for fp32 and for rows"):
            lower(CapsNet(config), forms={"convolution": "winograd"}, precision=precision)


# Command


def export(folder, *arguments, kind="onnx"):
    with pytest.raises(SystemExit) as caught:
        main(
            [
                *("export", "--format", kind, "--output", str(folder / "out"), "--device", "cpu"),
                *("--checkpoint", str(folder / "model.safetensors")),
                *("--images", str(folder / "images.npy"), *arguments),
            ]
        )
    return caught.value.code or 0


@pytest.fixture
def folder(tmp_path):
    save_checkpoint(lively_model(SMALL), tmp_path / "model.safetensors")
    np.save(tmp_path / "images.npy", random_images(SMALL, 8))
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "torchscript", "pt2"])
@pytest.mark.parametrize("convolution", ["direct", "winograd"])
def test_command_takes_the_convolution_that_is_asked_for(folder, convolution, kind):
    assert export(folder, "--convolution", convolution, kind=kind) == 0
    certificate = json.loads((folder / "out.parity.json").read_text())
    assert certificate["artifact"]["metadata"]["forms"]["convolution"] == convolution
    assert certificate["verdict"] == "pass"


def test_command_refuses_winograd_for_a_network_without_tiles(folder, capsys):
    save_checkpoint(CapsNet(FIVE_ROWS), folder / "model.safetensors")
    np.save(folder / "images.npy", random_images(FIVE_ROWS, 8))
    assert export(folder, "--convolution", "winograd") == 3
    assert "has 5 rows, a kernel of 3 and stride 2" in capsys.readouterr().err
    assert not (folder / "out").exists()


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_command_refuses_winograd_in_other_precisions(folder, capsys, precision):
    assert export(folder, "--convolution", "winograd", "--precision", precision) == 2
    assert "--convolution winograd goes with --precision fp32" in capsys.readouterr().err
    assert not (folder / "out").exists()

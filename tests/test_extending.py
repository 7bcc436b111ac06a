"""What a user adds from a file of their own: a kind of layer, a precision, a format.

Nothing of the package is touched. The process that proves an export loads this file again, by its
path, so it imports nothing but the package.
"""

import dataclasses
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import capsnet
from capsnet.config import CapsNetConfig, preset
from capsnet.errors import ResultError
from capsnet.export.formats.onnx import to_onnx
from capsnet.formats import FORMATS, Format
from capsnet.layers.base import LayerConfig, Shape
from capsnet.layers.dynamic import DynamicConfig
from capsnet.layers.primary import PrimaryConfig
from capsnet.layers.squash import Squash
from capsnet.precision import PRECISIONS, Budget, Precision
from capsnet.runtime.sessions.onnx import OrtSession

# A layer: every output capsule is a squashed sum of linear maps, without any routing.


@dataclass(frozen=True)
class SummedConfig(LayerConfig, kind="summed"):
    capsules: int
    dim: int

    def output_shape(self, shape: Shape) -> Shape:  # noqa: ARG002
        return self.capsules, self.dim

    def build(self, shape: Shape) -> "Summed":
        return Summed(*shape, self)


class Summed(nn.Module):
    def __init__(self, in_capsules: int, in_dim: int, config: SummedConfig) -> None:
        super().__init__()
        scale = in_capsules**-0.5
        self.weight = nn.Parameter(
            scale * torch.randn(in_capsules, in_dim, config.capsules, config.dim)
        )
        self.squash = Squash()

    def forward(self, capsules: Tensor) -> Tensor:
        return self.squash(torch.einsum("bid,idoh->boh", capsules, self.weight))


# A precision: weights rounded to bfloat16, arithmetic in float32.


def round_weights(network: nn.Module) -> nn.Module:
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.is_floating_point():
            tensor.copy_(tensor.to(torch.bfloat16))
    return network


ROUNDED = Precision(
    "rounded", Budget(factor=4.0, max=2.0**-5, p99=2.0**-6, rms=2.0**-7), convert=round_weights
)


# A format: an ONNX file behind a few bytes of its own.

MAGIC = b"BOXED\0\0\0"


def to_boxed(lowered, path, options):
    inner = path.with_suffix(".inner")
    try:
        metadata = to_onnx(lowered, inner, options)
        path.write_bytes(MAGIC + inner.read_bytes())
    finally:
        inner.unlink(missing_ok=True)
    return metadata


class BoxedSession(OrtSession):
    format = "boxed"

    def __init__(self, path, content, device, threads=None, tf32=False):
        super().__init__(path, content.removeprefix(MAGIC), device, threads, tf32)


BOXED = Format(
    "boxed", "capsnet.boxed", lambda head, _: head == MAGIC, export=to_boxed, open=BoxedSession
)

if __name__.startswith("capsnet_definitions"):  # in the process that proves
    PRECISIONS[ROUNDED.name] = ROUNDED
    FORMATS[BOXED.name] = BOXED


BASE = dataclasses.replace(
    preset("tiny"),
    primary=PrimaryConfig(groups=4, dim=4, activation="squash"),
    capsule_layers=(DynamicConfig(10, 8),),
    decoder=None,
)
SUMMED = dataclasses.replace(BASE, capsule_layers=(SummedConfig(6, 5), DynamicConfig(10, 8, 2)))
IMAGES = np.random.default_rng(0).random((24, 1, 28, 28), np.float32)


@pytest.fixture(scope="module")
def trained():
    """A network with the new kind of layer, trained for some steps."""
    labels = np.arange(40) % 10
    images = np.zeros((40, 1, 28, 28), np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[0, 2 * label : 2 * label + 6, 4:24] = 255
    return capsnet.train(
        images, labels, config=SUMMED, epochs=3, batch_size=8, device="cpu", seed=1
    )


def test_a_new_kind_of_layer_trains(trained):
    torch.manual_seed(1)
    fresh = trained.__class__(SUMMED)
    before, after = fresh.capsule_layers[0].weight, trained.capsule_layers[0].weight
    assert before.shape == after.shape == (144, 4, 6, 5)
    assert (before - after).abs().max() > 1e-3


def test_a_new_kind_of_layer_has_a_configuration_in_json():
    assert CapsNetConfig.from_json(SUMMED.to_json()) == SUMMED
    assert '{"capsules": 6, "dim": 5, "kind": "summed"}' in SUMMED.to_json()


@pytest.mark.slow
@dataclass(frozen=True)
class ShuffledConfig(SummedConfig, kind="shuffled"):
    def build(self, shape: Shape) -> "Shuffled":
        return Shuffled(*shape, self)


class Shuffled(Summed):
    """With a buffer of integers, one that no checkpoint holds, and an output that nothing needs."""

    def __init__(self, in_capsules: int, in_dim: int, config: SummedConfig) -> None:
        super().__init__(in_capsules, in_dim, config)
        self.register_buffer("order", torch.arange(in_capsules).flip(0))
        self.register_buffer("ones", torch.ones(in_dim), persistent=False)

    def forward(self, capsules: Tensor) -> Tensor:
        shuffled = super().forward(capsules[:, self.order] * self.ones)
        _, places = torch.topk(shuffled.detach()[:, :, 0], 2)
        return shuffled + 0 * places.sum(1).to(shuffled.dtype)[:, None, None]


def test_a_layer_may_hold_more_than_weights(tmp_path):
    config = dataclasses.replace(
        SUMMED, capsule_layers=(ShuffledConfig(6, 5), DynamicConfig(10, 8, 2))
    )
    model = capsnet.CapsNet(config)
    for file in ("own.onnx", "own.pt2"):
        certificate = capsnet.export_model(model, tmp_path / file, images=IMAGES, device="cpu")
        assert certificate.passed


class Halved(capsnet.CapsNet):
    """What computes otherwise than its configuration says."""

    decision = "output0"

    def forward(self, images):
        return tuple(output / 2 for output in super().forward(images))


def test_a_subclass_of_the_network_is_a_network_of_its_own(tmp_path):
    model = Halved(BASE).eval()
    certificate = capsnet.export_model(model, tmp_path / "o.onnx", images=IMAGES, device="cpu")
    assert certificate.passed, certificate.failures
    found = capsnet.open_session(tmp_path / "o.onnx", "cpu").run(IMAGES)["output0"]
    with torch.no_grad():
        lengths, _ = capsnet.CapsNet.forward(model, torch.from_numpy(IMAGES))
    np.testing.assert_allclose(found, lengths.numpy() / 2, atol=1e-6)


def test_what_is_no_module_is_refused(tmp_path):
    with pytest.raises(capsnet.ConfigError, match=r"must be a torch\.nn\.Module.*got int"):
        capsnet.export_model(3, tmp_path / "own.onnx", images=IMAGES)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"opset": 7}, "opset must be 17 to 23, got 7"),
        ({"batch": 0}, "batch must be a positive integer, or None, got 0"),
        ({"precision": "bf16"}, "precision must be one of"),
        ({"forms": {"routing": "em"}}, "routing must be one of projected, votes"),
        ({"format": "gguf"}, "format must be one of onnx, torchscript, pt2"),
    ],
)
def test_settings_that_do_not_exist_are_refused(tmp_path, settings, words):
    with pytest.raises(capsnet.ConfigError, match=words):
        capsnet.export_model(capsnet.CapsNet(BASE), tmp_path / "a.onnx", images=IMAGES, **settings)


def test_a_script_that_exports_when_it_is_imported_is_refused_and_ends(tmp_path):
    script = tmp_path / "script.py"
    source = Path(__file__).read_text(encoding="utf-8").split("# A precision:")[0]
    script.write_text(
        source
        + """
import numpy as np
from capsnet.config import preset
config = dataclasses.replace(preset("tiny"), capsule_layers=(SummedConfig(10, 8),), decoder=None)
capsnet.export_model(
    capsnet.CapsNet(config), "own.onnx", images=np.zeros((4, 1, 28, 28), np.float32)
)
""",
        encoding="utf-8",
    )
    child = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert child.returncode == 1
    assert "script.py exports or verifies when it is imported" in child.stderr.splitlines()[-1]


@pytest.mark.parametrize("file", ["own.onnx", "own.pt", "own.pt2"])
def test_a_new_kind_of_layer_is_exported_and_proven(trained, tmp_path, file):
    certificate = capsnet.export_model(trained, tmp_path / file, images=IMAGES, device="cpu")
    assert certificate.passed
    assert certificate.artifact.metadata.config["capsule_layers"][0]["kind"] == "summed"
    assert {check.output for check in certificate.parity.checks} == {"lengths", "capsules"}
    # What is known is lowered all the same.
    routing = "votes" if file.endswith(".onnx") else "projected"
    assert certificate.artifact.metadata.forms["routing"] == routing
    assert capsnet.verify(tmp_path / file, trained, images=IMAGES, device="cpu").passed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("weight", "stage"),
    [
        ("stem.conv.weight", "stem"),
        ("layer0.as_written.weight", "layer0"),
        # Of weights this small the exporter makes a constant of its own for the first iteration.
        ("layer1.weight", "layer1.iteration2.inputs"),
    ],
)
def test_a_fault_is_located_around_a_new_kind_of_layer(trained, tmp_path, weight, stage):
    from support.faults import first_wrong_stage  # the proving process has no folder of tests

    path = tmp_path / "own.onnx"
    forms = {"routing": "projected"}  # in which the weights keep their names
    capsnet.export_model(trained, path, images=IMAGES, forms=forms, device="cpu")
    assert first_wrong_stage(trained, IMAGES, path, weight) == stage


@pytest.mark.slow
def test_a_new_precision_is_exported_and_judged_by_its_own_budget(monkeypatch, tmp_path):
    monkeypatch.setitem(PRECISIONS, ROUNDED.name, ROUNDED)
    model = capsnet.CapsNet(BASE)
    path = tmp_path / "rounded.onnx"
    certificate = capsnet.export_model(
        model, path, precision="rounded", images=IMAGES, device="cpu"
    )
    assert certificate.artifact.metadata.precision == "rounded"
    assert certificate.parity.budget == ROUNDED.budget
    # The budget of float32 would not have let it pass.
    baseline = dataclasses.asdict(certificate.parity.baseline["capsules"])
    allowed = PRECISIONS["fp32"].budget.allows(baseline, 1.0)["max"]
    errors = [c.errors.max for c in certificate.parity.checks if c.output == "capsules"]
    assert max(errors) > allowed


@pytest.mark.slow
def test_a_new_format_is_exported_recognised_and_proven(monkeypatch, tmp_path):
    monkeypatch.setitem(FORMATS, BOXED.name, BOXED)
    model = capsnet.CapsNet(BASE)
    path = tmp_path / "model.boxed"
    certificate = capsnet.export_model(model, path, images=IMAGES, device="cpu")
    assert certificate.artifact.format == "boxed"
    session = capsnet.open_session(path, "cpu")
    assert session.format == "boxed"
    assert session.run(IMAGES)["lengths"].shape == (24, 10)


@pytest.mark.slow
def test_a_new_format_that_computes_wrong_numbers_is_refused(monkeypatch, tmp_path):
    def to_wrong(lowered, path, options):
        with torch.no_grad():
            lowered.layers["layer0"].get_buffer("weight").mul_(1.01)
        return to_boxed(lowered, path, options)

    monkeypatch.setitem(FORMATS, BOXED.name, dataclasses.replace(BOXED, export=to_wrong))
    path = tmp_path / "model.boxed"
    with pytest.raises(ResultError, match="does not compute the same numbers"):
        capsnet.export_model(capsnet.CapsNet(BASE), path, images=IMAGES, device="cpu")
    assert list(tmp_path.iterdir()) == []

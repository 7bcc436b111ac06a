"""Planted faults: each is caught with the words for it; the unbroken file passes the same way."""

import json
import zipfile

import numpy as np
import pytest
import torch
from support.artifacts import edited, parsed, with_weight
from support.hostile import torch_archive
from support.networks import SMALL, altered, lively_model, random_images, with_layers

from capsnet.checkpoint import save_checkpoint
from capsnet.errors import CapsNetError
from capsnet.export.formats.onnx import to_onnx
from capsnet.export.formats.pt2 import to_exported_program
from capsnet.export.formats.torchscript import to_torchscript
from capsnet.export.lower import LoweredCapsNet, lower
from capsnet.export.options import ExportOptions
from capsnet.networks import NetworkSource
from capsnet.runtime.proof.proof import prove
from capsnet.runtime.proof.request import Request

EXPORTERS = {"torchscript": to_torchscript, "pt2": to_exported_program}


def weight(lowered, name):
    """A weight of a lowered network, to be changed in place."""
    return lowered.layers.state_dict()[name]


def scaled(name, factor):
    def plant(lowered):
        weight(lowered, f"{name}.conv.weight").mul_(factor)

    return plant


def one_weight(lowered):
    weight(lowered, "layer0.weight")[0, 0, 0] += 0.05


def one_bias(lowered):
    weight(lowered, "primary_capsules.conv.bias")[0] += 0.01


def not_a_number(lowered):
    weight(lowered, "stem.conv.weight")[0, 0, 0, 0] = float("nan")


def infinite(lowered):
    weight(lowered, "layer0.weight")[0, 0, 0] = float("inf")


def reordered_classes(lowered):
    routing = weight(lowered, "layer0.weight")
    routing.copy_(routing.flip(0))


def reordered_capsules(lowered):
    routing = weight(lowered, "layer0.weight")
    routing.copy_(routing.roll(1, dims=1))


def mirrored_kernel(lowered):
    kernel = weight(lowered, "stem.conv.weight")
    kernel.copy_(kernel.flip(-1))


def half_precision_weights(lowered):
    kernel = weight(lowered, "primary_capsules.conv.weight")
    kernel.copy_(kernel.half().float())


def forgotten_decoder_weight(lowered):
    lowered.decoder[1].weight[0].zero_()


class Wrapped(LoweredCapsNet):
    """A lowered network whose outputs are tampered with."""

    def forward(self, *inputs):
        return self.tamper(*super().forward(*inputs))


def outputs(tamper):
    def plant(lowered):
        lowered.__class__ = Wrapped
        lowered.tamper = tamper

    return plant


ABOVE = "is above the budget"
FAULTS = {
    "a stem scaled by 0.1 %": (scaled("stem", 1.001), ABOVE),
    "a primary convolution scaled by 0.1 %": (scaled("primary_capsules", 1.001), ABOVE),
    "one capsule weight": (one_weight, ABOVE),
    "one bias": (one_bias, ABOVE),
    "a NaN weight": (not_a_number, "lengths holds NaN or infinity"),
    "an infinite weight": (infinite, "holds NaN or infinity"),
    "classes in another order": (reordered_classes, ABOVE),
    "capsules in another order": (reordered_capsules, ABOVE),
    "a mirrored kernel": (mirrored_kernel, ABOVE),
    "weights rounded to float16": (half_precision_weights, ABOVE),
    "a decoder weight": (forgotten_decoder_weight, "reconstruction: max error"),
    "lengths that are constant": (
        outputs(lambda lengths, capsules, image: (lengths * 0 + 0.5, capsules, image)),
        "lengths: max error",
    ),
    "squared lengths": (
        outputs(lambda lengths, capsules, image: (lengths**2, capsules, image)),
        "lengths: max error",
    ),
    "the results of another image": (
        outputs(lambda *values: tuple(v.roll(1, 0) for v in values)),
        ABOVE,
    ),
    "swapped outputs": (
        outputs(lambda lengths, capsules, image: (capsules, lengths, image)),
        "the metadata contradicts the graph: its outputs",
    ),
    "float64 outputs": (
        outputs(lambda *values: tuple(v.double() for v in values)),
        "the metadata contradicts the graph: its outputs",
    ),
    "a missing output": (
        outputs(lambda lengths, capsules, _: (lengths, capsules)),
        "the metadata contradicts the graph: its outputs",
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    save_checkpoint(lively_model(SMALL), folder / "model.safetensors")
    np.save(folder / "images.npy", random_images(SMALL, 20))
    return folder


def verdict(folder, artifact):
    """The verdict, and everything that was said."""
    request = Request(
        NetworkSource(folder / "model.safetensors"), folder / "images.npy", device="cpu"
    )
    try:
        certificate = prove(artifact, request).certificate
    except CapsNetError as error:
        return "fail", str(error)
    return certificate.verdict, "\n".join(certificate.failures)


def export(kind, path, plant=lambda _: None):
    lowered = lower(lively_model(SMALL), reconstruction=True)
    with torch.no_grad():
        plant(lowered)
        EXPORTERS[kind](lowered, path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("kind", EXPORTERS)
def test_the_unbroken_file_passes(kind, folder, tmp_path):
    assert verdict(folder, export(kind, tmp_path / "model")) == ("pass", "")


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", EXPORTERS)
def test_a_planted_fault_is_caught_with_the_words_for_it(kind, fault, folder, tmp_path):
    plant, words = FAULTS[fault]
    found, said = verdict(folder, export(kind, tmp_path / "model", plant))
    assert found == "fail"
    assert words in said


@pytest.mark.slow
@pytest.mark.parametrize("kind", EXPORTERS)
def test_an_iteration_fewer_than_the_metadata_says_is_caught(kind, folder, tmp_path):
    fewer, right = tmp_path / "fewer", export(kind, tmp_path / "right")
    model = lively_model(SMALL)
    shorter = type(model)(with_layers(SMALL, (5, 6, 2)))
    shorter.load_state_dict(model.state_dict())
    EXPORTERS[kind](lower(shorter, reconstruction=True), fewer)
    with zipfile.ZipFile(right) as archive:
        (name,) = [name for name in archive.namelist() if "/extra/" in name]
        claimed = archive.read(name)
    lying = tmp_path / "lying"
    with zipfile.ZipFile(fewer) as archive:
        records = [
            (name, claimed if "/extra/" in name else archive.read(name))
            for name in archive.namelist()
        ]
    lying.write_bytes(torch_archive(records))
    assert [claim["least"] for claim in json.loads(claimed)["claims"]] == [2]
    found, said = verdict(folder, lying)
    assert found == "fail"
    assert "takes 2 of Exp/Softmax, the graph has 1" in said


@pytest.mark.slow
@pytest.mark.parametrize("kind", EXPORTERS)
def test_a_baked_batch_is_caught(kind, folder, tmp_path):
    baked, right = tmp_path / "baked", export(kind, tmp_path / "right")
    lowered = lower(lively_model(SMALL), reconstruction=True)
    lowered.__class__ = Wrapped
    lowered.tamper = lambda *values: tuple(torch.cat([v[:1], v[:1]]) for v in values)
    EXPORTERS[kind](lowered, baked)
    assert verdict(folder, right)[0] == "pass"
    found, said = verdict(folder, baked)
    assert found == "fail"
    assert "contradicts the graph" in said


# int8, where classes decide


@pytest.fixture(scope="module")
def quantised(tmp_path_factory):
    """An int8 file, and 500 labelled images that its network classifies without doubt."""
    folder = tmp_path_factory.mktemp("int8")
    model = lively_model(altered(SMALL, stem_channels=16, primary_groups=8))
    save_checkpoint(model, folder / "model.safetensors")
    images = random_images(model.config, 2000)
    with torch.no_grad():
        lengths = model(torch.from_numpy(images))[0].sort(dim=1)
    sure = (lengths.values[:, -1] - lengths.values[:, -2]).argsort(descending=True)[:500].numpy()
    np.save(folder / "images.npy", images[sure])
    np.save(folder / "labels.npy", lengths.indices[sure, -1].numpy())
    options = ExportOptions(calibration=random_images(model.config, 64, seed=1))
    to_onnx(lower(model, precision="int8"), folder / "model.onnx", options)
    return folder


def judged_as_int8(quantised, change=None):
    content = (quantised / "model.onnx").read_bytes()
    if change is not None:
        tensors = parsed(content).graph.initializer
        [name] = [t.name for t in tensors if len(t.dims) == 4 and t.data_type == 3]  # INT8
        content = edited(content, with_weight(name, change))
    (quantised / "changed.onnx").write_bytes(content)
    request = Request(
        NetworkSource(quantised / "model.safetensors"),
        quantised / "images.npy",
        device="cpu",
        labels=quantised / "labels.npy",
    )
    return prove(quantised / "changed.onnx", request).certificate


@pytest.mark.slow
def test_int8_fault_that_changes_nothing_for_a_person_passes(quantised):
    sound = judged_as_int8(quantised)
    assert sound.passed, sound.failures

    def one_step(weights):
        weights[0, 0, 0, 0] += 1

    changed = judged_as_int8(quantised, one_step)
    assert changed.passed, changed.failures
    assert changed.parity.checks != sound.parity.checks
    assert changed.parity.not_judged == (
        "batch sizes 1, 2, 3, 7 ran 256 of 500 images, spread evenly",
    )


@pytest.mark.slow
def test_int8_fault_that_loses_accuracy_is_caught(quantised):
    def forgotten_channel(weights):
        weights[0] = 0

    certificate = judged_as_int8(quantised, forgotten_channel)
    assert not certificate.passed
    assert any("accuracy falls from 100.00%" in f for f in certificate.failures)
    assert any("images change their class" in f for f in certificate.failures)

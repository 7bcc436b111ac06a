"""Every kind of network goes through the same door: lowered exactly, exported, proven, located."""

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from support.family import FAMILY, family_member
from support.faults import first_wrong_stage
from support.networks import random_images

import capsnet
from capsnet.checkpoint import save_checkpoint
from capsnet.config import CapsNetConfig
from capsnet.export.lower import lower
from capsnet.jobs import ExportSettings, export_artifacts
from capsnet.networks import NetworkSource
from capsnet.runtime.proof.proof import prove
from capsnet.runtime.proof.request import Request
from capsnet.stages import record_stages


@pytest.mark.parametrize("name", FAMILY)
def test_lowered_network_equals_the_readable_one_at_every_stage(name):
    model = family_member(FAMILY[name]).double()
    images = torch.from_numpy(random_images(FAMILY[name], 5)).double()
    lowered = lower(model, reconstruction=model.decoder is not None)
    with torch.no_grad():
        expected, found = record_stages(model, images), record_stages(lowered, images)
    assert found.keys() == expected.keys()
    for stage, values in found.items():
        assert (lowered.to_readable(stage, values) - expected[stage]).abs().max() < 1e-12, stage
    assert expected["lengths"].std() > 5e-3  # or a wrong routing could not be seen


@pytest.mark.parametrize("name", FAMILY)
def test_network_as_it_is_written_gives_the_same_outputs(name):
    model = family_member(FAMILY[name])
    images = torch.from_numpy(random_images(FAMILY[name], 5))
    with torch.no_grad():
        expected = model.outputs_by_name(images)
        found = lower(model, as_written=True).outputs_by_name(images)
    for output, values in found.items():
        torch.testing.assert_close(values, expected[output])


@pytest.mark.parametrize("name", FAMILY)
def test_configuration_comes_back_from_json(name):
    assert CapsNetConfig.from_json(FAMILY[name].to_json()) == FAMILY[name]


@pytest.mark.parametrize("name", FAMILY)
def test_a_step_of_training_reaches_every_weight(name):
    from capsnet.training.step import training_step

    model = family_member(FAMILY[name]).train()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    images = torch.from_numpy(random_images(FAMILY[name], 6))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loss, _ = training_step(model, optimizer, images, torch.arange(6) % model.config.classes)
    assert loss.isfinite()
    for parameter, value in model.named_parameters():
        assert value.isfinite().all()
        assert not torch.equal(value, before[parameter]), parameter


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suffix", "precision"),
    [("onnx", "fp32"), ("onnx", "fp16"), ("pt", "fp32"), ("pt2", "fp32")],
)
@pytest.mark.parametrize("name", FAMILY)
def test_exports_are_proven(name, suffix, precision, tmp_path):
    model, images = family_member(FAMILY[name]), random_images(FAMILY[name], 40)
    certificate = capsnet.export_model(
        model,
        tmp_path / f"model.{suffix}",
        images=images,
        precision=precision,
        reconstruction=model.decoder is not None,
        device="cpu",
    )
    assert certificate.passed


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILY)
def test_int8_is_within_its_budget(name, tmp_path):
    save_checkpoint(family_member(FAMILY[name]), tmp_path / "model.safetensors")
    np.save(tmp_path / "images.npy", random_images(FAMILY[name], 64))
    network = NetworkSource(tmp_path / "model.safetensors")
    request = Request(network, tmp_path / "images.npy", device="cpu")
    settings, path = ExportSettings("int8"), tmp_path / "model.onnx"
    others = random_images(FAMILY[name], 64, seed=7)
    export_artifacts({"onnx": path}, request, settings, proven=False, calibration=others)
    certificate = prove(path, request).certificate
    assert certificate.passed, certificate.failures
    assert "DequantizeLinear" in {node.op_type for node in onnx.load(path).graph.node}


@pytest.mark.slow
def test_bias_and_leaky_routing_are_proven_in_the_votes_form(tmp_path):
    model, images = family_member(FAMILY["paper"]), random_images(FAMILY["paper"], 40)
    certificate = capsnet.export_model(
        model, tmp_path / "a.onnx", images=images, forms={"routing": "votes"}, device="cpu"
    )
    assert certificate.passed
    assert certificate.artifact.metadata.forms["routing"] == "votes"


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILY)
def test_reference_evaluator_agrees_with_onnxruntime(name, tmp_path):
    model, path = family_member(FAMILY[name]), tmp_path / "model.onnx"
    images = random_images(FAMILY[name], 3)
    capsnet.export_model(model, path, images=images, device="cpu")
    outputs = capsnet.open_session(path, "cpu").run(images)
    found = ReferenceEvaluator(onnx.load(path)).run(list(outputs), {"image": images})
    for values, (output, expected) in zip(found, outputs.items(), strict=True):
        np.testing.assert_allclose(values, expected, atol=2e-5, err_msg=output)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "weight", "stage"),
    [
        ("efficient", "stem.steps.1.weight", "stem"),
        ("efficient", "primary_capsules.conv.weight", "primary_capsules"),
        ("efficient", "layer0.prior", "layer0.routing.inputs"),
        # Of weights this small the exporter makes a constant of its own for the first iteration.
        ("convolutional", "layer0.inner.weight", "layer0.iteration2.inputs"),
        ("paper", "layer0.weight", "layer0.iteration2.inputs"),
        ("self-routing", "layer0.inner.as_written.weight", "layer0"),
        ("em", "layer1.as_written.weight", "layer1"),
    ],
)
def test_a_planted_fault_is_located(name, weight, stage, tmp_path):
    model, images = family_member(FAMILY[name]), random_images(FAMILY[name], 40)
    forms = {"routing": "projected"}  # in which the weights keep their names
    capsnet.export_model(model, tmp_path / "model.onnx", images=images, forms=forms, device="cpu")
    assert first_wrong_stage(model, images, tmp_path / "model.onnx", weight) == stage

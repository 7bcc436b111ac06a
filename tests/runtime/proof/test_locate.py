"""Fault location: a fault planted in a stage is found in that stage."""

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from support.artifacts import onnx_bytes, parsed
from support.networks import SMALL, altered, lively_model, random_images, with_layers
from support.proof import fill_folder, request_in

from capsnet.errors import ArtifactError
from capsnet.export.formats.onnx import to_onnx
from capsnet.export.lower import lower
from capsnet.jobs import locate_fault
from capsnet.runtime.proof.locate import locate, onnx_stages
from capsnet.runtime.proof.results import Tolerance
from capsnet.runtime.sessions import opening
from capsnet.stages import record_stages

STACK = with_layers(altered(SMALL, primary_activation="squash"), (6, 5, 2), (5, 6, 3))
IMAGES = random_images(SMALL, 4)
LOWERED = lower(lively_model(STACK), reconstruction=True)
STAGES = (
    "stem",
    "primary_capsules",
    *(f"layer0.iteration{n}.{part}" for n in (1, 2) for part in ("inputs", "capsules")),
    *(f"layer1.iteration{n}.{part}" for n in (1, 2, 3) for part in ("inputs", "capsules")),
    "lengths",
    "reconstruction",
)


def first_wrong(stages):
    return next((stage.name for stage in stages if not stage.passed), None)


def planted(stage):
    """The ONNX artifact with the tensor of one stage multiplied by 1.001."""
    model = parsed(onnx_bytes(STACK, reconstruction=True))
    graph = model.graph
    (producer,) = [node for node in graph.node if stage in node.output]
    producer.output[list(producer.output).index(stage)] = "before_the_fault"
    graph.initializer.append(numpy_helper.from_array(np.array(1.001, np.float32), "fault"))
    fault = onnx.helper.make_node("Mul", ["before_the_fault", "fault"], [stage], name="fault")
    graph.node.insert(list(graph.node).index(producer) + 1, fault)
    return model.SerializeToString()


def stages_of(path, lowered):
    """The stages in an ONNX file of a lowered network, in the readable layout."""
    found = onnx_stages(path.read_bytes(), IMAGES)
    return {n: lowered.to_readable(n, torch.from_numpy(a)).numpy() for n, a in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize("routing", ["projected", "votes"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_stages_of_an_unbroken_artifact_are_right(routing, precision, tmp_path):
    path = tmp_path / "model.onnx"
    lowered = lower(
        lively_model(STACK), reconstruction=True, precision=precision, forms={"routing": routing}
    )
    to_onnx(lowered, path)
    stages = locate(lively_model(STACK), stages_of(path, lowered), IMAGES, precision)
    assert first_wrong(stages) is None
    assert {stage.name for stage in stages} >= set(STAGES)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_fault_in_an_onnx_graph_is_found_in_its_stage(stage, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(planted(stage))
    stages = locate(lively_model(STACK), stages_of(path, LOWERED), IMAGES, "fp32")
    assert first_wrong(stages) == stage


@pytest.mark.parametrize("stage", ["stem", "primary_capsules", "layer0", "layer1", "decoder"])
def test_a_fault_in_a_lowered_module_is_found_in_its_stage(stage):
    lowered = lower(lively_model(STACK), reconstruction=True)
    weights = {
        "stem": "layers.stem.conv.weight",
        "primary_capsules": "layers.primary_capsules.conv.weight",
        "decoder": "decoder.1.weight",
    }
    with torch.no_grad():
        lowered.state_dict()[weights.get(stage, f"layers.{stage}.weight")].mul_(1.01)
        found = record_stages(lowered, torch.from_numpy(IMAGES))
    expected = {
        "layer0": "layer0.iteration1.inputs",
        "layer1": "layer1.iteration1.inputs",
        "decoder": "reconstruction",
    }.get(stage, stage)
    arrays = {name: lowered.to_readable(name, tensor).numpy() for name, tensor in found.items()}
    assert first_wrong(locate(lively_model(STACK), arrays, IMAGES, "fp32")) == expected


@pytest.mark.slow
def test_an_iteration_that_is_missing_is_named(tmp_path):
    shorter = with_layers(STACK, (6, 5, 2), (5, 6, 2))
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_bytes(shorter, reconstruction=True))
    stages = locate(lively_model(STACK), stages_of(path, LOWERED), IMAGES, "fp32")
    wrong = next(stage for stage in stages if not stage.passed)
    assert wrong.error is None or wrong.name.startswith("layer1")


def test_the_stages_of_the_readable_model_end_in_its_outputs():
    model = lively_model(STACK).double()
    images = torch.from_numpy(IMAGES).double()
    stages = record_stages(model, images)
    lengths, capsules = model(images)
    assert list(stages)[-3:] == ["lengths", "capsules", "reconstruction"]
    torch.testing.assert_close(stages["layer1.iteration3.capsules"], capsules, rtol=0, atol=1e-12)
    torch.testing.assert_close(stages["lengths"], lengths, rtol=0, atol=1e-12)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_tolerance_of_the_user_decides_in_place_of_the_budget(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_bytes(STACK, reconstruction=True))
    found = stages_of(path, LOWERED)
    for tolerance, wrong in ((Tolerance(1e-12), "stem"), (Tolerance(0.0, 1e-3), None)):
        stages = locate(lively_model(STACK), found, IMAGES, "fp32", tolerance)
        assert first_wrong(stages) == wrong
        assert stages[0].allowed >= tolerance.atol


def test_what_goes_wrong_in_the_stages_is_an_error_of_the_artifact():
    content = onnx_bytes(STACK, reconstruction=True)
    with pytest.raises(ArtifactError, match="failed on the stages"):
        onnx_stages(content, IMAGES[:, :, :-1])


def test_the_bytes_that_were_checked_are_those_that_are_located(tmp_path, monkeypatch):
    folder = fill_folder(tmp_path)
    request, path = request_in(folder), folder / "model.onnx"
    assert first_wrong(locate_fault(path, request)) is None
    real = opening.open_session

    def swapped(*arguments):
        session = real(*arguments)
        path.write_bytes(path.read_bytes() + b"\0")  # between the check and the use
        return session

    monkeypatch.setattr(opening, "open_session", swapped)
    with pytest.raises(ArtifactError, match="was changed while it was read"):
        locate_fault(path, request)

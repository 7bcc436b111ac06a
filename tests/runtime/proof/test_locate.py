"""Fault location: a fault planted in a stage is found in that stage."""

import dataclasses
import json

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from support.artifacts import metadata_of, onnx_bytes, parsed
from support.networks import SMALL, altered, lively_model, random_images, with_layers

from capsnet.artifact import ArtifactMetadata
from capsnet.export.lower import lower
from capsnet.runtime.proof.locate import locate, onnx_stages, readable_stages

STACK = with_layers(altered(SMALL, primary_activation="squash"), (6, 5, 2), (5, 6, 3))
IMAGES = random_images(SMALL, 4)
METADATA = ArtifactMetadata.from_json(
    json.dumps(metadata_of(onnx_bytes(STACK, reconstruction=True)))
)
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


@pytest.mark.parametrize("routing", ["projected", "votes"])
def test_the_stages_of_an_unbroken_artifact_are_right(routing, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_bytes(STACK, reconstruction=True, routing=routing))
    stages = locate(
        lively_model(STACK),
        onnx_stages(path, IMAGES),
        IMAGES,
        dataclasses.replace(METADATA, routing=routing),
    )
    assert first_wrong(stages) is None
    assert {stage.name for stage in stages} >= set(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_a_fault_in_an_onnx_graph_is_found_in_its_stage(stage, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(planted(stage))
    stages = locate(lively_model(STACK), onnx_stages(path, IMAGES), IMAGES, METADATA)
    assert first_wrong(stages) == stage


@pytest.mark.parametrize("stage", ["stem", "primary_capsules", "layer0", "layer1", "decoder"])
def test_a_fault_in_a_lowered_module_is_found_in_its_stage(stage):
    lowered = lower(lively_model(STACK), reconstruction=True)
    names = {"primary_capsules": "primary"}
    with torch.no_grad():
        if stage.startswith("layer"):
            lowered.get_buffer(stage).mul_(1.001)
        else:
            part = lowered.get_submodule(names.get(stage, stage))
            next(part.parameters()).mul_(1.01)
        found = lowered.stages(torch.from_numpy(IMAGES))
    expected = {
        "layer0": "layer0.iteration1.inputs",
        "layer1": "layer1.iteration1.inputs",
        "decoder": "reconstruction",
    }.get(stage, stage)
    arrays = {name: tensor.numpy() for name, tensor in found.items()}
    assert first_wrong(locate(lively_model(STACK), arrays, IMAGES, METADATA)) == expected


def test_an_iteration_that_is_missing_is_named(tmp_path):
    shorter = with_layers(STACK, (6, 5, 2), (5, 6, 2))
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_bytes(shorter, reconstruction=True))
    stages = locate(lively_model(STACK), onnx_stages(path, IMAGES), IMAGES, METADATA)
    wrong = next(stage for stage in stages if not stage.passed)
    assert wrong.error is None or wrong.name.startswith("layer1")


def test_the_stages_of_the_readable_model_end_in_its_outputs():
    model = lively_model(STACK).double()
    stages = readable_stages(model, IMAGES, torch.float64)
    lengths, capsules = model(torch.from_numpy(IMAGES).double())
    last = stages["layer1.iteration3.capsules"]
    assert np.abs(last - capsules.detach().numpy()).max() < 1e-12
    assert np.abs(stages["lengths"] - lengths.detach().numpy()).max() < 1e-12

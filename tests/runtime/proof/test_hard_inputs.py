"""The suite of hard inputs: every part of it can fail an artifact."""

import dataclasses

import numpy as np
import pytest
import torch
from support.artifacts import metadata_for
from support.networks import SMALL, lively_model, random_images

from capsnet.own import OwnNetwork
from capsnet.runtime.proof.hard_inputs import HardInputs, near_ties
from capsnet.runtime.proof.reference import EagerModel

NAMES = ("lengths", "capsules")
SUITE = (
    "all zeros",
    "all ones",
    "one bright pixel",
    "uniform noise",
    "near-ties between two classes",
    "values from -1 to 2",
    "batch of one",
    "empty batch",
    "batch of 1000",
)
METADATA = metadata_for(SMALL, NAMES)


@pytest.fixture(scope="module")
def references():
    model = lively_model(SMALL)
    return EagerModel(model, torch.float64), EagerModel(model, torch.float32)


class Sound:
    """A artifact that is right; subclasses spoil the outputs of some images."""

    metadata = METADATA

    def __init__(self, model):
        self.model = model

    def run(self, images, **_):
        if len(images) == 0:
            outputs = {
                spec.name: np.empty((0, *spec.shape[1:]), np.float32)
                for spec in self.metadata.outputs
            }
        else:
            outputs = {k: v.copy() for k, v in self.model.run(images, NAMES).items()}
        return self.spoil(images, outputs)

    def spoil(self, images, outputs):  # noqa: ARG002
        return outputs


def spoiling(chooses, change):
    class Spoiling(Sound):
        def spoil(self, images, outputs):
            if chooses(images):
                change(outputs)
            return outputs

    return Spoiling


def nan(outputs):
    outputs["lengths"][...] = np.nan


def off(outputs):
    outputs["capsules"] += np.float32(1e-3)


def failed(references, artifact):
    suite = HardInputs(*references, random_images(SMALL, 12), "lengths")
    results = suite.check(artifact(references[1]))
    assert tuple(result.name for result in results) == SUITE
    return [result.name for result in results if result.failures]


def test_a_sound_artifact_passes_every_input(references):
    assert failed(references, Sound) == []


@pytest.mark.parametrize(
    ("name", "chooses"),
    [
        ("all zeros", lambda x: len(x) and not x.any()),
        ("all ones", lambda x: len(x) and (x == 1).all()),
        ("one bright pixel", lambda x: np.count_nonzero(x) == 1),
        ("uniform noise", lambda x: len(x) == 8 and x.min() >= 0),
        ("values from -1 to 2", lambda x: len(x) and x.min() < 0),
        ("batch of one", lambda x: len(x) == 1 and np.count_nonzero(x) > 1 and x.std() > 0),
        ("batch of 1000", lambda x: len(x) == 1000),
    ],
)
@pytest.mark.parametrize("change", [nan, off])
def test_a_artifact_that_is_wrong_on_one_input_fails_there(references, name, chooses, change):
    assert name in failed(references, spoiling(chooses, change))


def test_a_wrong_shape_of_the_empty_batch_fails(references):
    def change(outputs):
        outputs["lengths"] = np.empty((0, 3), np.float32)

    assert failed(references, spoiling(lambda x: len(x) == 0, change)) == ["empty batch"]


def test_near_ties_lie_between_two_classes(references):
    golden = references[0]
    ties = near_ties(golden, random_images(SMALL, 12), "lengths")
    assert 1 <= len(ties) <= 2
    lengths = np.sort(golden.run(ties, ("lengths",))["lengths"], axis=1)
    assert (lengths[:, -1] - lengths[:, -2]).max() < 1e-5


def test_images_of_one_class_have_no_near_ties(references):
    images = random_images(SMALL, 1).repeat(3, axis=0)
    assert near_ties(references[0], images, "lengths").shape == (0, *SMALL.image_shape)


def test_a_baseline_that_happens_to_be_exact_fails_no_sound_artifact(references):
    golden, baseline = references

    class Lucky:
        """Exact in the first order of summation, and as usual in the others."""

        def run(self, images, outputs=None, order=0):
            return (baseline if order else golden).run(images, outputs, order)

    suite = HardInputs(golden, Lucky(), random_images(SMALL, 12), "lengths")
    assert [result.name for result in suite.check(Sound(baseline)) if result.failures] == []


def test_a_baseline_that_is_far_off_on_an_input_proves_nothing_there(references):
    golden, baseline = references

    class Broken:
        """Leaves the range of its floats on values outside 0..1."""

        def run(self, images, outputs=None, order=0):
            found = baseline.run(images, outputs, order)
            outside = (images < 0).any(axis=(1, 2, 3))
            return {
                name: np.where(outside.reshape(-1, *[1] * (v.ndim - 1)), 1e30, v)
                for name, v in found.items()
            }

    suite = HardInputs(golden, Broken(), random_images(SMALL, 12), "lengths")
    results = {result.name: result for result in suite.check(Sound(baseline))}
    assert "the float32 model itself is far off" in results["values from -1 to 2"].failures[0]
    assert not results["uniform noise"].failures


def test_orders_are_one_function_that_rounds_differently(references):
    images = random_images(SMALL, 4)
    for model, digits in zip(references, (1e-14, 1e-5), strict=True):
        runs = [model.run(images, NAMES, order) for order in range(4)]
        for name in NAMES:
            for other in runs[1:]:
                np.testing.assert_allclose(other[name], runs[0][name], atol=digits)
    assert any(not np.array_equal(other["capsules"], runs[0]["capsules"]) for other in runs[1:])


def test_suite_of_a_network_that_classifies_nothing_has_no_ties(references):
    artifact = Sound(references[1])
    artifact.metadata = dataclasses.replace(METADATA, decision=None)
    suite = HardInputs(*references, random_images(SMALL, 12), None)
    results = suite.check(artifact)
    assert [r.name for r in results] == [n for n in SUITE if n != "near-ties between two classes"]
    assert all(result.passed for result in results)


class Plain(torch.nn.Module):
    """A user's own network, without a stem whose channels could be permuted."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 5, 7)
        self.last = torch.nn.Linear(5 * 6 * 6, 3)

    def forward(self, image):
        return self.last(self.conv(image).flatten(1))


def test_network_without_a_stem_sums_in_another_order_as_well():
    module, images = Plain().eval(), random_images(SMALL, 20)
    network = OwnNetwork(module, {"image": torch.from_numpy(images)})
    golden = EagerModel(network, torch.float64)
    first = golden.run(images)["output"]
    assert golden.run(images, order=5)["output"].base is first.base
    model = EagerModel(network, torch.float32)
    runs = [model.run(images, order=order)["output"] for order in range(3)]
    assert not np.array_equal(runs[0], runs[1])
    for found in runs:
        np.testing.assert_allclose(found, first, atol=2e-6)


def test_reference_leaves_its_model_as_it_is():
    model = lively_model(SMALL)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    EagerModel(model, torch.float64).run(random_images(SMALL, 2), order=1)
    for name, value in model.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, before[name])

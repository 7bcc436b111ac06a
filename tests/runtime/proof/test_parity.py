"""Parity passes a sound artifact and catches every kind of broken one; its numbers are right."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from support.artifacts import (
    edited,
    metadata_for,
    onnx_bytes,
    parsed,
    with_dynamic_interface,
    with_reordered_classes,
    with_weight,
)
from support.networks import SMALL, TINY, lively_model, network, random_images, with_layers

from capsnet.artifact import OUTPUT_NAMES, TensorSpec
from capsnet.documents import from_values, to_values
from capsnet.errors import ArtifactError
from capsnet.layers.dynamic import DynamicConfig
from capsnet.precision import PRECISIONS
from capsnet.runtime.proof.collect import BATCH_SIZES, SAMPLE, Collected, Run, collect
from capsnet.runtime.proof.judge import judge
from capsnet.runtime.proof.parity import compare
from capsnet.runtime.proof.reference import EagerModel
from capsnet.runtime.proof.results import Accuracy, Check, Errors, ParityResult
from capsnet.runtime.sessions import onnx as ort
from capsnet.runtime.sessions.opening import open_session

FP32 = PRECISIONS["fp32"].budget


# Real artifacts


def opened(folder, content):
    path = folder / "model.onnx"
    path.write_bytes(content)
    return open_session(path, "cpu")


def compared(session, config, images):
    model = lively_model(config)
    golden, baseline = EagerModel(model, torch.float64), EagerModel(model, torch.float32)
    return compare(golden, baseline, session, images)


def test_sound_artifact_passes_at_every_batch_size(tmp_path):
    session = opened(tmp_path, onnx_bytes(TINY, reconstruction=True))
    result = compared(session, TINY, random_images(TINY, 70))
    assert result.failures == ()
    assert result.passed
    assert result.images == 70
    assert result.agreement == 1
    assert result.flips == {}
    assert result.accuracy is None
    assert [(check.batch_size, check.output) for check in result.checks] == [
        (size, name) for size in (1, 2, 3, 7, 64, 70) for name in OUTPUT_NAMES
    ]
    assert list(result.baseline) == list(OUTPUT_NAMES)
    for check in result.checks:
        assert check.passed
        assert 0 < check.errors.rms <= check.errors.p99 <= check.errors.max < 3e-6
        assert check.errors.cosine > 0.999999


@pytest.mark.parametrize(
    ("count", "sizes"), [(1, (1,)), (2, (1, 2)), (7, (1, 2, 3, 7)), (9, (1, 2, 3, 7, 9))]
)
def test_batch_sizes_end_with_the_whole_set(tmp_path, count, sizes):
    result = compared(opened(tmp_path, onnx_bytes()), SMALL, random_images(SMALL, count))
    assert result.passed
    assert [check.batch_size for check in result.checks[::2]] == list(sizes)


def test_artifact_of_a_fixed_batch_size_is_compared_at_that_size(tmp_path):
    result = compared(opened(tmp_path, onnx_bytes(batch=3)), SMALL, random_images(SMALL, 7))
    assert result.passed
    assert {check.batch_size for check in result.checks} == {3}


def one_percent_off(weights):
    flat = weights.reshape(-1)
    flat[np.abs(flat).argmax()] *= 1.01


def nan(weights):
    weights.reshape(-1)[0] = np.nan


@pytest.mark.parametrize(
    "weight",
    [
        "stem.conv.weight",
        "stem.conv.bias",
        "primary_capsules.conv.weight",
        "primary_capsules.conv.bias",
        "layer0.weight",
    ],
)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (one_percent_off, "is above the budget of"),
        (lambda weights: weights.fill(0), "is above the budget of"),
        (nan, "holds NaN or infinity for"),
    ],
    ids=["one percent", "zero", "NaN"],
)
def test_wrong_weight_fails_in_every_output(tmp_path, weight, change, message):
    session = opened(tmp_path, edited(onnx_bytes(), with_weight(weight, change)))
    result = compared(session, SMALL, random_images(SMALL, 9))
    assert not result.passed
    for batch_size in (1, 9):
        for name in ("lengths", "capsules"):
            where = f"batch {batch_size}: {name}"
            assert any(f.startswith(where) and message in f for f in result.failures)


def test_wrong_decoder_weight_fails_in_the_reconstruction_alone(tmp_path):
    content = onnx_bytes(TINY, reconstruction=True)
    (name,) = [t.name for t in parsed(content).graph.initializer if t.name == "decoder.3.bias"]
    session = opened(tmp_path, edited(content, with_weight(name, one_percent_off)))
    result = compared(session, TINY, random_images(TINY, 5))
    assert {check.output for check in result.checks if not check.passed} == {"reconstruction"}
    assert all("reconstruction: " in failure for failure in result.failures)
    assert len(result.failures) > 0


@pytest.mark.slow
def test_missing_routing_iteration_fails(tmp_path):
    session = opened(tmp_path, onnx_bytes(with_layers(SMALL, (5, 6, 2))))
    assert compared(session, with_layers(SMALL, (5, 6, 2)), random_images(SMALL, 9)).passed
    session.metadata = dataclasses.replace(session.metadata, config=to_values(SMALL))
    result = compared(session, SMALL, random_images(SMALL, 9))
    assert any(f.startswith("batch 1: lengths: max error") for f in result.failures)
    assert all(not check.passed for check in result.checks)


def test_reordered_classes_fail(tmp_path):
    session = opened(tmp_path, edited(onnx_bytes(), with_reordered_classes))
    result = compared(session, SMALL, random_images(SMALL, 9))
    assert result.agreement == 0
    assert set(result.flips) == set(range(9))
    assert any("lengths: max error" in failure for failure in result.failures)
    assert any("capsules: max error" in failure for failure in result.failures)


def test_baked_batch_size_fails_at_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(ort.OrtSession, "_check_interface", lambda *_: None)
    session = opened(tmp_path, edited(onnx_bytes(batch=3), with_dynamic_interface))
    result = compared(session, SMALL, random_images(SMALL, 9))
    failed = [failure.partition(": ")[0] for failure in result.failures]
    assert failed == ["batch 1", "batch 2", "batch 7", "batch 9"]
    assert all("onnxruntime failed on a batch of" in failure for failure in result.failures)
    assert {check.batch_size for check in result.checks} == {3}


# Constructed numbers: the images are their own indices, and the runs are tables

TOY = network(
    image_shape=(1, 1, 1),
    stem_channels=1,
    stem_kernel=1,
    primary_groups=1,
    primary_dim=1,
    primary_kernel=1,
    primary_stride=1,
    capsule_layers=(DynamicConfig(capsules=3, dim=2),),
    decoder_sizes=(1,),
)
COUNT = 4
EVERY = np.arange(COUNT)
GAPS = np.array([0.5, 0.25, 0.125, 0.0625])  # between the two longest capsules of each image


def numbered_images(count=COUNT):
    return np.arange(count, dtype=np.float32).reshape(count, 1, 1, 1)


def golden_table(reconstruction=False):
    """Class 1 is the longest everywhere, class 2 follows at the gap."""
    lengths = np.stack([np.full(COUNT, 0.125), np.full(COUNT, 0.75), 0.75 - GAPS], axis=1)
    capsules = lengths[:, :, None] * np.array([0.625, -0.75])
    table = {"lengths": lengths, "capsules": capsules}
    if reconstruction:
        table["reconstruction"] = np.array([0.25, 0.5, 0.625, 0.75]).reshape(COUNT, 1, 1, 1)
    return table


def shifted(table, error):
    return {name: values + error for name, values in table.items()}


def changed(table, name, index, value):
    copy = {key: values.copy() for key, values in table.items()}
    copy[name][index] = value
    return copy


class Reference:
    def __init__(self, table):
        self.table = table

    def run(self, images, outputs, order=0):  # noqa: ARG002
        chosen = images[:, 0, 0, 0].astype(int)
        return {name: self.table[name][chosen] for name in outputs}


class Fake:
    """A session; ``spoil`` changes what it gives for a batch."""

    def __init__(self, table, names=OUTPUT_NAMES[:2], spoil=lambda outputs: outputs):
        self.table, self.spoil = table, spoil
        self.metadata = metadata_for(TOY, names)

    def run(self, images, **_):
        chosen = images[:, 0, 0, 0].astype(int)
        return self.spoil({k: v[chosen].astype(np.float32) for k, v in self.table.items()})


def judge_tables(artifact, baseline=None, labels=None, golden=None):
    golden = golden_table() if golden is None else golden
    baseline = shifted(golden, 2.0**-12) if baseline is None else baseline
    if isinstance(artifact, dict):
        artifact = Fake(artifact, tuple(artifact))
    return compare(Reference(golden), Reference(baseline), artifact, numbered_images(), labels)


def test_equal_tables_pass():
    result = judge_tables(golden_table(reconstruction=True), golden=golden_table(True))
    assert result.passed
    assert result.agreement == 1
    assert {check.errors.max for check in result.checks} == {0.0}
    assert min(check.errors.cosine for check in result.checks) == pytest.approx(1)


def test_errors_are_those_computed_by_hand():
    golden = golden_table()
    artifact = changed(golden, "lengths", (1, 0), 0.125 + 2.0**-10)
    artifact["lengths"][3, 2] -= 2.0**-9
    result = judge_tables(artifact, baseline=shifted(golden, 2.0**-8))
    assert result.passed
    (errors,) = {check.errors for check in result.checks if check.output == "lengths"}
    assert errors.max == 2.0**-9
    # 12 sorted errors: the 99th percentile lies at 0.99 * 11 = 10.89 between the last two
    assert errors.p99 == pytest.approx(2.0**-10 + 0.89 * (2.0**-9 - 2.0**-10), rel=1e-12)
    assert errors.rms == pytest.approx(math.sqrt((2.0**-20 + 2.0**-18) / 12), rel=1e-12)
    square = 4 * (0.125**2 + 0.75**2) + 0.25**2 + 0.5**2 + 0.625**2 + 0.6875**2
    assert errors.relative_rms == pytest.approx(errors.rms / math.sqrt(square / 12), rel=1e-12)
    assert errors.worst_image == 3
    true, found = (0.125, 0.75, 0.6875), (0.125, 0.75, 0.6875 - 2.0**-9)
    product = sum(a * b for a, b in zip(true, found, strict=True))
    cosines = [product / math.hypot(*true) / math.hypot(*found)]
    true, found = (0.125, 0.75, 0.5), (0.125 + 2.0**-10, 0.75, 0.5)
    product = sum(a * b for a, b in zip(true, found, strict=True))
    cosines.append(product / math.hypot(*true) / math.hypot(*found))
    assert errors.cosine == pytest.approx(min(cosines), rel=1e-12)


def test_baseline_and_allowance_are_those_computed_by_hand():
    golden = golden_table()
    result = judge_tables(golden, baseline=shifted(golden, 2.0**-8))
    own = result.baseline["lengths"]
    assert (own.max, own.p99, own.rms) == (2.0**-8, 2.0**-8, 2.0**-8)
    for check in result.checks:
        largest = 0.75 if check.output == "lengths" else 0.5625
        limit = 4 * 2.0**-8 + 2.0**-23 * largest
        assert check.allowed == pytest.approx({"max": limit, "p99": limit, "rms": limit}, rel=1e-12)
    assert result.budget == FP32


@pytest.mark.parametrize(("multiple", "passed"), [(0.5, True), (3.99, True), (4.01, False)])
def test_error_may_be_four_times_that_of_the_baseline(multiple, passed):
    golden = golden_table()
    result = judge_tables(shifted(golden, multiple * 2.0**-8), baseline=shifted(golden, 2.0**-8))
    assert result.passed is passed
    assert {check.passed for check in result.checks} == {passed}
    for quantity in ("max", "p99", "rms"):
        message = f"batch 4: lengths: {quantity} error 0.0157 is above the budget of 0.0156"
        assert any(f.startswith(message) for f in result.failures) is not passed


@pytest.mark.parametrize(("error", "passed"), [(2.0**-24, True), (2.0**-22, False)])
def test_exact_baseline_leaves_room_for_rounding_and_no_more(error, passed):
    golden = golden_table()
    golden = {name: values.astype(np.float32).astype(np.float64) for name, values in golden.items()}
    assert judge_tables(shifted(golden, error), baseline=golden).passed is passed


@pytest.mark.parametrize("quantity", ["max", "p99", "rms"])
def test_each_quantity_can_fail_an_artifact_alone(quantity):
    golden = golden_table()
    unit = 2.0**-10
    if quantity == "max":  # one outlier far off, hidden from neither quantity but above only max
        golden = {k: np.tile(v, (100, *[1] * (v.ndim - 1))) for k, v in golden.items()}
        baseline = shifted(golden, unit)
        artifact = changed(golden, "lengths", (0, 0), 0.125 + 5 * unit)
    elif quantity == "p99":  # the baseline has one outlier, the artifact many smaller ones
        golden = {k: np.tile(v, (100, *[1] * (v.ndim - 1))) for k, v in golden.items()}
        baseline = changed(shifted(golden, unit / 64), "lengths", (0, 0), 0.125 + 64 * unit)
        artifact = changed(golden, "lengths", (slice(0, 40), 0), 0.125 + unit)
    else:  # everything is a little off, where the baseline is right but for a few
        golden = {k: np.tile(v, (100, *[1] * (v.ndim - 1))) for k, v in golden.items()}
        baseline = changed(golden, "lengths", (slice(0, 14), 0), 0.125 + unit)
        artifact = shifted(golden, unit)
        artifact["capsules"] = golden["capsules"]
    images = numbered_images(len(golden["lengths"]))
    result = compare(Reference(golden), Reference(baseline), Fake(artifact), images)
    assert {f.partition("lengths: ")[2].split()[0] for f in result.failures} == {quantity}


# Outputs that are not numbers, not there, or not in shape


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", OUTPUT_NAMES)
@pytest.mark.parametrize("image", [0, 3])
def test_one_value_that_is_no_number_fails(value, name, image):
    golden = golden_table(reconstruction=True)
    artifact = changed(golden, name, (image, 0), value)
    result = judge_tables(artifact, golden=golden)
    message = f"{name} holds NaN or infinity for 1 of 4 images, first image {image}"
    assert result.failures == tuple(f"batch {size}: {message}" for size in (1, 2, 3, 4))
    assert result.checks == ()
    assert result.agreement == 0


def test_value_that_is_no_number_in_one_batch_size_alone_fails():
    def spoil(outputs):
        if len(outputs["lengths"]) == 3:
            outputs["lengths"][2, 1] = np.nan
        return outputs

    result = judge_tables(Fake(golden_table(), spoil=spoil))
    assert result.failures == (
        "batch 3: lengths holds NaN or infinity for 1 of 4 images, first image 2",
    )
    assert not result.passed
    assert {check.batch_size for check in result.checks} == {1, 2, 4}


@pytest.mark.parametrize("who", ["golden", "baseline", "both", "all"])
def test_reference_that_is_no_number_never_passes(who):
    golden = golden_table()
    spoiled = changed(golden, "lengths", (2, 1), np.nan)
    result = judge_tables(
        spoiled if who == "all" else golden,
        baseline=golden if who == "golden" else spoiled,
        golden=golden if who == "baseline" else spoiled,
    )
    assert not result.passed


def test_a_baseline_that_is_far_off_is_no_measure():
    golden = golden_table()
    result = judge_tables(golden, baseline=shifted(golden, 0.25))
    assert not result.passed
    assert any("the float32 model itself is off by" in failure for failure in result.failures)


def test_infinite_baseline_excuses_nothing():
    golden = golden_table()
    baseline = changed(golden, "lengths", (2, 1), np.inf)
    with np.errstate(all="ignore"):
        result = judge_tables(shifted(golden, 0.25), baseline=baseline)
    assert any(failure.startswith("batch 4: lengths: ") for failure in result.failures)


def renamed(outputs):
    return {"scores" if name == "lengths" else name: v for name, v in outputs.items()}


def swapped(outputs):
    return {"lengths": outputs["capsules"], "capsules": outputs["lengths"]}


def of_dtype(name, dtype):
    return lambda outputs: {**outputs, name: outputs[name].astype(dtype)}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (renamed, "output lengths is missing, there are scores, capsules"),
        (lambda o: {"lengths": o["lengths"]}, "output capsules is missing, there are lengths"),
        (lambda _: {}, "output lengths is missing, there are "),
        (swapped, "lengths has shape [4, 3, 2], expected [4, 3]"),
        (of_dtype("lengths", np.float64), "lengths is float64, expected float32"),
        (of_dtype("capsules", np.float16), "capsules is float16, expected float32"),
        (of_dtype("lengths", np.int32), "lengths is int32, expected float32"),
        (
            lambda o: {**o, "capsules": o["capsules"].swapaxes(1, 2)},
            "capsules has shape [4, 2, 3], expected [4, 3, 2]",
        ),
        (
            lambda o: {**o, "lengths": o["lengths"][:, :2]},
            "lengths has shape [4, 2], expected [4, 3]",
        ),
        (
            lambda o: {**o, "lengths": o["lengths"][..., None]},
            "lengths has shape [4, 3, 1], expected [4, 3]",
        ),
    ],
    ids=[
        "renamed",
        "missing",
        "none",
        "swapped",
        "double",
        "half",
        "integer",
        "transposed",
        "fewer classes",
        "another axis",
    ],
)
def test_malformed_output_fails_at_every_batch_size(spoil, message):
    result = judge_tables(Fake(golden_table(), spoil=spoil))
    for batch_size in (1, 2, 3, 4):
        assert f"batch {batch_size}: {message}" in result.failures
    assert result.checks == ()
    assert not result.passed


def test_shape_that_the_metadata_claims_but_the_model_does_not_have_fails():
    artifact = Fake(golden_table(), spoil=lambda o: {**o, "capsules": o["capsules"][..., :1]})
    specs = artifact.metadata.outputs
    claimed = (specs[0], TensorSpec("capsules", "float32", ("batch", 3, 1)))
    artifact.metadata = dataclasses.replace(artifact.metadata, outputs=claimed)
    result = judge_tables(artifact)
    assert "batch 4: capsules has shape [4, 3, 1], expected [4, 3, 2]" in result.failures
    assert not result.passed


def test_missing_image_fails():
    result = judge_tables(
        Fake(golden_table(), spoil=lambda outputs: {k: v[:1] for k, v in outputs.items()})
    )
    assert "batch 4: lengths has shape [1, 3], expected [4, 3]" in result.failures
    assert "batch 3: lengths has shape [2, 3], expected [4, 3]" in result.failures
    assert not any(failure.startswith("batch 1: ") for failure in result.failures)


def test_batch_axis_that_is_dropped_for_one_image_fails():
    def squeeze(outputs):
        return {name: values.squeeze(0) if len(values) == 1 else values for name, values in outputs}

    fake = Fake(golden_table(), spoil=lambda outputs: squeeze(outputs.items()))
    result = judge_tables(fake)
    assert any(failure.startswith("batch 3: lengths has shape") for failure in result.failures)


def test_error_at_one_batch_size_fails_and_the_others_are_judged():
    def spoil(outputs):
        if len(outputs["lengths"]) == 2:
            raise ArtifactError("no memory")
        return outputs

    result = judge_tables(Fake(golden_table(), spoil=spoil))
    assert result.failures == ("batch 2: no memory",)
    assert {check.batch_size for check in result.checks} == {1, 3, 4}


@pytest.mark.parametrize(
    "outputs",
    [
        {"lengths": np.full((COUNT, 3), 0.5), "capsules": np.full((COUNT, 3, 2), 0.5)},
        {"lengths": np.zeros((COUNT, 3)), "capsules": np.zeros((COUNT, 3, 2))},
        {"lengths": np.ones((COUNT, 3)), "capsules": np.ones((COUNT, 3, 2))},
    ],
    ids=["one half", "zero", "one"],
)
def test_constant_outputs_fail_in_every_check(outputs):
    result = judge_tables(outputs)
    assert result.checks
    assert not any(check.passed for check in result.checks)
    assert result.agreement == 0


def test_outputs_of_another_image_fail_though_every_class_is_right():
    result = judge_tables({name: np.roll(v, 1, axis=0) for name, v in golden_table().items()})
    assert result.agreement == 1
    assert not any(check.passed for check in result.checks)


def test_zero_output_has_no_direction_in_common_with_the_golden_one():
    golden = golden_table()
    result = judge_tables({name: np.zeros_like(values) for name, values in golden.items()})
    assert {check.errors.cosine for check in result.checks} == {0.0}


# Classes


def with_flip(image, step):
    """Golden lengths of one image, the two longest moved towards each other by ``step``."""
    artifact = changed(golden_table(), "lengths", (image, 1), 0.75 - step)
    artifact["lengths"][image, 2] = 0.75 - GAPS[image] + step
    return artifact


def test_flip_is_excused_where_the_gap_is_smaller_than_the_error():
    baseline = shifted(golden_table(), 0.03125)
    result = judge_tables(with_flip(3, 0.09375), baseline=baseline)  # the gap is 0.0625
    assert result.failures == ()
    assert result.flips == {3: 0.0625}
    assert result.agreement == 0.75
    assert result.checks[0].errors.max == 0.09375


def test_flip_fails_where_the_gap_is_larger_than_the_error():
    baseline = shifted(golden_table(), 0.03125)
    result = judge_tables(with_flip(2, 0.09375), baseline=baseline)  # the gap is 0.125
    assert all(check.passed for check in result.checks)
    assert result.flips == {2: 0.125}
    assert result.failures == tuple(
        f"batch {size}: image 2 changes its class, although the golden gap between "
        "its two largest lengths, 0.125, is not below the error, 0.0938"
        for size in (1, 2, 3, 4)
    )


def test_move_towards_each_other_without_a_flip_passes():
    result = judge_tables(with_flip(2, 0.03125), baseline=shifted(golden_table(), 0.03125))
    assert result.passed
    assert result.flips == {}


def test_flip_at_one_batch_size_alone_fails():
    def spoil(outputs):
        if len(outputs["lengths"]) == 3:
            outputs["lengths"][2] = with_flip(2, 0.09375)["lengths"][2]
        return outputs

    result = judge_tables(Fake(golden_table(), spoil=spoil), shifted(golden_table(), 0.03125))
    assert result.flips == {2: 0.125}
    assert [failure[:38] for failure in result.failures] == [
        "batch 3: image 2 changes its class, al"
    ]


def test_flipped_image_is_left_out_of_the_reconstruction():
    golden = golden_table(reconstruction=True)
    artifact = {**with_flip(3, 0.09375), "reconstruction": golden["reconstruction"].copy()}
    artifact["reconstruction"][3] = 0.0
    baseline = shifted(golden, 0.03125)
    assert judge_tables(artifact, baseline, golden=golden).passed
    artifact["reconstruction"][2] = 0.0
    result = judge_tables(artifact, baseline, golden=golden)
    assert result.failures
    assert all("reconstruction: " in failure for failure in result.failures)


def test_accuracies_are_counted_against_the_labels():
    labels = np.array([1, 1, 2, 2])
    artifact = with_flip(3, 0.09375)
    result = judge_tables(artifact, shifted(golden_table(), 0.03125), labels)
    assert result.accuracy == Accuracy(golden=0.5, baseline=0.5, candidate=0.75)


def test_artifact_without_a_valid_output_has_no_accuracy():
    labels = np.array([1, 1, 1, 1])
    result = judge_tables(Fake(golden_table(), spoil=renamed), labels=labels)
    assert result.accuracy is None


# Networks that classify nothing


def without_decision(table, count=COUNT):
    """A session of a network whose outputs are the table's, none of which decides a class."""
    specs = [TensorSpec(n, "float32", ("batch", *v.shape[1:])) for n, v in table.items()]
    artifact = Fake(table)
    artifact.metadata = dataclasses.replace(artifact.metadata, outputs=tuple(specs), decision=None)
    return artifact


SCALAR = {"height": np.linspace(-1, 2, COUNT)}
DENSE = {
    "flow": np.linspace(-1, 1, COUNT * 24).reshape(COUNT, 2, 3, 4),
    "lengths": np.linspace(0, 1, COUNT * 3).reshape(COUNT, 3)[:, ::-1],
}


@pytest.mark.parametrize("golden", [SCALAR, DENSE], ids=["one number an image", "dense"])
def test_outputs_without_a_decision_are_compared_and_classify_nothing(golden):
    baseline = shifted(golden, 2.0**-12)
    labels = np.zeros(COUNT, np.int64)
    result = judge_tables(without_decision(golden), baseline, labels, golden)
    assert result.failures == ()
    assert {check.output for check in result.checks} == set(golden)
    assert (result.agreement, result.flips, result.accuracy) == (None, {}, None)
    assert from_values(ParityResult, json.loads(json.dumps(to_values(result)))) == result


@pytest.mark.parametrize("golden", [SCALAR, DENSE], ids=["one number an image", "dense"])
def test_wrong_output_without_a_decision_fails(golden):
    name = next(iter(golden))
    wrong = changed(golden, name, (2,) + (0,) * (golden[name].ndim - 1), 2.5)
    baseline = shifted(golden, 2.0**-12)
    result = judge_tables(without_decision(wrong), baseline, golden=golden)
    assert {check.output for check in result.checks if not check.passed} == {name}
    assert all(
        f"{name}: " in failure and "(worst image 2)" in failure for failure in result.failures[:1]
    )


def test_order_of_values_is_no_class_without_a_decision():
    golden = golden_table()
    artifact = without_decision(with_flip(3, 0.09375))
    result = judge_tables(artifact, shifted(golden, 0.03125), golden=golden)
    assert result.passed
    assert result.flips == {}


# Collecting and judging


class Counting(Reference):
    """A reference that counts its runs."""

    def __init__(self, table):
        super().__init__(table)
        self.runs = []

    def run(self, images, outputs=None, order=0):
        self.runs.append((len(images), outputs, order))
        return super().run(images, outputs, order)


def test_references_and_artifact_run_once_for_each_purpose():
    golden, baseline = Counting(golden_table()), Counting(golden_table())
    artifact = Fake(golden_table())
    sizes = []
    artifact.spoil = lambda outputs: sizes.append(len(outputs["lengths"])) or outputs
    collected = collect(golden, baseline, artifact, numbered_images())
    names = ("lengths", "capsules")
    assert golden.runs == [(COUNT, names, 0)]
    assert baseline.runs == [(COUNT, names, order) for order in range(8)]
    assert sizes == [1, 1, 1, 1, 2, 2, 3, 1, 4]
    assert [run.batch_size for run in collected.runs] == [1, 2, 3, 4]
    assert collected.images == COUNT


def test_chosen_batch_sizes_are_the_only_ones():
    references = Reference(golden_table()), Reference(golden_table())
    collected = collect(*references, Fake(golden_table()), numbered_images(), batch_sizes=(2, 4))
    assert [run.batch_size for run in collected.runs] == [2, 4]


def many(count):
    """Golden tables of so many images."""
    return {name: np.resize(v, (count, *v.shape[1:])) for name, v in golden_table().items()}


def test_small_batches_run_a_sample_spread_evenly_and_large_ones_everything():
    golden, ran = many(300), {}

    def keep(outputs):
        ran.setdefault(len(outputs["lengths"]), []).append(outputs)
        return outputs

    artifact = Fake(golden, spoil=keep)
    collected = collect(Reference(golden), Reference(golden), artifact, numbered_images(300))
    counts = {run.batch_size: len(run.images) for run in collected.runs}
    assert counts == {1: SAMPLE, 2: SAMPLE, 3: SAMPLE, 7: SAMPLE, 64: 300, 300: 300}
    few = collected.runs[0].images
    assert (few[0], few[-1]) == (0, 298)
    assert set(np.diff(few).tolist()) == {1, 2}
    assert len(ran[1]) == SAMPLE + SAMPLE % 3  # the last batch of 3 has one image
    for run in collected.runs:
        np.testing.assert_array_equal(run.outputs["lengths"], golden["lengths"][run.images])
    result = judge(collected, artifact.metadata)
    assert result.passed
    assert [check.images for check in result.checks[::2]] == [SAMPLE] * 4 + [300] * 2
    assert result.not_judged == ("batch sizes 1, 2, 3, 7 ran 256 of 300 images, spread evenly",)


def test_everything_runs_at_a_fixed_batch_size():
    golden = many(300)
    artifact = Fake(golden)
    artifact.metadata = dataclasses.replace(
        artifact.metadata, inputs=(TensorSpec("image", "float32", (3, 1, 1, 1)),)
    )
    result = compare(Reference(golden), Reference(golden), artifact, numbered_images(300))
    assert {check.images for check in result.checks} == {300}
    assert result.not_judged == ()


@pytest.mark.parametrize("value", [0.5, np.nan])
def test_a_fault_of_a_small_batch_is_found_in_the_sample_and_named_by_its_image(value):
    golden = many(1000)
    image = 100 * 1000 // SAMPLE
    runs = []

    def spoil(outputs):
        runs.append(len(outputs["lengths"]))
        if runs == [1] * 101:
            outputs["lengths"][0, 0] = value
        return outputs

    baseline = shifted(golden, 2.0**-12)
    images = numbered_images(1000)
    result = compare(Reference(golden), Reference(baseline), Fake(golden, spoil=spoil), images)
    assert result.failures
    assert all(failure.startswith("batch 1: lengths") for failure in result.failures)
    assert f"image {image}" in result.failures[0]


def test_a_sample_is_judged_by_what_float32_costs_on_it():
    golden = many(1000)
    baseline = shifted(golden, 2.0**-12)
    baseline["lengths"][1] += 0.125  # no image of the sample
    result = compare(Reference(golden), Reference(baseline), Fake(golden), numbered_images(1000))
    limits = {c.batch_size: c.allowed["max"] for c in result.checks if c.output == "lengths"}
    assert limits[64] == limits[1000] > 0.5
    assert limits[1] == limits[7] < 0.001


def test_accuracy_is_that_of_all_images_or_of_none():
    golden, labels = many(300), np.ones(300, np.int64)

    def fail(outputs):
        if len(outputs["lengths"]) > 7:
            raise ArtifactError("no memory")
        return outputs

    references = Reference(golden), Reference(golden)
    result = compare(*references, Fake(golden, spoil=fail), numbered_images(300), labels)
    assert not result.passed
    assert result.accuracy is None


def test_judging_needs_nothing_but_the_collected_arrays():
    golden = golden_table()
    found = {name: values.astype(np.float32) for name, values in golden.items()}
    collected = Collected(
        images=COUNT,
        golden=golden,
        baseline=(shifted(golden, 2.0**-12),),
        runs=(Run(4, EVERY, found), Run(7, EVERY, {}, "no memory")),
    )
    result = judge(collected, metadata_for(TOY), np.ones(COUNT, np.int64))
    assert result.failures == ("batch 7: no memory",)
    assert result.accuracy == Accuracy(1.0, 1.0, 1.0)
    assert result == judge(collected, metadata_for(TOY), np.ones(COUNT, np.int64))


# Where classes decide, not errors

INT8 = PRECISIONS["int8"].budget


def judge_int8(golden, artifact, labels=None):
    fake = Fake(artifact)
    fake.metadata = dataclasses.replace(fake.metadata, precision="int8")
    references = Reference(golden), Reference(shifted(golden, 2.0**-12))
    return compare(*references, fake, numbered_images(len(golden["lengths"])), labels)


def with_flips(golden, count):
    """The artifact whose first images change class 1 for class 2, by errors that are allowed."""
    artifact = {name: values.copy() for name, values in golden.items()}
    artifact["lengths"][:count, 2] = artifact["lengths"][:count, 1] + 2.0**-10
    return artifact


def closer(count):
    """Golden tables whose gap is 0.0625 everywhere."""
    golden = many(count)
    golden["lengths"][:, 2] = golden["lengths"][:, 1] - 0.0625
    return golden


@pytest.mark.parametrize(("flips", "passed"), [(0, True), (3, True), (10, True), (11, False)])
def test_flips_decide_by_their_share(flips, passed):
    golden = closer(1000)
    result = judge_int8(golden, with_flips(golden, flips))
    assert result.passed is passed
    assert len(result.flips) == flips
    message = f"{flips} of 1000 images change their class: at most 1.00%, or 2 of a few images, may"
    assert (message in result.failures) is not passed


@pytest.mark.parametrize(("lost", "gained", "passed"), [(2, 0, True), (3, 0, False), (3, 1, True)])
def test_lost_accuracy_decides(lost, gained, passed):
    golden = closer(1000)
    labels = np.ones(1000, np.int64)
    labels[:gained] = 2
    result = judge_int8(golden, with_flips(golden, gained + lost), labels)
    assert result.passed is passed
    assert any("accuracy falls from" in failure for failure in result.failures) is not passed


def test_error_that_changes_no_class_is_no_fault_until_the_file_is_plainly_broken():
    golden = closer(500)
    off = {name: values.copy() for name, values in golden.items()}
    off["lengths"][0, 0] += 0.15 * 0.75
    assert judge_int8(golden, off).passed
    off["lengths"][0, 0] += 0.15 * 0.75
    result = judge_int8(golden, off)
    assert all("lengths: max error 0.225 is above" in failure for failure in result.failures)
    assert result.failures


@pytest.mark.parametrize(
    ("count", "labelled", "words"),
    [
        (499, True, ("accuracy was not judged: it takes 500 images or more, not 499",)),
        (500, True, ()),
        (500, False, ("accuracy was not judged: the classes of these images are not known",)),
    ],
)
def test_accuracy_that_was_not_judged_is_said(count, labelled, words):
    golden = closer(count)
    labels = np.ones(count, np.int64) if labelled else None
    result = judge_int8(golden, golden, labels)
    assert result.passed
    assert tuple(note for note in result.not_judged if "accuracy" in note) == words


# The document


def test_use_of_the_budget_is_the_largest_share_of_a_limit():
    golden = golden_table()
    result = judge_tables(shifted(golden, 3 * 2.0**-8), baseline=shifted(golden, 2.0**-8))
    assert result.used == max(check.used for check in result.checks)
    assert result.used == pytest.approx(0.75, rel=1e-4)
    assert judge_tables(golden_table()).used == 0
    nothing = judge_tables(Fake(golden, spoil=renamed))
    assert (nothing.checks, nothing.used) == ((), 0)


def test_use_of_a_budget_of_nothing():
    errors = Errors(0.5, 0.25, 0.125, 0.1, 1.0, 0)
    check = Check("lengths", 1, 1, errors, {"max": 1.0, "p99": 0.25, "rms": 0.5}, False, True)
    assert check.used == 1.0
    assert dataclasses.replace(check, allowed={"max": 0.0}).used == math.inf
    exact = dataclasses.replace(errors, max=0.0)
    assert dataclasses.replace(check, errors=exact, allowed={"max": 0.0}).used == 0.0


@pytest.mark.parametrize(
    ("artifact", "names"),
    [
        (golden_table(True), OUTPUT_NAMES),
        (changed(golden_table(True), "lengths", 0, np.nan), OUTPUT_NAMES),
        (
            {
                **golden_table(True),
                "lengths": golden_table()["lengths"][:, [1, 0, 2]],
            },
            OUTPUT_NAMES,
        ),
    ],
    ids=["sound", "NaN", "every class wrong"],
)
def test_report_is_strict_json(artifact, names):
    result = judge_tables(Fake(artifact, names), golden=golden_table(True))
    text = json.dumps(to_values(result), allow_nan=False)
    read = json.loads(text)
    assert from_values(ParityResult, read) == result
    assert read["passed"] is result.passed
    assert read["failures"] == list(result.failures)
    assert read["budget"] == dataclasses.asdict(FP32)


def test_budget_of_float32_is_a_small_multiple_of_rounding():
    assert 1 < FP32.factor <= 8
    assert max(FP32.max, FP32.p99, FP32.rms) <= 2.0**-22
    assert not FP32.clips
    assert BATCH_SIZES == (1, 2, 3, 7, 64)

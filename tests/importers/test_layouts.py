"""Weights that others trained give what their code computes, exported too, or one clear message."""

import numpy as np
import pytest
import torch
from support.faults import first_wrong_stage
from support.foreign import KERAS, SIDE, TORCH, write_keras, write_torch

import capsnet
from capsnet.checkpoint import load_checkpoint, save_checkpoint
from capsnet.errors import CheckpointError
from capsnet.export.lower import lower
from capsnet.importers import LAYOUTS
from capsnet.importers.reading import import_network
from capsnet.importers.weights import Given
from capsnet.layers.dense_routing import ROUTINGS
from capsnet.stages import record_stages
from capsnet.training.step import training_step

FOREIGN = TORCH | KERAS
ROUTED = [name for name in FOREIGN if name != "efficient-capsnet"]


def state_of(name):
    return {key: torch.from_numpy(values) for key, values in FOREIGN[name].weights().items()}


def imported(name, weights, tmp_path, **given):
    """The network of a layout, and what was assumed, of weights by their names."""
    if name in KERAS:
        pytest.importorskip("h5py")
        path, write = tmp_path / "theirs.h5", write_keras
    else:
        path, write = tmp_path / "theirs.pt", write_torch
    write(path, weights)
    return import_network(name.partition(",")[0], path, Given(**given))


def images_of(name, count=3):
    channels = 2 if name in KERAS else 1
    return np.random.default_rng(0).random((count, channels, SIDE, SIDE), np.float32)


def outputs(model, name):
    images = torch.from_numpy(images_of(name)).double()
    with torch.no_grad():
        found = model.double().outputs_by_name(images)
    return {output: values.numpy() for output, values in found.items()}


@pytest.mark.parametrize("iterations", [1, 2, 3, None])
@pytest.mark.parametrize("name", FOREIGN)
def test_an_import_computes_what_that_projects_code_does(name, iterations, tmp_path):
    weights = FOREIGN[name].weights()
    if name not in ROUTED:
        iterations = None
    model, assumed = imported(name, weights, tmp_path, routing_iterations=iterations)
    found = outputs(model, name)
    theirs = FOREIGN[name].compute(weights, images_of(name).astype(np.float64), iterations or 3)
    for output, values in zip(("lengths", "capsules", "reconstruction"), theirs, strict=True):
        if values is not None:
            expected = values.reshape(found[output].shape)
            np.testing.assert_allclose(found[output], expected, rtol=0, atol=1e-10, err_msg=output)
    said = any("3 routing iterations" in words for words in assumed)
    assert said == (iterations is None and name in ROUTED)


@pytest.mark.parametrize("name", ROUTED)
def test_the_number_of_iterations_matters_to_the_comparison(name, tmp_path):
    weights = FOREIGN[name].weights()
    found = [
        outputs(imported(name, weights, tmp_path, routing_iterations=count)[0], name)
        for count in (2, 3)
    ]
    assert np.abs(found[0]["capsules"] - found[1]["capsules"]).max() > 1e-3
    assert found[0]["lengths"].std() > 1e-3


@pytest.mark.parametrize("name", FOREIGN)
def test_an_imported_network_is_a_checkpoint_like_any_other(name, tmp_path):
    model, _ = imported(name, FOREIGN[name].weights(), tmp_path)
    save_checkpoint(model, tmp_path / "ours.safetensors")
    loaded = load_checkpoint(tmp_path / "ours.safetensors")
    assert loaded.config == model.config
    for output, values in outputs(loaded, name).items():
        np.testing.assert_array_equal(values, outputs(model, name)[output])


@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize("name", FOREIGN)
def test_an_imported_network_is_lowered_exactly(name, routing, tmp_path):
    model = imported(name, FOREIGN[name].weights(), tmp_path)[0].double()
    images = torch.from_numpy(images_of(name, 5)).double()
    lowered = lower(model, reconstruction=model.decoder is not None, forms={"routing": routing})
    with torch.no_grad():
        expected, found = record_stages(model, images), record_stages(lowered, images)
    assert list(found) == list(expected)
    for stage, values in found.items():
        difference = (lowered.to_readable(stage, values) - expected[stage]).abs().max()
        assert difference < 1e-12, stage


@pytest.mark.parametrize("name", FOREIGN)
def test_a_routing_iteration_less_is_seen_in_the_graphs_claims(name, tmp_path):
    weights = FOREIGN[name].weights()
    [claim, *_] = lower(imported(name, weights, tmp_path)[0]).claims
    if name == "efficient-capsnet":
        assert "self-attention routing" in claim.what
    else:
        count = {"adambielski": 4}.get(name, 3)
        assert f"routing of {count} iterations" in claim.what


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "precision", "suffix"),
    [
        *((name, "fp32", suffix) for name in FOREIGN for suffix in ("onnx", "pt", "pt2")),
        # The made-up weights of the others leave float16's budget, and are refused.
        *((name, "fp16", "onnx") for name in ("adambielski", "cedrickchee", *KERAS)),
    ],
)
def test_an_imported_network_is_exported_and_proven(name, precision, suffix, tmp_path):
    model, _ = imported(name, FOREIGN[name].weights(), tmp_path)
    certificate = capsnet.export_model(
        model,
        tmp_path / f"a.{suffix}",
        images=images_of(name, 24),
        precision=precision,
        reconstruction=model.decoder is not None,
        device="cpu",
    )
    assert certificate.passed


@pytest.mark.slow
def test_a_planted_fault_is_located_in_an_imported_layer(tmp_path):
    model, _ = imported("adambielski", FOREIGN["adambielski"].weights(), tmp_path)
    images = images_of("adambielski", 24)
    capsnet.export_model(model, tmp_path / "a.onnx", images=images, device="cpu")
    stage = first_wrong_stage(model, images, tmp_path / "a.onnx", "layer0.first_weight")
    assert stage == "layer0.iteration1.inputs"


# Without these there are fewer layers, or no decoder: another network of that project.
OPTIONAL = ("fc1.weight", "decoder.0.weight", "second.input_caps2U.weight")
OPTIONAL += ("dense_11/kernel", "dense_2/kernel", "/gamma", "conv2d_3/kernel", "fc_caps/W")


@pytest.mark.parametrize("name", FOREIGN)
def test_a_tensor_that_is_missing_or_does_not_fit_is_named(name, tmp_path):
    weights = FOREIGN[name].weights()
    for key, values in weights.items():
        inner = key
        for prefix in ("capsnet.", "encoder.", "reconstruction_net."):
            inner = inner.removeprefix(prefix)
        wrong = values[..., None]
        with pytest.raises(CheckpointError) as caught:
            imported(name, weights | {key: wrong}, tmp_path)
        assert f"{inner} has shape {list(wrong.shape)}, expected [" in str(caught.value)
        if not key.endswith(OPTIONAL):
            with pytest.raises(CheckpointError) as caught:
                imported(name, {k: v for k, v in weights.items() if k != key}, tmp_path)
            if name in TORCH:  # Keras numbers layers: the next one stands in for what is missing
                assert f"{inner} is missing, expected of shape [" in str(caught.value)


@pytest.mark.parametrize("name", FOREIGN)
def test_a_tensor_that_is_not_expected_is_named(name, tmp_path):
    key = "more/weight" if name in KERAS else "more.weight"
    weights = {**FOREIGN[name].weights(), key: np.zeros((2, 3), np.float32)}
    with pytest.raises(CheckpointError, match=rf"{key}, of shape \[2, 3\], is not expected"):
        imported(name, weights, tmp_path)


@pytest.mark.parametrize("name", TORCH)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"lr": 0.1}},
        lambda state: {"model_state_dict": state},
        lambda state: {f"module.{key}": tensor for key, tensor in state.items()},
        lambda state: {"state_dict": {f"module.{k}": tensor for k, tensor in state.items()}},
    ],
)
def test_what_training_scripts_wrap_around_weights_is_taken_off(name, wrap, tmp_path):
    plain, _ = imported(name, FOREIGN[name].weights(), tmp_path)
    torch.save(wrap(state_of(name)), tmp_path / "wrapped.pt")
    wrapped, _ = import_network(name.partition(",")[0], tmp_path / "wrapped.pt")
    assert wrapped.config == plain.config
    for key, tensor in plain.state_dict().items():
        assert torch.equal(wrapped.state_dict()[key], tensor)


@pytest.mark.parametrize("name", FOREIGN)
def test_an_imported_network_can_be_trained_on(name, tmp_path):
    model = imported(name, FOREIGN[name].weights(), tmp_path)[0].train()
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loss, _ = training_step(model, optimizer, torch.from_numpy(images_of(name)), torch.arange(3))
    assert loss.isfinite()
    changed = {key for key, p in model.named_parameters() if not torch.equal(p, before[key])}
    assert changed == before.keys()


@pytest.mark.parametrize("name", TORCH)
def test_a_file_is_recognised_by_one_layout_alone(name):
    marks = {
        row.name
        for row in LAYOUTS.values()
        for key in state_of(name)
        if row.mark is not None and key.endswith(row.mark)
    }
    assert marks == {name.partition(",")[0]}


def test_a_tensor_with_and_without_a_prefix_is_refused(tmp_path):
    weights = FOREIGN["adambielski"].weights()
    weights = {**weights, "conv1.bias": weights["capsnet.conv1.bias"]}
    with pytest.raises(CheckpointError, match=r"capsnet.conv1.bias is there with and without"):
        imported("adambielski", weights, tmp_path)


def test_routing_iterations_of_a_network_without_any_are_refused(tmp_path):
    weights = FOREIGN["efficient-capsnet"].weights()
    with pytest.raises(CheckpointError, match="takes no --routing-iterations"):
        imported("efficient-capsnet", weights, tmp_path, routing_iterations=3)


def test_the_shape_of_the_images_decides_where_weights_do_not(tmp_path):
    weights = FOREIGN["adambielski"].weights()
    state = {k: v for k, v in weights.items() if "reconstruction" not in k}
    model, assumed = imported("adambielski", state, tmp_path)
    assert model.config.image_shape == (1, 12, 12)
    assert "images of 12x12 (--image-shape)" in assumed
    model, assumed = imported("adambielski", state, tmp_path, image_shape=(1, 11, 12))
    assert model.config.image_shape == (1, 11, 12)
    assert not any("images" in words for words in assumed)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            (1, 14, 12),
            "images of 1x14x12 have capsules at 4x3 positions, the capsule layer is for 9",
        ),
        ((3, 12, 12), "the images have 1 channels, 3x12x12 was given"),
        ((1, 11, 12), "and the decoder for 144 values"),
        ((1, 2, 2), "have capsules at 0x0 positions"),
    ],
)
def test_images_that_do_not_fit_are_refused(shape, message, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        imported("adambielski", FOREIGN["adambielski"].weights(), tmp_path, image_shape=shape)

"""Weights that others trained give what their code computes, exported too, or one clear message."""

import numpy as np
import pytest
import torch
from support.foreign import CHANNELS, SIDE, TORCH

import capsnet
from capsnet.checkpoint import load_checkpoint, save_checkpoint
from capsnet.errors import CheckpointError
from capsnet.importers.reading import import_network
from capsnet.importers.weights import Given

IMAGES = np.random.default_rng(0).random((3, CHANNELS, SIDE, SIDE), np.float32)


def state_of(name):
    return {key: torch.from_numpy(values) for key, values in TORCH[name].weights().items()}


def imported(name, state, tmp_path, **given):
    torch.save(state, tmp_path / "theirs.pt")
    return import_network(name.partition(",")[0], tmp_path / "theirs.pt", Given(**given))


def outputs(model):
    with torch.no_grad():
        found = model.double().outputs_by_name(torch.from_numpy(IMAGES).double())
    return {output: values.numpy() for output, values in found.items()}


@pytest.mark.parametrize("iterations", [1, 2, 3, None])
@pytest.mark.parametrize("name", TORCH)
def test_an_import_computes_what_that_projects_code_does(name, iterations, tmp_path):
    foreign = TORCH[name]
    model, assumed = imported(name, state_of(name), tmp_path, routing_iterations=iterations)
    found = outputs(model)
    theirs = foreign.compute(foreign.weights(), IMAGES.astype(np.float64), iterations or 3)
    for output, values in zip(("lengths", "capsules", "reconstruction"), theirs, strict=True):
        if values is not None:
            expected = values.reshape(found[output].shape)
            np.testing.assert_allclose(found[output], expected, rtol=0, atol=1e-10, err_msg=output)
    assert any("3 routing iterations" in words for words in assumed) == (iterations is None)


@pytest.mark.parametrize("name", TORCH)
def test_the_number_of_iterations_matters_to_the_comparison(name, tmp_path):
    found = [
        outputs(imported(name, state_of(name), tmp_path, routing_iterations=count)[0])
        for count in (2, 3)
    ]
    assert np.abs(found[0]["capsules"] - found[1]["capsules"]).max() > 1e-3
    assert found[0]["lengths"].std() > 1e-3


@pytest.mark.parametrize("name", TORCH)
def test_an_imported_network_is_a_checkpoint_like_any_other(name, tmp_path):
    model, _ = imported(name, state_of(name), tmp_path)
    save_checkpoint(model, tmp_path / "ours.safetensors")
    loaded = load_checkpoint(tmp_path / "ours.safetensors")
    assert loaded.config == model.config
    for output, values in outputs(loaded).items():
        np.testing.assert_array_equal(values, outputs(model)[output])


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCH)
def test_an_imported_network_is_exported_and_proven(name, tmp_path):
    model, _ = imported(name, state_of(name), tmp_path)
    images = np.random.default_rng(1).random((24, *model.config.image_shape), np.float32)
    certificate = capsnet.export_model(
        model,
        tmp_path / "a.onnx",
        images=images,
        reconstruction=model.decoder is not None,
        device="cpu",
    )
    assert certificate.passed


@pytest.mark.parametrize("name", TORCH)
def test_a_tensor_that_is_missing_or_does_not_fit_is_named(name, tmp_path):
    state = state_of(name)
    # Without these there is one layer, or no decoder.
    optional = ("reconstruction_net.fc1.weight", "decoder.0.weight", "decoder.fc1.weight")
    optional += ("encoder.second.input_caps2U.weight",)
    for key, tensor in state.items():
        inner = key.removeprefix("capsnet.").removeprefix("encoder.")
        inner = inner.removeprefix("reconstruction_net.")
        wrong = torch.zeros(*tensor.shape, 2)
        with pytest.raises(CheckpointError) as caught:
            imported(name, {**state, key: wrong}, tmp_path)
        assert f"{inner} has shape {list(wrong.shape)}, expected [" in str(caught.value)
        if key not in optional:
            with pytest.raises(CheckpointError) as caught:
                imported(name, {k: t for k, t in state.items() if k != key}, tmp_path)
            assert f"{inner} is missing, expected of shape [" in str(caught.value)


@pytest.mark.parametrize("name", TORCH)
def test_a_tensor_that_is_not_expected_is_named(name, tmp_path):
    state = {**state_of(name), "more.weight": torch.zeros(2, 3)}
    with pytest.raises(CheckpointError, match=r"more.weight, of shape \[2, 3\], is not expected"):
        imported(name, state, tmp_path)


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
    plain, _ = imported(name, state_of(name), tmp_path)
    wrapped, _ = imported(name, wrap(state_of(name)), tmp_path)
    assert wrapped.config == plain.config
    for key, tensor in plain.state_dict().items():
        assert torch.equal(wrapped.state_dict()[key], tensor)


def test_the_shape_of_the_images_decides_where_weights_do_not(tmp_path):
    state = {k: t for k, t in state_of("adambielski").items() if "reconstruction" not in k}
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
        imported("adambielski", state_of("adambielski"), tmp_path, image_shape=shape)

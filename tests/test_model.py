"""The readable network: shapes, dtypes, batches, reconstruction, TorchScript; and its numbers."""

import numpy as np
import pytest
import torch
from support import oracle
from support.networks import altered

from capsnet.config import preset
from capsnet.layers.dynamic import DynamicConfig
from capsnet.model import CapsNet
from capsnet.presets import PRESETS

TINY = preset("tiny")
SQUASHED = altered(TINY, primary_activation="squash")
STACK = altered(
    SQUASHED,
    image_shape=(3, 20, 26),
    capsule_layers=(DynamicConfig(6, 5, 2), DynamicConfig(3, 4)),
)
BARE = altered(TINY, decoder_sizes=None)
SMALL = {"tiny": TINY, "squashed": SQUASHED, "stack": STACK, "bare": BARE}

small = pytest.mark.parametrize("config", SMALL.values(), ids=SMALL)


def images_for(config, batch=2, **options):
    return torch.rand(batch, *config.image_shape, **options)


def by_the_oracle(model, images):
    """The network's class capsules from the formulas, for any configuration."""
    state = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}
    config = model.config
    hidden = oracle.conv2d(images, state["stem.weight"], state["stem.bias"], 1)
    maps = oracle.conv2d(
        np.maximum(hidden, 0), state["primary.weight"], state["primary.bias"], config.primary.stride
    )
    capsules = oracle.primary_capsules(maps, config.primary.dim)
    squashed = config.primary.activation == "squash"
    capsules = oracle.squash(capsules) if squashed else capsules * 0.01
    for index, layer in enumerate(config.capsule_layers):
        weight = state[f"capsule_layers.{index}.weight"]
        capsules = oracle.capsule_layer(capsules, weight, layer.routing_iterations)
    return capsules


@small
def test_the_network_computes_what_the_formulas_say(config, lively):
    model, images = lively(config), images_for(config, dtype=torch.float64)
    lengths, capsules = model(images)
    expected = by_the_oracle(model, images)
    assert lengths.max() > 0.1
    np.testing.assert_allclose(capsules.detach(), expected, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(
        lengths.detach(), np.sqrt((expected**2).sum(-1)), rtol=1e-10, atol=1e-14
    )


@pytest.mark.parametrize("config", [*map(preset, PRESETS), STACK], ids=[*PRESETS, "stack"])
def test_shapes(config):
    with torch.device("meta"):
        model, images = CapsNet(config), images_for(config)
        lengths, capsules = model(images)
        reconstructions = model.reconstruct(capsules, torch.zeros(2, dtype=torch.int64))
    assert lengths.shape == (2, config.classes)
    assert capsules.shape == (2, config.classes, config.class_dim)
    assert reconstructions.shape == images.shape
    values = images
    for layer, shape in zip(model.parts().values(), config.shapes[1:], strict=True):
        values = layer(values)
        assert values.shape == (2, *shape)


@small
def test_lengths_are_probabilities_and_pixels_are_grey_values(config, lively):
    model, images = lively(config), images_for(config, dtype=torch.float64)
    lengths, capsules = model(images)
    assert (lengths > 0).all()
    assert (lengths < 1).all()
    if config.decoder:
        pixels = model.reconstruct(capsules, lengths.argmax(-1))
        assert (pixels > 0).all()
        assert (pixels < 1).all()


@small
def test_an_image_gives_the_same_capsules_alone_and_in_a_batch(config, lively):
    model, images = lively(config), images_for(config, 5, dtype=torch.float64)
    _, together = model(images)
    for index in range(5):
        _, alone = model(images[index : index + 1])
        torch.testing.assert_close(alone[0], together[index], rtol=1e-12, atol=1e-15)
    assert (together[0] - together[1]).abs().max() > 1e-6


def test_an_empty_batch_gives_empty_outputs():
    lengths, capsules = CapsNet(TINY)(images_for(TINY, 0))
    assert (lengths.shape, capsules.shape) == ((0, 10), (0, 10, 8))


@small
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("pixel", [0.0, 1.0])
def test_outputs_and_gradients_are_finite_in_every_type(config, dtype, pixel):
    model = CapsNet(config).to(dtype)
    images = torch.full((2, *config.image_shape), pixel, dtype=dtype, requires_grad=True)
    lengths, capsules = model(images)
    outputs = [lengths, capsules]
    if config.decoder:
        outputs.append(model.reconstruct(capsules, torch.tensor([0, 1])))
    sum(output.sum() for output in outputs).backward()
    for output in outputs:
        assert output.dtype == dtype
        assert output.isfinite().all()
    for tensor in (images, *model.parameters()):
        assert tensor.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_network_of_zeros_has_zero_capsules_and_finite_gradients(dtype):
    model = CapsNet(SQUASHED).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    lengths, capsules = model(images_for(SQUASHED, dtype=dtype))
    lengths.sum().backward()
    assert not lengths.any()
    assert not capsules.any()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert model.capsule_layers[0].weight.grad is not None


def test_votes_keep_the_variance_of_the_capsules_that_cast_them():
    layer = DynamicConfig(10, 16).build((500, 8))
    capsules = torch.randn(20, 500, 8)
    votes = torch.einsum("bid,idoh->bioh", capsules, layer.weight)
    assert votes.var().item() == pytest.approx(1, rel=0.05)


def test_the_reconstruction_depends_on_the_chosen_capsule_alone():
    model = CapsNet(TINY)
    capsules = torch.randn(3, 10, 8)
    classes = torch.tensor([4, 0, 9])
    images = model.reconstruct(capsules, classes)
    alone = torch.zeros_like(capsules)
    alone[range(3), classes] = capsules[range(3), classes]
    others = torch.randn_like(capsules)
    others[range(3), classes] = capsules[range(3), classes]
    torch.testing.assert_close(model.reconstruct(alone, classes), images)
    torch.testing.assert_close(model.reconstruct(others, classes), images)
    assert not torch.allclose(model.reconstruct(capsules, (classes + 1) % 10), images, atol=1e-4)


def test_a_network_without_a_decoder_refuses_to_reconstruct():
    model = CapsNet(BARE)
    with pytest.raises(ValueError, match="this network has no decoder"):
        model.reconstruct(torch.zeros(1, 10, 8), torch.tensor([0]))
    assert not any("decoder" in name for name in model.state_dict())


@pytest.mark.parametrize("shape", [(1, 24, 28), (3, 28, 28), (1, 32, 28)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(RuntimeError):
        CapsNet(TINY)(torch.rand(1, *shape))


@small
@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning")
def test_torchscript_compiles_the_network_as_it_is_written(config, lively, tmp_path):
    model = lively(config)
    torch.jit.script(model).save(tmp_path / "model.pt")
    scripted = torch.jit.load(tmp_path / "model.pt")
    for batch in (1, 3):
        images = images_for(config, batch, dtype=torch.float64)
        torch.testing.assert_close(scripted(images), model(images), rtol=1e-12, atol=1e-15)

"""The dense and Fourier forms equal the readable ones: routing, convolution, encoder, gradients."""

import numpy as np
import pytest
import torch
from support import oracle
from support.networks import altered, network
from torch.nn import functional

from capsnet.config import preset
from capsnet.layers.dense_routing import pack_weight, projected_routing
from capsnet.layers.dynamic import DynamicConfig
from capsnet.layers.squash import squash
from capsnet.training import frequency
from capsnet.training.forms import encode
from capsnet.training.frequency import _fourier_bases, frequency_conv2d

TINY = preset("tiny")
PAPER_LAYERS = (
    DynamicConfig(6, 5, 2, bias=True, leaky=True),
    DynamicConfig(4, 3, bias=True),
    DynamicConfig(3, 4, 1, bias=True, leaky=True),
)
ENCODERS = {
    "tiny": (TINY, 3),
    "tiny-squash": (altered(TINY, primary_activation="squash"), 3),
    "stack": (
        network(
            image_shape=(3, 15, 18),
            stem_channels=5,
            stem_kernel=4,
            primary_groups=3,
            primary_dim=2,
            primary_kernel=5,
            primary_stride=3,
            primary_activation="squash",
            capsule_layers=(
                DynamicConfig(6, 5, 2),
                DynamicConfig(4, 3, 1),
                DynamicConfig(3, 4, 5),
            ),
        ),
        3,
    ),
    "paper": (
        altered(TINY, primary_activation="squash", capsule_layers=PAPER_LAYERS),
        3,
    ),
    # 42 x 42 positions behind the stem: too many for the Fourier form
    "large-image": (altered(TINY, image_shape=(1, 50, 50)), 2),
    "mnist": (preset("mnist"), 1),
    "cifar10": (preset("cifar10"), 1),
}


def layer_and_capsules(iterations):
    """A capsule layer whose couplings end far from uniform, and its input, in float64."""
    layer = DynamicConfig(4, 5, iterations).build((9, 3)).double()
    return layer, torch.randn(2, 9, 3, dtype=torch.float64, requires_grad=True)


def route(layer, capsules):
    return projected_routing(capsules.mT, pack_weight(layer.weight), layer.iterations)


def gradients(outputs, inputs):
    """Gradients of a sum whose terms all have different weights."""
    weights = torch.linspace(-1, 1, outputs.numel(), dtype=outputs.dtype).view_as(outputs)
    return torch.autograd.grad((outputs * weights).sum(), inputs)


@pytest.mark.parametrize("dim", [0, 1, 2, -1])
def test_squash_along_an_axis_equals_equation_1(dim):
    poses = torch.randn(3, 4, 5, dtype=torch.float64)
    expected = np.moveaxis(oracle.squash(poses.movedim(dim, -1)), -1, dim)
    np.testing.assert_allclose(squash(poses, dim), expected, rtol=1e-13)


@pytest.mark.parametrize("iterations", [1, 2, 3, 4, 5])
def test_projected_routing_equals_procedure_1(iterations):
    layer, capsules = layer_and_capsules(iterations)
    expected = oracle.capsule_layer(capsules.detach(), layer.weight.detach(), iterations)
    np.testing.assert_allclose(route(layer, capsules).detach(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("iterations", [1, 2, 3, 4, 5])
def test_projected_routing_has_the_gradients_of_the_readable_layer(iterations):
    layer, capsules = layer_and_capsules(iterations)
    inputs = (capsules, layer.weight)
    expected = gradients(layer(capsules), inputs)
    for found, wanted in zip(gradients(route(layer, capsules), inputs), expected, strict=True):
        assert wanted.abs().max() > 1e-3
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("iterations", [1, 3])
def test_projected_routing_shows_every_iteration(iterations):
    layer, capsules = layer_and_capsules(iterations)
    seen = []

    def squashed(inputs):
        seen.append((inputs, squash(inputs)))
        return seen[-1][1]

    routed = projected_routing(capsules.mT, pack_weight(layer.weight), [squashed] * iterations)
    assert len(seen) == iterations
    for number, (inputs, outputs) in enumerate(seen, start=1):
        assert inputs.shape == outputs.shape == (4, 2, 5)
        expected = oracle.capsule_layer(capsules.detach(), layer.weight.detach(), number)
        np.testing.assert_allclose(outputs.detach().movedim(0, 1), expected, rtol=0, atol=1e-12)
        np.testing.assert_allclose(oracle.squash(inputs.detach()), outputs.detach(), atol=1e-12)
    torch.testing.assert_close(seen[-1][1].movedim(0, 1), routed, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_projected_routing_is_finite_with_finite_gradients(dtype, scale):
    capsules = (scale * torch.randn(2, 3, 9)).to(dtype).requires_grad_()
    weight = torch.randn(4, 27, 5).to(dtype).requires_grad_()
    routed = projected_routing(capsules, weight, [squash] * 3)
    routed.sum().backward()
    assert routed.dtype == dtype
    assert routed.isfinite().all()
    assert capsules.grad.isfinite().all()
    assert weight.grad.isfinite().all()
    assert bool(routed.any()) == (scale > 0)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("size", [(9, 9), (12, 12), (20, 20), (9, 14), (17, 10)])
def test_the_fourier_convolution_equals_the_direct_one(stride, kernel, size):
    images = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 3, kernel, kernel, dtype=torch.float64, requires_grad=True)
    found, wanted = (
        frequency_conv2d(images, weight, stride),
        functional.conv2d(images, weight, stride=stride),
    )
    assert wanted.abs().max() > 0.1
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)
    pairs = zip(*(gradients(x, (images, weight)) for x in (found, wanted)), strict=True)
    for found_gradient, wanted_gradient in pairs:
        torch.testing.assert_close(found_gradient, wanted_gradient, rtol=0, atol=1e-10)


@pytest.mark.parametrize("channels", [1, 4, 5])
def test_the_fourier_convolution_takes_a_few_channels_at_a_time(channels, monkeypatch):
    monkeypatch.setattr(frequency, "_CHANNELS", 2)
    widths, product = [], frequency._complex_product
    monkeypatch.setattr(
        frequency, "_complex_product", lambda x, w: widths.append(w.shape[-2:]) or product(x, w)
    )
    images = torch.randn(2, channels, 9, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, channels, 3, 3, dtype=torch.float64, requires_grad=True)
    found, wanted = frequency_conv2d(images, weight, 2), functional.conv2d(images, weight, stride=2)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    pairs = zip(*(gradients(x, (images, weight)) for x in (found, wanted)), strict=True)
    for found_gradient, wanted_gradient in pairs:
        torch.testing.assert_close(found_gradient, wanted_gradient, rtol=0, atol=1e-12)
    assert max(max(sizes) for sizes in widths) <= 2 * 4  # channels times phases


def test_the_direct_convolution_of_the_oracle_agrees():
    images, weight = torch.randn(2, 3, 9, 14).double(), torch.randn(4, 3, 5, 5).double()
    expected = oracle.conv2d(images, weight, np.zeros(4), 2)
    np.testing.assert_allclose(frequency_conv2d(images, weight, 2), expected, atol=1e-10)


def test_a_first_call_in_inference_mode_leaves_later_calls_differentiable():
    _fourier_bases.cache_clear()
    images, weight = torch.rand(1, 2, 9, 9), torch.rand(2, 2, 3, 3, requires_grad=True)
    with torch.inference_mode():
        frequency_conv2d(images, weight, 2)
    frequency_conv2d(images, weight, 2).sum().backward()
    assert weight.grad.abs().sum() > 0


@pytest.mark.parametrize(("config", "batch"), ENCODERS.values(), ids=ENCODERS)
def test_the_training_encoder_equals_the_readable_network(config, batch, lively):
    model = lively(altered(config, decoder_sizes=None))
    images = torch.rand(batch, *config.image_shape, dtype=torch.float64)
    with torch.no_grad():
        lengths, capsules = model(images)
        found = encode(model, images)
    assert lengths.max() > 0.1
    assert found.shape == capsules.shape
    torch.testing.assert_close(found, capsules, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("name", ["tiny", "tiny-squash", "stack", "paper", "large-image"])
def test_the_training_encoder_has_the_gradients_of_the_readable_network(name, lively):
    config, batch = ENCODERS[name]
    model = lively(altered(config, decoder_sizes=None))
    images = torch.rand(batch, *config.image_shape, dtype=torch.float64)
    parameters = list(model.parameters())
    expected = gradients(model(images)[1], parameters)
    for found, wanted in zip(gradients(encode(model, images), parameters), expected, strict=True):
        scale = wanted.abs().max()
        assert scale > 0
        torch.testing.assert_close(found / scale, wanted / scale, rtol=0, atol=1e-10)

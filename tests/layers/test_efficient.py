"""Efficient-CapsNet's layers against its formulas as plain loops."""

import numpy as np
import pytest
import torch
from support import oracle
from support.family import FAMILY, family_member
from support.networks import random_images

import capsnet
from capsnet.config import preset
from capsnet.data.idx import mnist_test_set
from capsnet.errors import ConfigError
from capsnet.export.lower import lower
from capsnet.export.lowering.base import AsWritten
from capsnet.layers.attention import AttentionConfig
from capsnet.layers.convolutions import EPSILON, Convolution, ConvolutionsConfig
from capsnet.layers.depthwise import DepthwiseConfig
from capsnet.layers.squash import exponential_squash
from capsnet.model import CapsNet

EFFICIENT = FAMILY["efficient"]


def test_the_preset_has_the_papers_number_of_parameters():
    model = CapsNet(preset("efficient"))
    encoder = (p for name, p in model.named_parameters() if not name.startswith("decoder"))
    assert sum(p.numel() for p in encoder) == 161_824


@pytest.mark.slow
def test_the_bundled_network_classifies_the_test_images():
    model = capsnet.load("efficient-mnist")
    assert model.config == preset("efficient")
    images, labels = mnist_test_set()
    pixels = torch.from_numpy(images).float() / 255
    with torch.no_grad():
        found = torch.cat([model(part)[0].argmax(-1) for part in pixels.split(500)])
    assert (found.numpy() == labels).mean() == 0.9965


@pytest.mark.parametrize("scale", [1e-4, 1.0, 30.0])
def test_squashing_equals_the_papers_equation(scale):
    poses = scale * torch.randn(50, 8, dtype=torch.float64)
    length = np.sqrt((poses.numpy() ** 2).sum(-1, keepdims=True))
    expected = (1 - np.exp(-length)) * poses.numpy() / length
    np.testing.assert_allclose(exponential_squash(poses), expected, rtol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_squashing_zero_gives_zero_and_a_finite_gradient(dtype):
    poses = torch.zeros(2, 3, dtype=dtype, requires_grad=True)
    squashed = exponential_squash(poses)
    squashed.sum().backward()
    assert not squashed.any()
    assert poses.grad.isfinite().all()


def test_self_attention_routing_equals_the_papers_formulas():
    layer = AttentionConfig(3, 5).build((4, 6)).double()
    torch.nn.init.normal_(layer.prior)
    capsules = torch.randn(2, 4, 6, dtype=torch.float64)
    weight, prior = (p.detach().numpy() for p in (layer.weight, layer.prior))
    expected = np.empty((2, 3, 5))
    for image, x in enumerate(capsules.numpy()):
        u = np.array([[x[i] @ weight[i, :, k] for i in range(4)] for k in range(3)])
        a = np.array([[u[k, i] @ sum(u[k]) / np.sqrt(5) for i in range(4)] for k in range(3)])
        for k in range(3):
            s = np.zeros(5)
            for i in range(4):
                c = np.exp(a[k, i]) / sum(np.exp(a[m, i]) for m in range(3)) + prior[i, k]
                s += c * u[k, i]
            length = np.sqrt(s @ s)
            expected[image, k] = (1 - np.exp(-length)) * s / length
    np.testing.assert_allclose(layer(capsules).detach(), expected, rtol=1e-11)


def test_depthwise_capsules_are_those_of_a_loop_over_channels():
    layer = DepthwiseConfig(2, 3, 2).build((6, 8, 7)).double()
    features = torch.randn(2, 6, 8, 7, dtype=torch.float64)
    weight, bias = layer.conv.weight.detach().numpy(), layer.conv.bias.detach().numpy()
    maps = np.concatenate(
        [
            oracle.conv2d(features[:, c : c + 1], weight[c : c + 1], bias[c : c + 1], 2)
            for c in range(6)
        ],
        axis=1,
    )
    expected = exponential_squash(torch.from_numpy(oracle.primary_capsules(maps, 2)))
    np.testing.assert_allclose(layer(features).detach(), expected, rtol=1e-11)


def test_convolutions_normalise_behind_the_relu():
    stem = family_member(EFFICIENT).double().stem
    values = random_images(EFFICIENT, 2).astype(np.float64)
    for conv, norm, stride in ((stem[0], stem[2], 1), (stem[3], stem[5], 2)):
        weight, bias = conv.weight.detach().numpy(), conv.bias.detach().numpy()
        values = np.maximum(oracle.conv2d(values, weight, bias, stride), 0)
        gamma, beta, mean, variance = (
            t.detach().numpy()[:, None, None]
            for t in (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        )
        values = gamma * (values - mean) / np.sqrt(variance + EPSILON) + beta
    found = stem(torch.from_numpy(random_images(EFFICIENT, 2)).double()).detach()
    np.testing.assert_allclose(found, values, rtol=1e-10)


def test_normalisation_is_folded_into_the_next_layers_weights():
    lowered = lower(family_member(EFFICIENT))
    assert not any(isinstance(part, AsWritten) for part in lowered.parts().values())
    kinds = {type(module).__name__ for module in lowered.modules()}
    assert "Conv2d" in kinds
    assert "BatchNorm2d" not in kinds
    assert not [name for name, _ in lowered.named_buffers() if "affine" in name]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConvolutionsConfig(()), "expected a tuple of at least one Convolution"),
        (lambda: ConvolutionsConfig((3,)), r"at least one Convolution, got \(3,\)"),
        (
            lambda: ConvolutionsConfig((Convolution(0, 3),)),
            r"convolutions\[0\]: channels must be a positive integer, got 0",
        ),
        (
            lambda: ConvolutionsConfig((Convolution(3, 3, padding=-1),)),
            r"convolutions\[0\]: padding must be zero or a positive integer, got -1",
        ),
        (
            lambda: DepthwiseConfig(5).output_shape((8, 9, 9)),
            "8 channels do not make capsules of 5",
        ),
        (lambda: AttentionConfig(5, 6).output_shape((8, 9, 9)), r"takes \(capsules, dim\)"),
        (lambda: AttentionConfig(5, 0), "attention: dim must be a positive integer, got 0"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()

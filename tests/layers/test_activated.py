"""Capsules with activations, self-routing and EM, against the papers' formulas as plain loops."""

import math
import re

import numpy as np
import pytest
import torch
from support import oracle

from capsnet.config import CapsNetConfig
from capsnet.errors import ConfigError
from capsnet.layers.activated import ActivatedConfig
from capsnet.layers.convolutional import ConvolutionalConfig
from capsnet.layers.dynamic import DynamicConfig
from capsnet.layers.em import EMConfig
from capsnet.layers.primary import PrimaryConfig
from capsnet.layers.self_routing import SelfRoutingConfig
from capsnet.layers.stem import ConvConfig


def capsules_with_activations(count: int, dim: int) -> torch.Tensor:
    """``[3, count, dim + 1]`` in float64."""
    generator = torch.Generator().manual_seed(count)
    poses = torch.randn(3, count, dim, dtype=torch.float64, generator=generator)
    activations = torch.rand(3, count, 1, dtype=torch.float64, generator=generator)
    return torch.cat((poses, activations), dim=-1)


def random_layer(config, shape):
    torch.manual_seed(0)
    layer = config.build(shape).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    return layer


def test_primary_capsules_have_poses_as_they_are_and_activations_between_0_and_1():
    layer = random_layer(ActivatedConfig(2, 3, 3, 2), (4, 7, 9))
    features = torch.randn(2, 4, 7, 9, dtype=torch.float64)
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    expected = oracle.primary_capsules(oracle.conv2d(features, weight, bias, 2), 4)
    expected[..., 3] = 1 / (1 + np.exp(-expected[..., 3]))
    np.testing.assert_allclose(layer(features).detach(), expected, rtol=1e-11)


def test_self_routing_equals_the_papers_formulas():
    layer = random_layer(SelfRoutingConfig(4, 5), (6, 3))
    capsules = capsules_with_activations(6, 2)
    weight, routing, bias = (p.detach().numpy() for p in (layer.weight, layer.routing, layer.bias))
    expected = np.empty((3, 4, 6))
    for image, values in enumerate(capsules.numpy()):
        poses, a = values[:, :-1], values[:, -1]
        c = np.empty((6, 4))
        for i in range(6):
            e = [math.exp(poses[i] @ routing[i, :, j] + bias[i, j]) for j in range(4)]
            c[i] = np.array(e) / sum(e)
        for j in range(4):
            total = sum(c[i, j] * a[i] for i in range(6))
            expected[image, j, -1] = total / sum(a)
            votes = [poses[i] @ weight[i, :, j] for i in range(6)]
            expected[image, j, :-1] = sum(c[i, j] * a[i] * votes[i] for i in range(6)) / total
    np.testing.assert_allclose(layer(capsules).detach(), expected, rtol=1e-11)


@pytest.mark.parametrize("iterations", [1, 2, 3])
def test_em_routing_equals_procedure_1(iterations):
    layer = random_layer(EMConfig(3, 2, iterations), (5, 5))
    capsules = capsules_with_activations(5, 4)
    weight, beta_u, beta_a = (
        p.detach().numpy() for p in (layer.weight, layer.cost_of_use, layer.cost_of_absence)
    )
    expected = np.empty((3, 3, 5))
    for image, values in enumerate(capsules.numpy()):
        a_in = values[:, -1]
        votes = np.array(
            [[(values[i, :4].reshape(2, 2) @ weight[i, j]).ravel() for j in range(3)]
             for i in range(5)]
        )  # fmt: skip
        r = np.full((5, 3), 1 / 3)
        for step in range(iterations):
            p = np.empty((5, 3))
            for j in range(3):
                w = [r[i, j] * a_in[i] for i in range(5)]
                mean = sum(w[i] * votes[i, j] for i in range(5)) / (sum(w) + 1e-6)
                variance = sum(w[i] * (votes[i, j] - mean) ** 2 for i in range(5))
                variance = variance / (sum(w) + 1e-6) + 1e-6
                cost = sum((beta_u[j] + 0.5 * math.log(v)) * sum(w) for v in variance)
                inverse_temperature = 0.01 * (1 - 0.95 ** (step + 1))
                a = 1 / (1 + math.exp(-inverse_temperature * (beta_a[j] - cost)))
                expected[image, j] = [*mean, a]
                for i in range(5):
                    density = [
                        math.exp(-((x - m) ** 2) / (2 * v)) / math.sqrt(2 * math.pi * v)
                        for x, m, v in zip(votes[i, j], mean, variance, strict=True)
                    ]
                    p[i, j] = a * math.prod(density)
            r = p / p.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(layer(capsules).detach(), expected, rtol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 100.0])
def test_em_routing_stays_finite(scale, dtype):
    torch.manual_seed(0)
    layer = EMConfig(3, 2).build((5, 5)).to(dtype)
    capsules = (scale * capsules_with_activations(5, 4)).to(dtype)
    capsules[..., -1] = 1
    result = layer(capsules)
    assert result.isfinite().all()
    assert result.dtype == dtype


def test_convolutional_capsules_route_every_window_by_itself():
    config = ConvolutionalConfig((4, 5), 2, DynamicConfig(3, 4), stride=2)
    layer = random_layer(config, (4 * 5 * 2, 3))
    capsules = torch.randn(2, 40, 3, dtype=torch.float64)
    weight, expected = layer.layer.weight.detach().numpy(), []
    grid = capsules.numpy().reshape(2, 4, 5, 2, 3)
    for row in range(0, 3, 2):
        for column in range(0, 4, 2):
            window = grid[:, row : row + 2, column : column + 2].reshape(2, 8, 3)
            expected.append(oracle.capsule_layer(window, weight, 3))
    assert config.output_shape((40, 3)) == (12, 4)
    np.testing.assert_allclose(layer(capsules).detach(), np.concatenate(expected, 1), rtol=1e-11)


@pytest.mark.parametrize(
    ("primary", "layer", "message"),
    [
        (PrimaryConfig(2, 4, 3), EMConfig(3), r"takes \(capsules, 17\).* got \(8, 4\)"),
        (PrimaryConfig(2, 5, 3), EMConfig(3, 2), "em needs capsules with an activation, and prim"),
        (ActivatedConfig(2, 4, 3), DynamicConfig(3, 4), "dynamic does not take capsules with an"),
        (
            PrimaryConfig(2, 4, 3),
            ConvolutionalConfig((3, 3), 2, DynamicConfig(3, 4)),
            "a grid of 3x3 takes a multiple of 9 capsules",
        ),
        (
            PrimaryConfig(2, 4, 3),
            ConvolutionalConfig((2, 2), 3, DynamicConfig(3, 4)),
            "a kernel of 3 needs at least 3x3 positions, got 2x2",
        ),
    ],
)
def test_what_does_not_fit_is_refused(primary, layer, message):
    with pytest.raises(ConfigError, match=message):
        CapsNetConfig((1, 10, 10), ConvConfig(4, 5), primary, (layer,), None)


@pytest.mark.parametrize(
    ("grid", "layer", "message"),
    [
        ((0, 3), DynamicConfig(3, 4), "grid must be positive integers, got (0, 3)"),
        ((3,), DynamicConfig(3, 4), "grid must be (rows, columns), got (3,)"),
        ((2, 2.5), DynamicConfig(3, 4), "grid must be (rows, columns), got (2, 2.5)"),
        ((3, 3), "dynamic", "layer must be the configuration of a layer, got 'dynamic'"),
    ],
)
def test_a_grid_that_is_none_is_refused(grid, layer, message):
    with pytest.raises(ConfigError, match=re.escape(f"convolutional: {message}")):
        ConvolutionalConfig(grid, 2, layer)


def test_class_capsules_have_their_activation_as_length():
    config = CapsNetConfig(
        (1, 10, 10), ConvConfig(4, 5), ActivatedConfig(2, 4, 3, 2), (EMConfig(3, 2),), None
    )
    assert (config.classes, config.class_dim, config.activated) == (3, 4, True)
    import capsnet

    lengths, capsules = capsnet.CapsNet(config)(torch.rand(2, 1, 10, 10))
    assert lengths.shape == (2, 3)
    assert capsules.shape == (2, 3, 4)
    assert ((lengths > 0) & (lengths < 1)).all()

"""Squash and dynamic routing against the float64 oracle, and their behaviour at zero."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from support import oracle

from capsnet.layers.dense_routing import ROUTINGS, couple, pack_weight
from capsnet.layers.dynamic import DynamicConfig
from capsnet.layers.squash import squash

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def dynamic_routing(votes, iterations):
    """The readable layer's routing of votes ``[batch, in_capsules, out_capsules, dim]``."""
    _, inputs, outputs, dim = votes.shape
    return DynamicConfig(outputs, dim, iterations).build((inputs, dim)).route(votes)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 30.0, 1e6])
def test_squash_equals_the_papers_equation(scale):
    poses = scale * torch.randn(2, 5, 8, dtype=torch.float64)
    np.testing.assert_allclose(squash(poses), oracle.squash(poses), rtol=1e-13)


def test_squash_keeps_the_direction_and_makes_the_length_less_than_one():
    poses = torch.tensor([[3.0, 4.0]])
    torch.testing.assert_close(squash(poses), torch.tensor([[0.6, 0.8]]) * 25 / 26)


@pytest.mark.parametrize("dtype", DTYPES)
def test_squash_of_zero_is_zero_with_a_zero_gradient(dtype):
    poses = torch.zeros(2, 3, 4, dtype=dtype, requires_grad=True)
    squashed = squash(poses)
    squashed.sum().backward()
    assert squashed.dtype == dtype
    assert not squashed.any()
    assert not poses.grad.any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [1e-7, 1e-4, 1e-2, 1.0, 100.0])
def test_squash_is_accurate_to_the_rounding_of_its_type(dtype, length):
    direction = torch.nn.functional.normalize(torch.randn(50, 8, dtype=torch.float64), dim=-1)
    poses = (length * direction).to(dtype)
    exact = torch.from_numpy(oracle.squash(poses.double() + 1e-300))
    spacing = torch.finfo(dtype)
    error = (squash(poses).double() - exact).abs().max()
    assert error <= 4 * spacing.eps * exact.abs().max() + spacing.tiny


@pytest.mark.parametrize("iterations", [1, 2, 3, 4, 5])
def test_routing_equals_procedure_1(iterations):
    votes = torch.randn(3, 7, 4, 5, dtype=torch.float64)
    routed = dynamic_routing(votes, iterations)
    np.testing.assert_allclose(routed, oracle.dynamic_routing(votes, iterations), rtol=1e-12)


@pytest.mark.parametrize("form", [None, *ROUTINGS])
@pytest.mark.parametrize("leaky", [False, True])
@pytest.mark.parametrize("iterations", [1, 2, 4])
def test_bias_and_leaky_routing_equal_the_formulas_in_every_form(form, leaky, iterations):
    layer = DynamicConfig(4, 5, iterations, bias=True, leaky=leaky).build((7, 3)).double()
    torch.nn.init.normal_(layer.bias)
    capsules = 2 * torch.randn(3, 7, 3, dtype=torch.float64)
    with torch.no_grad():
        votes = torch.einsum("bid,idoh->bioh", capsules, layer.weight)
        expected = oracle.dynamic_routing(votes, iterations, layer.bias, leaky)
        found = layer(capsules)
        if form is not None:
            weight = pack_weight(layer.weight)
            found = ROUTINGS[form](capsules.mT, weight, layer.iterations, layer.bias, leaky)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_leaky_couplings_sum_to_less_than_one():
    layer = DynamicConfig(4, 5, leaky=True).build((7, 3))
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0], dtype=torch.float64)
    expected = logits.exp() / (1 + logits.exp().sum())
    torch.testing.assert_close(layer.couple(logits[None, None])[0, 0], expected)
    for far in (1000 * logits, -1000 * logits):  # finite where an exponential alone would not be
        assert layer.couple(far[None, None]).isfinite().all()
        torch.testing.assert_close(couple(far, 0, leaky=True), layer.couple(far[None, None])[0, 0])


def test_every_iteration_changes_the_result():
    votes = torch.randn(3, 7, 4, 5, dtype=torch.float64)
    results = [dynamic_routing(votes, iterations) for iterations in range(1, 6)]
    for earlier, later in pairwise(results):
        assert (earlier - later).abs().max() > 1e-4


def test_routing_couples_the_input_capsules_to_the_output_that_they_agree_on():
    # Three inputs vote alike for output 0; for output 1 their votes cancel.
    votes = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]] * 3)[None]
    votes[0, :, 1] = torch.tensor([[2.0, 0.0], [-1.0, 1.7], [-1.0, -1.7]])
    lengths = [dynamic_routing(votes, n).norm(dim=-1)[0] for n in (1, 3)]
    assert lengths[1][0] > lengths[0][0]
    assert lengths[1][0] > lengths[1][1]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [0.0, 1e-4, 1.0])
def test_routing_is_finite_with_finite_gradients_in_every_type(dtype, scale):
    votes = (scale * torch.randn(2, 6, 3, 4)).to(dtype).requires_grad_()
    routed = dynamic_routing(votes, 3)
    routed.sum().backward()
    assert routed.dtype == dtype
    assert routed.isfinite().all()
    assert votes.grad.isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_votes_route_to_zero_capsules(dtype):
    routed = dynamic_routing(torch.zeros(2, 6, 3, 4, dtype=dtype), 3)
    assert routed.shape == (2, 3, 4)
    assert not routed.any()


def test_one_capsule_of_zeros_among_others_leaves_the_others_as_they_were():
    votes = torch.randn(1, 6, 3, 4, dtype=torch.float64)
    with_zero = torch.cat([votes, torch.zeros_like(votes[:, :1])], dim=1)
    torch.testing.assert_close(dynamic_routing(with_zero, 3), dynamic_routing(votes, 3))

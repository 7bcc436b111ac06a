"""Couplings are those of the routing, and lie where the capsules see the image."""

import dataclasses

import numpy as np
import pytest
import torch
from support.networks import SMALL, lively_model, random_images, with_layers
from support.oracle import squash

from capsnet.layers.activated import ActivatedConfig
from capsnet.layers.attention import AttentionConfig
from capsnet.layers.convolutional import ConvolutionalConfig
from capsnet.layers.dynamic import DynamicConfig
from capsnet.layers.em import EMConfig
from capsnet.model import CapsNet
from capsnet.runtime.show.coupling import couplings_of, grid_of, places_of, why_no_couplings


def routed_couplings(votes, iterations):
    """Procedure 1 in plain loops; votes ``[in, out, dim]``, couplings ``[iterations, in, out]``."""
    logits = np.zeros(votes.shape[:2])
    found = []
    for _ in range(iterations):
        coupling = np.array([np.exp(row) / np.exp(row).sum() for row in logits])
        found.append(coupling)
        outputs = squash(sum(c[:, None] * own for c, own in zip(coupling, votes, strict=True)))
        logits = logits + np.array([(own * outputs).sum(axis=1) for own in votes])
    return np.array(found)


def changed(**parts):
    return dataclasses.replace(SMALL, decoder=None, **parts)


def test_couplings_are_those_of_procedure_1():
    model = lively_model(SMALL).double()
    images = torch.from_numpy(random_images(SMALL, 2)).double()
    found = couplings_of(model, images).numpy()
    assert found.shape == (2, 3, 3, 3, 5)
    with torch.no_grad():
        capsules = model.primary(model.stem(images)).numpy()
    weight = model.capsule_layers[0].weight.detach().numpy()
    for image in range(2):
        votes = np.array(
            [np.tensordot(c, w, 1) for c, w in zip(capsules[image], weight, strict=True)]
        )
        expected = routed_couplings(votes, 3)
        for position in range(9):
            own = expected[:, 2 * position : 2 * position + 2].mean(axis=1)  # two groups
            got = found[image, :, position // 3, position % 3]
            np.testing.assert_allclose(got, own, rtol=1e-9)
    assert np.allclose(found[:, 0], 0.2)
    assert not np.allclose(found[:, 2], 0.2, atol=1e-3)


def test_positions_lie_in_the_middle_of_what_they_see():
    # A 5x5 kernel, then one of 3x3 at every second position: 7x7 pixels, two apart.
    places = places_of(lively_model(SMALL))
    assert places.field == (7, 7)
    assert places.rows == places.columns == (3.0, 5.0, 7.0)


def test_em_routing_starts_uniform():
    primary = ActivatedConfig(groups=2, dim=4, kernel=3, stride=2)
    model = CapsNet(changed(primary=primary, capsule_layers=(EMConfig(5, pose=2),)))
    found = couplings_of(model, torch.from_numpy(random_images(SMALL, 2)))
    assert found.shape == (2, 3, 3, 3, 5)
    assert torch.allclose(found[:, 0], torch.tensor(0.2))
    assert torch.allclose(found.sum(dim=-1), torch.tensor(1.0))
    assert not torch.allclose(found[:, 1], found[:, 0], atol=1e-6)


def test_capsules_of_a_convolutional_layer_stand_on_its_grid():
    convolutional = ConvolutionalConfig((3, 3), 2, DynamicConfig(4, 6))
    model = CapsNet(changed(capsule_layers=(convolutional, DynamicConfig(5, 6))))
    assert why_no_couplings(model) is None
    assert grid_of(model) == (2, 2)
    assert couplings_of(model, torch.from_numpy(random_images(SMALL, 1))).shape == (1, 3, 2, 2, 5)
    assert places_of(model).field == (9, 9)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (changed(capsule_layers=(AttentionConfig(5, 6),)), "attention, which has no routing"),
        (with_layers(SMALL, (7, 4, 2), (5, 6, 3)), "at no place of the image (dynamic)"),
        (
            changed(
                primary=ActivatedConfig(groups=2, dim=4, kernel=3),
                capsule_layers=(EMConfig(5, pose=2, routing_iterations=1),),
            ),
            "one iteration of EM routing",
        ),
    ],
)
def test_network_without_couplings_says_why(config, why):
    assert why in why_no_couplings(CapsNet(config))

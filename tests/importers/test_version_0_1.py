"""Configurations that version 0.1 of the toolkit wrote are today's, value by value."""

import json
import re

import pytest
from support.networks import altered, network

from capsnet.config import CapsNetConfig, preset
from capsnet.errors import ConfigError
from capsnet.importers.version_0_1 import from_flat, is_flat
from capsnet.layers.dynamic import DynamicConfig

MNIST = {
    "capsule_layers": [{"capsules": 10, "dim": 16, "routing_iterations": 3}],
    "decoder_sizes": [512, 1024],
    "image_shape": [1, 28, 28],
    "primary_activation": "scale",
    "primary_dim": 8,
    "primary_groups": 32,
    "primary_kernel": 9,
    "primary_stride": 2,
    "stem_channels": 256,
    "stem_kernel": 9,
}
"""As the bundled checkpoint holds it."""


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, preset("mnist")),
        ({"image_shape": [3, 32, 32]}, preset("cifar10")),
        ({"stem_channels": 8, "stem_kernel": 7}, network(stem_channels=8, stem_kernel=7)),
        (
            {"primary_groups": 4, "primary_dim": 6, "primary_kernel": 5, "primary_stride": 3},
            network(primary_groups=4, primary_dim=6, primary_kernel=5, primary_stride=3),
        ),
        ({"primary_activation": "squash"}, network(primary_activation="squash")),
        ({"decoder_sizes": None}, network(decoder_sizes=None)),
        ({"decoder_sizes": [7]}, network(decoder_sizes=(7,))),
        (
            {
                "capsule_layers": [
                    {"capsules": 6, "dim": 5, "routing_iterations": 2},
                    {"capsules": 4, "dim": 3, "routing_iterations": 1},
                ]
            },
            network(capsule_layers=(DynamicConfig(6, 5, 2), DynamicConfig(4, 3, 1))),
        ),
    ],
)
def test_a_flat_configuration_equals_todays(changes, expected):
    flat = MNIST | changes
    assert is_flat(flat)
    assert CapsNetConfig.from_dict(flat) == expected
    assert CapsNetConfig.from_json(json.dumps(flat)) == expected
    assert not is_flat(json.loads(expected.to_json()))


@pytest.mark.parametrize("key", sorted(set(MNIST) - {"capsule_layers", "image_shape"}))
def test_one_flat_key_is_enough_and_the_rest_has_its_defaults(key):
    alone = {key: MNIST[key]}
    assert is_flat(alone)
    assert CapsNetConfig.from_dict(alone) == preset("mnist")


def test_values_are_left_as_they_were():
    flat = json.loads(json.dumps(MNIST))
    from_flat(flat)
    assert flat == MNIST


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (MNIST | {"colour": "red"}, "colour is not known, expected image_shape, stem"),
        (MNIST | {"stem_kernel": "9"}, "stem.kernel: expected int, got '9'"),
        (MNIST | {"decoder_sizes": 512}, "decoder.hidden: expected a list, got 512"),
        (MNIST | {"capsule_layers": [{"capsules": 3}]}, "capsule_layers[0].dim is missing"),
        (MNIST | {"capsule_layers": None}, "does not describe a CapsNet"),
        # A mixture of both forms would lose one of the two stems.
        (
            {"stem_channels": 8, "stem": {"kind": "conv", "kernel": 7}},
            "stem_channels is not known, expected image_shape, stem",
        ),
        ({"decoder_sizes": [8], "decoder": None}, "decoder_sizes is not known"),
    ],
)
def test_values_that_are_of_no_version_are_refused(values, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        CapsNetConfig.from_dict(values)


def test_todays_configurations_are_not_taken_for_flat_ones():
    for config in (preset("tiny"), altered(preset("tiny"), decoder_sizes=None)):
        assert not is_flat(json.loads(config.to_json()))
    assert not is_flat({})

"""Configurations: what they refuse, what they derive, and their JSON."""

import dataclasses
import json
import re

import pytest
import torch
from support.networks import altered, network

from capsnet.config import CapsNetConfig, preset
from capsnet.errors import ConfigError
from capsnet.layers.dynamic import DynamicConfig
from capsnet.model import CapsNet
from capsnet.presets import PRESETS

STACK = network(
    image_shape=(3, 20, 32),
    primary_activation="squash",
    capsule_layers=(DynamicConfig(12, 6, 2), DynamicConfig(5, 4)),
    decoder_sizes=None,
)
INTEGERS = [
    "stem_channels",
    "stem_kernel",
    "primary_groups",
    "primary_dim",
    "primary_kernel",
    "primary_stride",
]


def parameters(config):
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in CapsNet(config).parameters())


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("value", [0, -1, 2.0, "9", None, True])
def test_sizes_must_be_positive_integers(name, value):
    part, _, key = name.partition("_")
    kind = {"stem": "conv", "primary": "primary"}[part]
    message = re.escape(f"{kind}: {key} must be a positive integer, got {value!r}")
    with pytest.raises(ConfigError, match=message):
        network(**{name: value})


@pytest.mark.parametrize("name", ["capsules", "dim", "routing_iterations"])
@pytest.mark.parametrize("value", [0, -3, 1.5, "3", None, False])
def test_a_capsule_layers_sizes_must_be_positive_integers(name, value):
    message = re.escape(f"dynamic: {name} must be a positive integer, got {value!r}")
    with pytest.raises(ConfigError, match=message):
        DynamicConfig(**{"capsules": 10, "dim": 16, name: value})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_shape": (28, 28)}, "image_shape must be (channels, height, width), got (28, 28)"),
        ({"image_shape": [1, 28, 28]}, "image_shape must be (channels, height, width), got [1, 28"),
        ({"image_shape": None}, "image_shape must be (channels, height, width), got None"),
        ({"image_shape": (0, 28, 28)}, "image_shape: channels must be a positive integer, got 0"),
        ({"image_shape": (1, -2, 28)}, "image_shape: height must be a positive integer, got -2"),
        ({"image_shape": (1, 28, 2.5)}, "image_shape: width must be a positive integer, got 2.5"),
        ({"primary_activation": "relu"}, "must be one of scale, squash, got 'relu'"),
        ({"primary_activation": None}, "must be one of scale, squash, got None"),
        ({"capsule_layers": ()}, "must be a tuple of at least one layer, the classes, got ()"),
        ({"capsule_layers": [DynamicConfig(10, 16)]}, "must be a tuple of at least one layer"),
        (
            {"capsule_layers": ((10, 16),)},
            "layer0 must be the configuration of a layer, got (10, 16)",
        ),
        ({"capsule_layers": (DynamicConfig(1, 16),)}, "it needs at least 2"),
        ({"decoder_sizes": ()}, "a tuple of at least one size (no decoder at all is None), got ()"),
        ({"decoder_sizes": [512]}, "(no decoder at all is None), got [512]"),
        ({"decoder_sizes": (512, 0)}, "decoder: hidden must be positive integers, got 0"),
        (
            {"image_shape": (1, 16, 28)},
            "primary_capsules: no pixels are left: a kernel of 9 needs at least 9x9 positions, "
            "got 8x20",
        ),
        (
            {"image_shape": (1, 28, 5)},
            "stem: no pixels are left: a kernel of 9 needs at least 9x9 positions, got 28x5",
        ),
    ],
)
def test_a_network_that_cannot_exist_is_refused_with_the_reason(values, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        network(**values)


def test_the_smallest_image_that_has_a_position_works():
    config = network(image_shape=(1, 17, 17))
    assert config.shapes == ((1, 17, 17), (256, 9, 9), (32, 8), (10, 16))


@pytest.mark.parametrize("config", [*map(preset, PRESETS), STACK], ids=[*PRESETS, "stack"])
def test_json_gives_the_same_configuration_back(config):
    text = config.to_json()
    assert "\n" not in text
    assert list(json.loads(text)) == sorted(json.loads(text))
    restored = CapsNetConfig.from_json(text)
    assert restored == config
    assert hash(restored) == hash(config)


def test_keys_that_json_leaves_out_have_their_defaults():
    assert CapsNetConfig.from_json('{"stem_channels": 8}') == network(stem_channels=8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "the configuration is not JSON"),
        ("[" * 100_000, "the configuration is not JSON"),
        ("[1, 2]", "expected an object, got [1, 2]"),
        ("null", "expected an object, got None"),
        ('{"colour": "red"}', "colour is not known, expected image_shape, stem, primary"),
        (
            '{"capsule_layers": [{"kind": "dynamic", "capsules": 10, "dim": 16, "routing": 3}]}',
            "capsule_layers[0].routing is not known",
        ),
        ('{"capsule_layers": [{"kind": "toy"}]}', "'toy' is no kind of layer, expected one of "),
        ('{"capsule_layers": [{}]}', "None is no kind of layer"),
        (
            '{"capsule_layers": [{"kind": "dynamic", "capsules": 10}]}',
            "capsule_layers[0].dim is missing",
        ),
        ('{"capsule_layers": [3]}', "does not describe a CapsNet"),
        ('{"capsule_layers": 3}', "does not describe a CapsNet"),
        ('{"capsule_layers": null}', "capsule_layers: expected a list, got None"),
        ('{"capsule_layers": []}', "capsule_layers must be a tuple"),
        ('{"image_shape": 28}', "does not describe a CapsNet"),
        ('{"image_shape": "big"}', "image_shape: expected a list, got 'big'"),
        ('{"stem_kernel": 9.0}', "stem.kernel: expected int, got 9.0"),
    ],
)
def test_json_that_describes_no_network_is_refused(text, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        CapsNetConfig.from_json(text)


def test_configurations_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        preset("tiny").stem = None
    with pytest.raises(dataclasses.FrozenInstanceError):
        preset("tiny").capsule_layers[0].dim = 3


@pytest.mark.parametrize(
    ("config", "stem", "primary", "classes", "class_dim"),
    [
        (preset("mnist"), (256, 20, 20), (1152, 8), 10, 16),
        (preset("cifar10"), (256, 24, 24), (2048, 8), 10, 16),
        (preset("tiny"), (8, 20, 20), (144, 4), 10, 8),
        (STACK, (256, 12, 24), (512, 8), 5, 4),
        (network(primary_stride=3), (256, 20, 20), (512, 8), 10, 16),
        (network(stem_kernel=3, primary_kernel=5), (256, 26, 26), (3872, 8), 10, 16),
    ],
)
def test_derived_sizes(config, stem, primary, classes, class_dim):
    assert config.shapes[1:3] == (stem, primary)
    assert config.shapes[-1] == (classes, class_dim)
    assert config.classes == classes
    assert config.class_dim == class_dim


def test_the_mnist_preset_has_the_papers_number_of_parameters():
    assert parameters(preset("mnist")) == 8_215_568
    assert parameters(altered(preset("mnist"), decoder_sizes=None)) == 6_804_224


def test_the_tiny_preset_is_tiny():
    assert parameters(preset("tiny")) < 100_000

"""Configurations: what they refuse, what they derive, and their JSON."""

import dataclasses
import json
import re

import pytest
import torch

from capsnet.config import PRESETS, CapsNetConfig, CapsuleLayerConfig
from capsnet.errors import ConfigError
from capsnet.model import CapsNet

STACK = CapsNetConfig(
    image_shape=(3, 20, 32),
    primary_activation="squash",
    capsule_layers=(CapsuleLayerConfig(12, 6, 2), CapsuleLayerConfig(5, 4)),
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
    message = re.escape(f"{name} must be a positive integer, got {value!r}")
    with pytest.raises(ConfigError, match=message):
        CapsNetConfig(**{name: value})


@pytest.mark.parametrize("name", ["capsules", "dim", "routing_iterations"])
@pytest.mark.parametrize("value", [0, -3, 1.5, "3", None, False])
def test_a_capsule_layers_sizes_must_be_positive_integers(name, value):
    message = re.escape(f"capsule layer: {name} must be a positive integer, got {value!r}")
    with pytest.raises(ConfigError, match=message):
        CapsuleLayerConfig(**{"capsules": 10, "dim": 16, name: value})


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
        ({"capsule_layers": [CapsuleLayerConfig(10, 16)]}, "must be a tuple of at least one layer"),
        ({"capsule_layers": ((10, 16),)}, "must hold CapsuleLayerConfig, got (10, 16)"),
        ({"capsule_layers": (CapsuleLayerConfig(1, 16),)}, "it needs at least 2"),
        ({"decoder_sizes": ()}, "a tuple of at least one hidden size, or None for no decoder"),
        ({"decoder_sizes": [512]}, "or None for no decoder, got [512]"),
        ({"decoder_sizes": (512, 0)}, "decoder_sizes must be a positive integer, got 0"),
        (
            {"image_shape": (1, 16, 28)},
            "kernels of 9 and 9 need images of at least 17x17, got 16x28",
        ),
        ({"image_shape": (1, 28, 5)}, "need images of at least 17x17, got 28x5"),
    ],
)
def test_a_network_that_cannot_exist_is_refused_with_the_reason(values, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        CapsNetConfig(**values)


def test_the_smallest_image_that_the_message_names_works():
    config = CapsNetConfig(image_shape=(1, 17, 17))
    assert config.primary_grid == (1, 1)
    assert config.primary_capsules == 32


@pytest.mark.parametrize("config", [*PRESETS.values(), STACK], ids=[*PRESETS, "stack"])
def test_json_gives_the_same_configuration_back(config):
    text = config.to_json()
    assert "\n" not in text
    assert list(json.loads(text)) == sorted(json.loads(text))
    restored = CapsNetConfig.from_json(text)
    assert restored == config
    assert hash(restored) == hash(config)


def test_keys_that_json_leaves_out_have_their_defaults():
    assert CapsNetConfig.from_json('{"stem_channels": 8}') == CapsNetConfig(stem_channels=8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "the configuration is not JSON"),
        ("[" * 100_000, "the configuration is not JSON"),
        ("[1, 2]", "must be a JSON object, got [1, 2]"),
        ("null", "must be a JSON object, got None"),
        ('{"colour": "red"}', "unexpected keyword argument 'colour'"),
        ('{"capsule_layers": [{"capsules": 10, "dim": 16, "routing": 3}]}', "'routing'"),
        ('{"capsule_layers": [{"capsules": 10}]}', "'dim'"),
        ('{"capsule_layers": [3]}', "does not describe a CapsNet"),
        ('{"capsule_layers": 3}', "does not describe a CapsNet"),
        ('{"capsule_layers": null}', "capsule_layers must be a tuple"),
        ('{"capsule_layers": []}', "capsule_layers must be a tuple"),
        ('{"image_shape": 28}', "does not describe a CapsNet"),
        ('{"image_shape": "big"}', "image_shape: channels must be a positive integer, got 'b'"),
        ('{"stem_kernel": 9.0}', "stem_kernel must be a positive integer, got 9.0"),
    ],
)
def test_json_that_describes_no_network_is_refused(text, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        CapsNetConfig.from_json(text)


def test_configurations_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PRESETS["tiny"].stem_channels = 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        PRESETS["tiny"].capsule_layers[0].dim = 3


@pytest.mark.parametrize(
    ("config", "stem_grid", "primary_grid", "primary_capsules", "classes", "class_dim"),
    [
        (PRESETS["mnist"], (20, 20), (6, 6), 1152, 10, 16),
        (PRESETS["cifar10"], (24, 24), (8, 8), 2048, 10, 16),
        (PRESETS["tiny"], (20, 20), (6, 6), 144, 10, 8),
        (STACK, (12, 24), (2, 8), 512, 5, 4),
        (CapsNetConfig(primary_stride=3), (20, 20), (4, 4), 512, 10, 16),
        (CapsNetConfig(stem_kernel=3, primary_kernel=5), (26, 26), (11, 11), 3872, 10, 16),
    ],
)
def test_derived_sizes(config, stem_grid, primary_grid, primary_capsules, classes, class_dim):
    assert config.stem_grid == stem_grid
    assert config.primary_grid == primary_grid
    assert config.primary_capsules == primary_capsules
    assert config.classes == classes
    assert config.class_dim == class_dim


def test_the_mnist_preset_has_the_papers_number_of_parameters():
    assert parameters(PRESETS["mnist"]) == 8_215_568
    assert parameters(dataclasses.replace(PRESETS["mnist"], decoder_sizes=None)) == 6_804_224


def test_the_tiny_preset_is_tiny():
    assert parameters(PRESETS["tiny"]) < 100_000

"""Kinds of layers: each has a module that the table names, and a configuration in JSON."""

import dataclasses
import importlib
import json
import pkgutil
import re
import subprocess
import sys

import pytest

import capsnet.importers
import capsnet.layers
from capsnet.documents import from_values, to_values
from capsnet.errors import ConfigError
from capsnet.importers.adambielski import TrainedLogitsConfig
from capsnet.importers.cedrickchee import AcrossCapsulesConfig, NormalisedConfig
from capsnet.importers.gram_ai import InputCoupledConfig, SoftmaxLengthsConfig
from capsnet.importers.keras import KerasDynamicConfig, KerasLengthsConfig, KerasPrimaryConfig
from capsnet.layers import KINDS
from capsnet.layers.activated import ActivatedConfig
from capsnet.layers.attention import AttentionConfig
from capsnet.layers.base import AnyDecoderConfig, Kind, LayerConfig, require_positive
from capsnet.layers.convolutional import ConvolutionalConfig
from capsnet.layers.convolutions import Convolution, ConvolutionsConfig
from capsnet.layers.decoder import DecoderConfig
from capsnet.layers.depthwise import DepthwiseConfig
from capsnet.layers.dynamic import DynamicConfig
from capsnet.layers.em import EMConfig
from capsnet.layers.primary import PrimaryConfig
from capsnet.layers.self_routing import SelfRoutingConfig
from capsnet.layers.stem import ConvConfig
from capsnet.layers.transposed import TransposedConfig

LAYERS = {
    "conv": ConvConfig(),
    "primary": PrimaryConfig(),
    "dynamic": DynamicConfig(10, 16),
    "convolutions": ConvolutionsConfig((Convolution(4, 3, batch_norm=True),)),
    "depthwise": DepthwiseConfig(),
    "attention": AttentionConfig(10, 16),
    "activated": ActivatedConfig(),
    "self-routing": SelfRoutingConfig(10, 16),
    "em": EMConfig(10),
    "convolutional": ConvolutionalConfig((6, 6), 3, SelfRoutingConfig(8, 16), 2),
    "dense": DecoderConfig((7, 8), alone=True),
    "transposed": TransposedConfig((5, 4)),
    "trained-logits": TrainedLogitsConfig(10, 16, 4),
    "input-coupled": InputCoupledConfig(10, 16),
    "softmax-lengths": SoftmaxLengthsConfig(),
    "normalised": NormalisedConfig(8, 5, 0.1307, 0.3081),
    "across-capsules": AcrossCapsulesConfig(4, 8),
    "keras-primary": KerasPrimaryConfig(4, 8),
    "keras-dynamic": KerasDynamicConfig(10, 16),
    "keras-lengths": KerasLengthsConfig(),
}


def test_the_table_lists_every_module_that_defines_a_kind():
    found = {}
    for package in (capsnet.layers, capsnet.importers):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            for value in vars(importlib.import_module(module.name)).values():
                if isinstance(value, type) and issubclass(value, Kind) and "kind" in vars(value):
                    found[value.kind] = value.__module__
    assert found == KINDS


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_found_without_importing_its_module_first(kind):
    code = (
        "from capsnet.layers.base import Kind; Kind.sort = 'any'; "
        f"print(Kind.of_kind({kind!r}).__module__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == KINDS[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_a_configuration_comes_back_from_json_by_its_kind(kind):
    values = json.loads(json.dumps(to_values(LAYERS[kind])))
    assert values["kind"] == kind
    sort = AnyDecoderConfig if kind in ("dense", "transposed") else LayerConfig
    assert from_values(sort, values) == LAYERS[kind]
    assert from_values(type(LAYERS[kind]), values) == LAYERS[kind]


@pytest.mark.parametrize("kind", ["toy", "", None, 3, ["conv"]])
def test_an_unknown_kind_is_refused(kind):
    message = f"{kind!r} is no kind of layer, expected one of "
    with pytest.raises(ValueError, match=re.escape(message)):
        LayerConfig.of_kind(kind)


def test_another_sort_of_layer_is_refused_where_one_is_asked_for():
    with pytest.raises(ValueError, match="'conv' is no kind of layer"):
        DynamicConfig.of_kind("conv")


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (ConvConfig(5, 3), (2, 9, 11), (5, 7, 9)),
        (PrimaryConfig(3, 4, 3, 2), (5, 7, 9), (3 * 4 * 3, 4)),
        (DynamicConfig(6, 5), (36, 4), (6, 5)),
        (ConvolutionsConfig((Convolution(4, 3, 2, 1), Convolution(5, 2))), (2, 9, 11), (5, 4, 5)),
        (DepthwiseConfig(2, 3, 2), (6, 9, 7), (3 * 4 * 3, 2)),
        (AttentionConfig(6, 5), (36, 4), (6, 5)),
        (ActivatedConfig(3, 4, 3, 2), (5, 7, 9), (3 * 4 * 3, 5)),
        (SelfRoutingConfig(6, 5), (36, 4), (6, 6)),
        (EMConfig(6, 2), (36, 5), (6, 5)),
        (ConvolutionalConfig((4, 3), 2, DynamicConfig(6, 5)), (36, 4), (3 * 2 * 6, 5)),
        (TrainedLogitsConfig(6, 5), (36, 4), (6, 5)),
        (InputCoupledConfig(6, 5), (36, 4), (6, 5)),
        (SoftmaxLengthsConfig(), (36, 4), (36, 5)),
        (NormalisedConfig(5, 3, 0.5, 0.5), (2, 9, 11), (5, 7, 9)),
        (AcrossCapsulesConfig(3, 4, 3, 2), (5, 7, 9), (3 * 4 * 3, 4)),
        (KerasPrimaryConfig(3, 4, 3, 2), (5, 7, 9), (3 * 4 * 3, 4)),
        (KerasDynamicConfig(6, 5), (36, 4), (6, 5)),
        (KerasLengthsConfig(), (36, 4), (36, 5)),
    ],
)
def test_a_layer_gives_the_shape_that_its_configuration_says(layer, shape, expected):
    import torch

    assert layer.output_shape(shape) == expected
    built = layer.build(shape)
    assert built(torch.zeros(2, *shape)).shape == (2, *expected)


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (ConvConfig(), (36, 4), "a convolution takes (channels, height, width), got (36, 4)"),
        (PrimaryConfig(), (36, 4), "a convolution takes (channels, height, width), got (36, 4)"),
        (DynamicConfig(6, 5), (5, 7, 9), "a capsule layer takes (capsules, dim), got (5, 7, 9)"),
        (ConvConfig(5, 9), (1, 9, 8), "a kernel of 9 needs at least 9x9 positions, got 9x8"),
    ],
)
def test_a_layer_refuses_what_it_cannot_take(layer, shape, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        layer.output_shape(shape)


FUTURE = """
from __future__ import annotations
from dataclasses import dataclass
from torch import nn
from capsnet.layers.base import LayerConfig, require_positive

@dataclass(frozen=True)
class FutureConfig(LayerConfig, kind="future"):
    capsules: int
    def __post_init__(self):
        require_positive(self)
    def output_shape(self, shape):
        return shape
    def build(self, shape):
        return nn.Identity()
"""


@pytest.mark.parametrize("value", [0, -1, 2.0, True, "3"])
def test_numbers_are_checked_in_modules_with_postponed_annotations(value, tmp_path, monkeypatch):
    (tmp_path / "own_layer_of_the_future.py").write_text(FUTURE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(LayerConfig._known, "future", raising=False)
    own = importlib.import_module("own_layer_of_the_future")
    monkeypatch.delitem(sys.modules, "own_layer_of_the_future")
    monkeypatch.setitem(LayerConfig._known, "future", own.FutureConfig)
    assert own.FutureConfig(3).build((3, 4))(5) == 5
    with pytest.raises(ConfigError, match="future: capsules must be a positive integer"):
        own.FutureConfig(value)


def test_what_is_no_number_is_not_checked():
    @dataclasses.dataclass(frozen=True)
    class Mixed:
        capsules: int = 2
        name: str = "x"
        kind = "mixed"

    require_positive(Mixed())
    with pytest.raises(ConfigError, match="mixed: capsules must be a positive integer, got 0"):
        require_positive(Mixed(capsules=0))

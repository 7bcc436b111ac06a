"""Networks as TOML files: printed with what every field means, read, changed, refused by line."""

import dataclasses
import re
import tomllib

import pytest
from click.testing import CliRunner

from capsnet.cli.commands import cli
from capsnet.config import CapsNetConfig, preset
from capsnet.config_file import (
    _documentation,
    changed,
    config_values,
    network_of,
    read_values,
    to_toml,
)
from capsnet.errors import ConfigError
from capsnet.layers import KINDS
from capsnet.layers.base import AnyDecoderConfig, LayerConfig
from capsnet.presets import PRESETS


def read(path, *settings):
    values, lines = read_values(path)
    return network_of(changed(values, settings), str(path), lines)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("decoder", [True, False])
def test_printed_network_is_read_back(tmp_path, name, decoder):
    config = preset(name)
    if not decoder:
        config = network_of(changed(config_values(config), ["decoder=none"]))
        assert config.decoder is None
    (tmp_path / "net.toml").write_text(to_toml(config))
    assert read(tmp_path / "net.toml") == config


@pytest.mark.parametrize("name", PRESETS)
def test_every_field_of_every_preset_is_documented(name):
    lines = to_toml(preset(name)).splitlines()
    seen = set()
    for before, line in zip(["", *lines], lines, strict=False):
        table = re.match(r"\[+([\w.]+)\]+", line)
        if table:
            current = table[1]
        key = re.match(r"(\w+) =", line)
        if key:
            place = (current if "[" in "".join(lines[: lines.index(line)]) else "", key[1])
            if place not in seen:
                assert before.startswith("# "), line
            seen.add(place)
    assert len(seen) >= 8


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_layer_documents_its_fields(name):
    try:
        kind = LayerConfig.of_kind(name)
    except ValueError:
        kind = AnyDecoderConfig.of_kind(name)
    fields = {field.name for field in dataclasses.fields(kind)}
    assert fields <= _documentation(kind).keys()


def test_keys_are_set():
    settings = ["stem.channels=128", "capsule_layers[0].dim = 12", 'primary.activation="squash"']
    config = network_of(changed(config_values(preset("mnist")), settings))
    assert config.stem.channels == 128
    assert config.capsule_layers[0].dim == 12
    assert config.primary.activation == "squash"
    assert network_of(changed(config_values(preset("mnist")), [])) == CapsNetConfig()


@pytest.mark.parametrize(
    ("setting", "match"),
    [
        ("stem.channels", "expected KEY=VALUE"),
        ("=3", "expected KEY=VALUE"),
        ("steam.channels=3", "the network has no steam.channels; `capsnet config`"),
        ("capsule_layers[4].dim=3", r"the network has no capsule_layers\[4\].dim"),
        ("stem.chanels=3", "stem.chanels is not known, expected channels, kernel"),
        ("stem.channels=many", "stem.channels: expected int, got 'many'"),
        ("stem.channels=0", "channels must be a positive integer"),
    ],
)
def test_settings_that_mean_nothing_are_refused(setting, match):
    with pytest.raises(ConfigError, match=match):
        network_of(changed(config_values(preset("mnist")), [setting]))


TEXT = """image_shape = [1, 28, 28]

[stem]
kind = "conv"
channels = 8

[primary]
kind = "primary"
groups = 4
dim = 4

[[capsule_layers]]
kind = "dynamic"
capsules = 12
dim = 6

[[capsule_layers]]
kind = "dynamic"
capsules = 3
dim = 8
"""


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("channels = 8", 'channels = "8"', r"line 5: stem\.channels: .*expected int, got '8'"),
        ("channels = 8", "chanels = 8", r"line 5: stem\.chanels: .*is not known"),
        ("channels = 8", "channels = -8", r"line 5: stem\.channels: .*positive integer"),
        ('"primary"', '"primery"', r"line 8: primary\.kind: "),
        ("dim = 8", "dim = 0", r"line 20: capsule_layers\[1\]\.dim: .*positive integer"),
        ("capsules = 12", "capsules = 1.5", r"line 14: capsule_layers\[0\]\.capsules: "),
        ("[1, 28, 28]", "[1, 28]", "line 1: image_shape: "),
        ("[1, 28, 28]", "[1, 9, 9]", "primary_capsules: "),
        ("dim = 4", "dim = ", r"not TOML: .*line 10"),
        ("[stem]", "[steam]", "steam is not known"),
    ],
)
def test_errors_name_the_key_and_the_line(tmp_path, old, new, match):
    path = tmp_path / "net.toml"
    path.write_text(TEXT)
    assert read(path).classes == 3
    path.write_text(TEXT.replace(old, new, 1))
    with pytest.raises(ConfigError, match=match) as caught:
        read(path)
    assert "net.toml" in str(caught.value)


def test_command_prints_what_train_reads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["config", "--preset", "cifar10", "--set", "stem.channels=12"]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 0
    assert tomllib.loads(result.stdout)["stem"]["channels"] == 12
    result = CliRunner().invoke(cli, [*command, "--json", "-"])
    assert '"channels": 12' in result.stdout
    (tmp_path / "net.toml").write_text(TEXT.replace("channels = 8", "channels = 0"))
    train = ["train", "--data", ".", "--output", "a.safetensors", "--config", "net.toml"]
    both = CliRunner().invoke(cli, [*train, "--preset", "tiny"])
    assert both.exit_code == 2
    result = CliRunner().invoke(cli, train)
    assert "net.toml, line 5: stem.channels: " in str(result.exception)

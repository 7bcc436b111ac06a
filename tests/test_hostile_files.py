"""Checkpoints, configurations, images and messages that were made to do harm."""

import dataclasses
import io
import os
import struct
import zipfile

import numpy as np
import pytest
import torch

from capsnet.artifact import ArtifactMetadata
from capsnet.checkpoint import load_checkpoint
from capsnet.config import CapsNetConfig
from capsnet.data.stream import stream_images
from capsnet.documents import parse_json
from capsnet.errors import ArtifactError, CheckpointError, ConfigError, DataError, printable
from capsnet.files import file_sha256, read_file
from capsnet.layers.decoder import DecoderConfig
from capsnet.layers.dynamic import DynamicConfig


@pytest.fixture
def pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    return tmp_path / "pipe.png"


def test_only_regular_files_are_read(pipe, tmp_path):
    for path in (pipe, "/dev/zero"):
        for read in (read_file, file_sha256):
            with pytest.raises(OSError, match="not a regular file"):
                read(type(pipe)(path))
    with pytest.raises(IsADirectoryError):
        read_file(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "file").write_bytes(b"abc")
    assert read_file(tmp_path / "link") == b"abc"


def test_a_pipe_is_no_checkpoint(pipe):
    with pytest.raises(CheckpointError, match="not a regular file"):
        load_checkpoint(pipe)


@pytest.mark.parametrize("inside", [True, False])
def test_a_pipe_is_no_image(pipe, inside):
    with pytest.raises(DataError, match="not a regular file"):
        list(stream_images(pipe.parent if inside else pipe, (1, 4, 4)))


def test_a_compressed_checkpoint_is_refused(tmp_path):
    path = tmp_path / "model.pt"
    plain = io.BytesIO()
    torch.save({"weight": torch.zeros(1 << 20)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w", 8) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    assert path.stat().st_size < 100_000
    with pytest.raises(CheckpointError, match="holds compressed records"):
        load_checkpoint(path)


@pytest.mark.parametrize("version", [1, 2])
def test_the_header_of_an_array_is_not_read_without_end(tmp_path, version):
    length = struct.pack("<H", 60_000) if version == 1 else struct.pack("<I", 2_000_000_000)
    head = b"\x93NUMPY" + bytes([version, 0]) + length
    (tmp_path / "a.npy").write_bytes(head + b" " * 70_000)
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", head + b" " * 70_000)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(DataError, match=r"claims .* bytes, expected at most 10000"):
            list(stream_images(tmp_path / name, (1, 4, 4)))


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: DynamicConfig(10, 16, 101), "routing_iterations must be at most 100, got 101"),
        (lambda: DynamicConfig(2**29, 16), "capsules must be at most"),
        (lambda: DecoderConfig((8,) * 101), "number of sizes must be at most 100"),
        (lambda: DecoderConfig((2**29,)), "a size must be at most"),
        (lambda: CapsNetConfig(image_shape=(1, 2**20, 2**20)), "an image must be at most"),
        (
            lambda: CapsNetConfig(capsule_layers=(DynamicConfig(10, 16),) * 101),
            "capsule layers must be at most 100",
        ),
        (
            lambda: CapsNetConfig(capsule_layers=(DynamicConfig(2**20, 2**20),)),
            "the values it gives must be at most",
        ),
    ],
)
def test_a_network_without_bounds_is_refused(build, match):
    with pytest.raises(ConfigError, match=match):
        build()


def test_the_largest_number_of_iterations_is_accepted():
    assert DynamicConfig(10, 16, 100).routing_iterations == 100


@pytest.mark.parametrize("text", ['{"a": 1, "a": 1}', '[{"b": {"a": 1, "a": 2}}]'])
def test_a_key_that_occurs_twice_is_refused(text):
    with pytest.raises(ValueError, match="'a' occurs more than once"):
        parse_json(text)
    with pytest.raises(ConfigError, match="'a' occurs more than once"):
        CapsNetConfig.from_json(text)
    with pytest.raises(ArtifactError, match="'a' occurs more than once"):
        ArtifactMetadata.from_json(text)


def test_a_document_that_is_too_deep_is_refused():
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json("[" * 100_000)


@pytest.mark.parametrize("harm", ["\x1b[2J", "\x07", "\x9b1m", "\u202e", "\r", "\0", "\udcff"])
def test_what_a_terminal_obeys_is_spelled_out(harm):
    assert printable(f"a{harm}b") != f"a{harm}b"
    message = str(ArtifactError(f"the file a{harm}b"))
    assert harm not in message
    assert message.isprintable()
    assert printable("é 漢 text\n\ttab") == "é 漢 text\n\ttab"


def metadata(**changes):
    from support.artifacts import metadata_for
    from support.networks import SMALL

    return dataclasses.replace(metadata_for(SMALL), **changes).to_json()


def test_metadata_with_control_characters_are_refused():
    with pytest.raises(ArtifactError, match="control characters"):
        ArtifactMetadata.from_json(metadata(exporter="a\x1b[2Jb"))
    with pytest.raises(ArtifactError, match="control characters"):
        ArtifactMetadata.from_json(metadata(versions={"a\x1b[2Jb": "1"}))


@pytest.mark.parametrize(
    ("shape", "match"),
    [
        (("batch", 1, 0, 12), "positive sizes"),
        (("batch", 1, -3, 12), "positive sizes"),
        ((10**9, 1, 12, 12), "at most 67108864 elements"),
        (("batch", 10**9, 12, 12), "at most 67108864 elements"),
        (("batch", "height", 12, 12), "numbers behind the batch axis"),
    ],
)
def test_metadata_with_shapes_that_cannot_be_are_refused(shape, match):
    document = ArtifactMetadata.from_json(metadata())
    given = dataclasses.replace(document.inputs[0], shape=shape)
    with pytest.raises(ArtifactError, match=match):
        ArtifactMetadata.from_json(dataclasses.replace(document, inputs=(given,)).to_json())


def test_arrays_of_usual_headers_are_read(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros((2, 4, 4), np.uint8))
    assert len(list(stream_images(tmp_path / "a.npz", (1, 4, 4)))) == 2

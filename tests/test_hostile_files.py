"""Checkpoints, configurations, images and messages that were made to do harm."""

import contextlib
import dataclasses
import gzip
import io
import os
import resource
import struct
import sys
import zipfile

import numpy as np
import pytest
import torch
from support.networks import SMALL, lively_model

from capsnet.artifact import ArtifactMetadata
from capsnet.checkpoint import load_checkpoint, save_checkpoint
from capsnet.config import CapsNetConfig
from capsnet.data.idx import read_idx
from capsnet.data.stream import stream_images
from capsnet.documents import parse_json
from capsnet.errors import ArtifactError, CheckpointError, ConfigError, DataError, printable
from capsnet.files import file_sha256, read_file
from capsnet.layers.decoder import DecoderConfig
from capsnet.layers.dynamic import DynamicConfig
from capsnet.layers.transposed import TransposedConfig
from capsnet.runtime.proof.images import _read_labels

WATCHERS = []  # of files that are opened; Python never forgets such a hook
sys.addaudithook(lambda event, arguments: [watch(event, arguments) for watch in list(WATCHERS)])


def read_labels(path):
    return _read_labels(path, 10)


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


def idx(*shape):
    return struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)


def read_one_by_one(path):
    for _ in stream_images(path, (1, 256, 256)):
        pass


@pytest.mark.parametrize("read", [read_idx, read_one_by_one])
@pytest.mark.parametrize("claimed", [2, 10_000])
def test_an_idx_file_that_unpacks_to_more_or_less_is_refused(tmp_path, read, claimed):
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx(claimed, 256, 256) + bytes(2**26)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=r"header asks for|goes on after|ends after"):
        read(tmp_path / "a.gz")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**15  # KiB


def test_zeros_that_unpack_to_what_their_header_says_are_refused(tmp_path):
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(idx(2**22, 4, 4) + bytes(2**26)))
    assert path.stat().st_size < 100_000
    with pytest.raises(DataError, match=r"asks for 67108864 bytes.*unpack it \(gunzip\)"):
        read_idx(path)
    path.write_bytes(gzip.compress(idx(4, 4, 4) + bytes(64)))
    assert read_idx(path).shape == (4, 4, 4)


@pytest.mark.parametrize("name", ["a.npy", "a.idx", "a.gz", "a.npz", "f.npy"])
def test_a_pipe_that_takes_the_place_of_images_meanwhile_is_refused(tmp_path, name):
    path, pixels = tmp_path / name, np.zeros((3, 4, 4), np.uint8)
    if name.endswith("npy"):
        np.save(path, np.asfortranarray(pixels) if name == "f.npy" else pixels)
    elif name == "a.npz":
        np.savez_compressed(path, a=pixels)
    else:
        content = idx(3, 4, 4) + pixels.tobytes()
        path.write_bytes(gzip.compress(content) if name == "a.gz" else content)
    assert len(list(stream_images(path, (1, 4, 4)))) == 3
    opened = []

    def swap(event, arguments):
        if event == "open" and str(arguments[0]) == str(path):
            opened.append(event)
            if len(opened) == 2:
                path.unlink()
                os.mkfifo(path)

    WATCHERS.append(swap)
    try:
        with pytest.raises(DataError, match="not a regular file"):
            list(stream_images(path, (1, 4, 4)))
    finally:
        WATCHERS.remove(swap)


@pytest.mark.parametrize("read", [load_checkpoint, read_labels, read_idx])
def test_a_pipe_is_refused_wherever_a_file_is_read(pipe, read):
    with pytest.raises((CheckpointError, DataError), match="not a regular file"):
        read(pipe)


def test_labels_that_claim_more_than_their_file_are_refused(tmp_path):
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"descr": "<i8", "fortran_order": False, "shape": (10**12,)}
    )
    (tmp_path / "labels.npy").write_bytes(head.getvalue() + bytes(80))
    with pytest.raises(DataError, match="asks for 8000000000000 bytes"):
        read_labels(tmp_path / "labels.npy")


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
def test_a_checkpoint_is_read_once(tmp_path, monkeypatch, name):
    path = tmp_path / name
    if name == "model.pt":
        torch.save({}, path)
    else:
        save_checkpoint(lively_model(SMALL), path)
    opened = []

    def count(event, arguments):
        if event == "open" and str(arguments[0]) == str(path):
            opened.append(event)

    WATCHERS.append(count)
    try:
        with contextlib.suppress(CheckpointError):  # there are no weights in the second
            load_checkpoint(path)
    finally:
        WATCHERS.remove(count)
    assert len(opened) == 1


def test_a_file_that_is_no_image_is_named_and_no_object_of_python(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    with pytest.raises(DataError, match=r"a\.png: .*no PNG, JPEG, BMP or WebP image") as caught:
        list(stream_images(tmp_path / "a.png", (1, 4, 4)))
    assert "<" not in str(caught.value)


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
        (lambda: TransposedConfig((1,) * 11), "their number must be at most 10, got 11"),
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

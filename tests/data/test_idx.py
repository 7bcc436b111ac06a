"""IDX files: every type, both encodings, and every way to be damaged."""

import gzip
import re
import struct

import numpy as np
import pytest

from capsnet.data.idx import load_split, mnist_test_set, read_idx
from capsnet.errors import DataError

CODES = {
    "uint8": 0x08,
    "int8": 0x09,
    "int16": 0x0B,
    "int32": 0x0C,
    "float32": 0x0D,
    "float64": 0x0E,
}


def idx(array):
    array = np.asarray(array)
    header = struct.pack(f">HBB{array.ndim}I", 0, CODES[str(array.dtype)], array.ndim, *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def write_split(folder, images, labels, split="train"):
    (folder / f"{split}-images-idx3-ubyte").write_bytes(idx(images))
    (folder / f"{split}-labels-idx1-ubyte").write_bytes(idx(labels))


@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("encode", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_every_type_is_read_in_native_byte_order(tmp_path, dtype, encode):
    array = np.array([[1, 2, 3], [100, 5, -6 if dtype != "uint8" else 250]], dtype)
    path = tmp_path / "values"  # no .gz: gzip is recognised by content
    path.write_bytes(encode(idx(array)))
    read = read_idx(path)
    assert read.dtype == np.dtype(dtype)
    assert read.dtype.isnative
    np.testing.assert_array_equal(read, array)


def test_path_may_be_text(tmp_path):
    write_split(tmp_path, np.ones((2, 3, 4), np.uint8), np.array([7, 1], np.uint8))
    assert read_idx(str(tmp_path / "train-labels-idx1-ubyte")).tolist() == [7, 1]
    assert load_split(str(tmp_path), "train").images.shape == (2, 1, 3, 4)


@pytest.mark.parametrize("shape", [(), (0,), (0, 28, 28), (1, 2, 3, 4, 5)])
def test_every_rank_is_read(tmp_path, shape):
    path = tmp_path / "values"
    path.write_bytes(idx(np.zeros(shape, np.uint8)))
    assert read_idx(path).shape == shape


WHOLE = idx(np.arange(24, dtype=np.int16).reshape(2, 3, 4))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        *[(WHOLE[:size], "is not an IDX file") for size in range(4)],
        *[
            (WHOLE[:size], "truncated, damaged, or not of its kind (it ends inside its header)")
            for size in range(4, 16)
        ],
        (WHOLE[:16], "holds 16 bytes, its header asks for 64"),
        (WHOLE[:-1], "holds 63 bytes, its header asks for 64"),
        (WHOLE + b"\0", "holds at least 65 bytes, its header asks for 64"),
        (b"\1" + WHOLE[1:], "is not an IDX file: its header is '01 00 0b 03'"),
        (b"\0\0\x0a" + WHOLE[3:], "is not an IDX file"),
        (b"\x89PNG\r\n\x1a\n", "is not an IDX file: its header is '89 50 4e 47'"),
        (b"\0\0\x08\x04" + b"\xff" * 16, "its header asks for 3402823"),  # more than 64 bits
        (b"\0\0\x08\x28" + bytes(4) + b"\xff" * 156, "cannot read"),  # empty, and too large
        (b"\x1f\x8b", "cannot read"),
        (gzip.compress(WHOLE)[:-9], "cannot read"),
        (gzip.compress(WHOLE)[:-8] + b"\0" * 8, "cannot read"),  # wrong checksum
        (gzip.compress(WHOLE)[:12] + b"\xff" * 20, "cannot read"),
        (gzip.compress(WHOLE) + b"rubbish", "cannot read"),
        (gzip.compress(WHOLE[:-1]), "holds 63 bytes, its header asks for 64"),
        (gzip.compress(b""), "is not an IDX file"),
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / "damaged-idx"
    path.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(message)) as error:
        read_idx(path)
    assert str(path) in str(error.value)


def test_no_truncation_of_a_gzip_file_goes_unnoticed(tmp_path):
    path, whole = tmp_path / "cut", gzip.compress(WHOLE)
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError):
            read_idx(path)


@pytest.mark.parametrize("name", ["absent", "."])
def test_a_file_that_cannot_be_opened_is_refused(tmp_path, name):
    with pytest.raises(DataError, match="cannot read"):
        read_idx(tmp_path / name)


def test_a_split_has_a_channel_axis_and_int64_labels(tmp_path):
    pixels = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    write_split(tmp_path, pixels, np.array([7, 1], np.uint8), "t10k")
    images, labels = load_split(tmp_path, "t10k")
    assert (images.dtype, images.shape) == (np.uint8, (2, 1, 3, 4))
    assert (labels.dtype, labels.tolist()) == (np.int64, [7, 1])
    np.testing.assert_array_equal(images[:, 0], pixels)


def test_a_missing_file_is_named_with_its_folder(tmp_path):
    with pytest.raises(DataError) as error:
        load_split(tmp_path, "train")
    assert "no train-images-idx3-ubyte or train-images-idx3-ubyte.gz" in str(error.value)
    assert f"in {tmp_path}" in str(error.value)
    assert "--data" in str(error.value)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(np.zeros((1, 2, 2), np.uint8)))
    with pytest.raises(DataError, match="no train-labels-idx1-ubyte"):
        load_split(tmp_path, "train")


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((3, 2, 2), np.uint8), np.zeros(2, np.uint8), "integers [3], one for each image"),
        (np.zeros((3, 2, 2), np.uint8), np.zeros((3, 1), np.uint8), "got uint8 [3, 1]"),
        (np.zeros((3, 2, 2), np.uint8), np.zeros(3, np.float32), "got float32 [3]"),
        (np.zeros((3, 4), np.uint8), np.zeros(3, np.uint8), "must be uint8 [n, height, width]"),
        (np.zeros((3, 2, 2), np.float32), np.zeros(3, np.uint8), "got float32 [3, 2, 2]"),
        (np.zeros((0, 2, 2), np.uint8), np.zeros(0, np.uint8), "got uint8 [0, 2, 2]"),
    ],
)
def test_images_and_labels_that_do_not_match_are_refused(tmp_path, images, labels, message):
    write_split(tmp_path, images, labels)
    with pytest.raises(DataError, match=re.escape(message)):
        load_split(tmp_path, "train")


def test_the_bundled_test_set_is_that_of_mnist():
    images, labels = mnist_test_set()
    assert (images.dtype, images.shape) == (np.uint8, (10_000, 1, 28, 28))
    assert images.max() == 255
    assert labels.dtype == np.int64
    assert labels[:8].tolist() == [7, 2, 1, 0, 4, 1, 4, 9]
    assert np.bincount(labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]

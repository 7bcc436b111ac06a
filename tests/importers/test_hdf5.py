"""HDF5 files: Keras' names and order, and everything that is not plain numbers is refused."""

import sys

import numpy as np
import pytest
import torch

from capsnet.errors import CheckpointError
from capsnet.importers.reading import read_tensors

h5py = pytest.importorskip("h5py")


def write(path, fill):
    with h5py.File(path, "w") as file:
        fill(file)
    return path


def refuse(path, message):
    with pytest.raises(CheckpointError, match=message):
        read_tensors(path)


def test_tensors_come_in_the_order_in_which_keras_numbered_the_layers(tmp_path):
    def fill(file):
        for number, name in enumerate(["dense_10", "conv2d", "dense_9", "conv2d_1", "dense"]):
            file[f"model/{name}/kernel:0"] = np.full((2, 3), number, np.float32)

    found = read_tensors(write(tmp_path / "a.h5", fill))
    names = ["conv2d", "conv2d_1", "dense", "dense_9", "dense_10"]
    assert list(found) == [f"{name}/kernel" for name in names]
    assert torch.equal(found["dense_9/kernel"], torch.full((2, 3), 2.0))


def test_of_a_whole_model_the_weights_are_read_and_not_the_optimizers(tmp_path):
    def fill(file):
        file["model_weights/conv1/conv1/kernel:0"] = np.ones(3, ">f4")
        file["optimizer_weights/Adam/iterations:0"] = np.int64(3)

    found = read_tensors(write(tmp_path / "a.h5", fill))
    assert found.keys() == {"conv1/kernel"}
    assert found["conv1/kernel"].tolist() == [1, 1, 1]


def huge(file):
    file.create_dataset("a/b/kernel:0", (2**40,), np.float32)  # nothing of it is in the file


def compressed(file):
    file.create_dataset("a/b/kernel:0", data=np.zeros(10**6, np.float32), compression="gzip")


def external(file):
    file["a/b"] = h5py.ExternalLink("/etc/hostname", "/")


def soft(file):
    file["a/b"] = h5py.SoftLink("/a")


def outside(file):
    file.create_dataset("a/b", (4,), np.float32, external=[("/etc/hostname", 0, 16)])


def virtual(file):
    layout = h5py.VirtualLayout((4,), np.float32)
    layout[:] = h5py.VirtualSource("/etc/hostname", "x", (4,))
    file.create_virtual_dataset("a/b", layout)


def cyclic(file):
    file["a/b/c"] = np.zeros(2, np.float32)
    file["a/b/d"] = file["a"]


def twice(file):
    for group in ("x", "y"):
        file[f"{group}/conv1/kernel:0"] = np.zeros(2, np.float32)


def text(file):
    file["a/b"] = np.array([b"abc"])


def shared(file):
    file["a/b"] = np.zeros(100_000, np.float32)
    for number in range(20):
        file[f"a/b{number}"] = file["a/b"]


@pytest.mark.parametrize(
    ("fill", "message"),
    [
        (huge, "does not lie in the file as it is"),
        (compressed, "does not lie in the file as it is"),
        (external, "is a link"),
        (soft, "is a link"),
        (outside, "does not lie in the file as it is"),
        (virtual, "does not lie in the file as it is"),
        (cyclic, "two tensors called|more groups than any network"),
        (twice, "two tensors called conv1/kernel"),
        (text, "expected floating-point numbers"),
        (shared, "two tensors called|does not lie in the file"),
    ],
)
def test_what_is_not_plain_numbers_in_the_file_is_refused(fill, message, tmp_path):
    refuse(write(tmp_path / "a.h5", fill), message)


def test_a_damaged_file_is_one_error(tmp_path):
    path = write(tmp_path / "a.h5", lambda file: file.create_dataset("a/b", data=np.zeros(50)))
    content = path.read_bytes()
    for size in range(8, len(content), len(content) // 20):
        path.write_bytes(content[:size])
        refuse(path, "cannot read|does not lie|holds more groups")


def test_without_h5py_the_extra_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "a.h5", lambda file: file.create_dataset("a/b", data=np.zeros(5)))
    monkeypatch.setitem(sys.modules, "h5py", None)
    refuse(path, r"pip install 'capsnet-export\[keras\]'")

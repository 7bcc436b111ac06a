"""Data sets of every kind: what is read of them, with which labels, and what is refused."""

import gzip
import struct
import sys
import types

import numpy as np
import pytest
from PIL import Image

from capsnet.data.options import ImageOptions
from capsnet.data.parts import known_labels, part_of, parts_of
from capsnet.data.stream import count_images, stream_images, stream_samples
from capsnet.data.training import load_training_data, training_arrays
from capsnet.errors import DataError


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def class_folders(folder, names=("cat", "dog"), each=3, mode="RGB", size=(6, 5), kind="png"):
    """A folder of ``size`` (height, width) images; the values say class and number."""
    for label, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            shape = size if mode == "L" else (*size, 3)
            image = np.full(shape, 40 * label + number, np.uint8)
            Image.fromarray(image).save(folder / name / f"{number}.{kind}")
    return folder


def samples(path, shape, classes, names=(), **options):
    return list(
        stream_samples([path], shape, classes=classes, names=names, options=ImageOptions(**options))
    )


# Folders of images


@pytest.mark.parametrize("kind", ["png", "bmp", "webp", "jpg"])
def test_subfolders_are_classes(tmp_path, kind):
    data = load_training_data(class_folders(tmp_path / "pets", kind=kind))
    assert (data.names, data.classes, data.image_shape) == (("cat", "dog"), 2, (3, 6, 5))
    assert data.test is None
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert abs(int(data.train.images[4].max()) - 41) <= 2  # WebP and JPEG are not exact


def test_grey_images_have_one_channel_unless_another_class_is_in_colour(tmp_path):
    grey = class_folders(tmp_path / "grey", mode="L")
    assert load_training_data(grey).image_shape == (1, 6, 5)
    class_folders(grey, ("owl",))
    assert load_training_data(grey).image_shape == (3, 6, 5)


def test_folders_train_and_test_are_splits(tmp_path):
    class_folders(tmp_path / "pets" / "train")
    class_folders(tmp_path / "pets" / "test", ("dog",), each=2)
    assert list(parts_of(tmp_path / "pets")) == ["train", "test"]
    data = load_training_data(tmp_path / "pets")
    assert len(data.train.images) == 6
    assert data.test.labels.tolist() == [1, 1]


def test_test_split_is_numbered_like_the_training_split(tmp_path):
    class_folders(tmp_path / "train", ("ant", "cat", "dog"))
    class_folders(tmp_path / "test", ("cat", "dog"), each=1)
    assert load_training_data(tmp_path).test.labels.tolist() == [1, 2]


def test_class_that_was_not_trained_is_refused(tmp_path):
    class_folders(tmp_path / "train")
    class_folders(tmp_path / "test", ("cat", "emu"))
    with pytest.raises(DataError, match="classes that the training images have not"):
        load_training_data(tmp_path)


def test_images_of_several_sizes_are_refused_or_resized(tmp_path):
    class_folders(tmp_path / "pets")
    class_folders(tmp_path / "pets", ("emu",), size=(9, 4))
    with pytest.raises(DataError, match=r"9x4 pixels .*takes 6x5; .*--resize"):
        load_training_data(tmp_path / "pets")
    assert load_training_data(tmp_path / "pets", size=8).image_shape == (3, 8, 8)


def test_resizing_keeps_what_is_even_and_inverting_exchanges_black_and_white(tmp_path):
    class_folders(tmp_path / "pets")
    np.save(tmp_path / "x.npy", np.full((2, 3, 9, 7), 200, np.uint8))
    found = samples(tmp_path / "pets", (3, 4, 8), 2, ("cat", "dog"), resize=True, invert=True)
    assert [sample.label for sample in found] == [0, 0, 0, 1, 1, 1]
    np.testing.assert_allclose(found[4].image, np.full((3, 4, 8), 1 - 41 / 255), atol=1e-6)
    found = samples(tmp_path / "x.npy", (3, 4, 8), 2, resize=True)
    np.testing.assert_allclose(found[1].image, np.full((3, 4, 8), 200 / 255), atol=1e-6)


def test_image_of_the_right_size_is_not_changed_by_resizing(tmp_path):
    image = pixels(6, 5, 3)
    Image.fromarray(image).save(tmp_path / "a.png")
    [(_, found)] = stream_images(tmp_path / "a.png", (3, 6, 5), options=ImageOptions(resize=True))
    np.testing.assert_array_equal(found.transpose(1, 2, 0), image.astype(np.float32) / 255)


def test_folders_that_are_no_classes_of_the_network_give_no_labels(tmp_path):
    class_folders(tmp_path / "monday_tuesday", ("monday", "tuesday"))
    class_folders(tmp_path / "digits", ("3", "1"))
    for folder, names, expected in (
        ("monday_tuesday", ("cat", "dog"), {None}),
        ("monday_tuesday", (), {None}),
        ("digits", (), {1, 3}),
    ):
        found = samples(tmp_path / folder, (3, 6, 5), 4, names)
        assert {sample.label for sample in found} == expected


def test_names_find_classes_of_another_order(tmp_path):
    part = part_of(class_folders(tmp_path / "pets"))
    assert known_labels(part, ("dog", "emu", "cat"), 3) == {0: 2, 1: 0}


# NumPy


@pytest.mark.parametrize("suffix", ["npz", "folder"])
@pytest.mark.parametrize("column", [False, True])
def test_arrays_of_the_usual_names_are_splits(tmp_path, suffix, column):
    arrays = {
        "x_train": pixels(5, 6, 6, 3),
        "y_train": np.array([0, 1, 2, 0, 1]),
        "x_test": pixels(2, 6, 6, 3, seed=1),
        "y_test": np.array([2, 0]),
    }
    if column:  # as Keras has them
        arrays |= {name: arrays[name][:, None] for name in ("y_train", "y_test")}
    path = tmp_path / "a.npz"
    if suffix == "npz":
        np.savez_compressed(path, **arrays)
    else:
        path = tmp_path / "arrays"
        path.mkdir()
        for name, array in arrays.items():
            np.save(path / f"{name}.npy", array)
    data = load_training_data(path)
    np.testing.assert_array_equal(data.train.images, arrays["x_train"].transpose(0, 3, 1, 2))
    assert data.train.labels.tolist() == [0, 1, 2, 0, 1]
    assert data.test.labels.tolist() == [2, 0]
    assert (data.names, data.classes) == ((), 3)
    assert [sample.label for sample in samples(path, (3, 6, 6), 3)] == [2, 0]
    assert count_images(path, (3, 6, 6)) == 2


def test_arrays_are_named_by_option(tmp_path):
    np.savez(tmp_path / "a.npz", pixels=pixels(3, 6, 5), target=np.array([1, 0, 1]), x=np.zeros(1))
    options = ImageOptions(arrays=("pixels", "target"))
    data = load_training_data(tmp_path / "a.npz", options=options)
    assert data.train.labels.tolist() == [1, 0, 1]
    assert data.image_shape == (1, 6, 5)
    wrong = ImageOptions(arrays=("pixels", "labels"))
    with pytest.raises(DataError, match="no array labels; it holds pixels, target, x"):
        load_training_data(tmp_path / "a.npz", options=wrong)


def test_labels_beside_one_array_are_found(tmp_path):
    np.save(tmp_path / "images.npy", pixels(3, 6, 5))
    np.save(tmp_path / "labels.npy", np.array([1, 0, 9], np.int32))
    found = samples(tmp_path / "images.npy", (1, 6, 5), 5)
    assert [sample.label for sample in found] == [1, 0, None]  # there is no class 9


@pytest.mark.parametrize(
    "labels", [np.zeros(2, np.int64), np.zeros(3), np.array(["a"] * 3), np.zeros((3, 2), np.int64)]
)
def test_labels_that_do_not_fit_are_refused(tmp_path, labels):
    np.savez(tmp_path / "a.npz", x=pixels(3, 6, 5), y=labels)
    with pytest.raises(DataError, match=r"a\.npz:y: the labels must be integers \[3\]"):
        load_training_data(tmp_path / "a.npz")


def test_images_without_labels_are_refused_for_training(tmp_path):
    np.save(tmp_path / "a.npy", pixels(3, 6, 5))
    with pytest.raises(DataError, match="a subfolder for each class"):
        load_training_data(tmp_path / "a.npy")


def test_header_that_claims_more_than_a_small_file_expands_to_is_refused(tmp_path):
    images = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (50_000, 28, 28), (0, 0, 0))
    np.savez_compressed(tmp_path / "a.npz", x=images, y=np.zeros(50_000, np.int64))
    with pytest.raises(DataError, match="unpack it"):
        load_training_data(tmp_path / "a.npz")


# Data sets


def cifar(folder, fine=False):
    folder.mkdir()
    images = pixels(3, 3, 32, 32)
    labels = np.array([[4, 1], [0, 0], [7, 2]] if fine else [[1], [0], [2]], np.uint8)
    content = np.concatenate([labels, images.reshape(3, -1)], 1).tobytes()
    names = ("train.bin", "test.bin") if fine else ("data_batch_1.bin", "test_batch.bin")
    for name in names:
        (folder / name).write_bytes(content)
    (folder / ("fine_label_names.txt" if fine else "batches.meta.txt")).write_text("a\nb\nc\n\n")
    return images


@pytest.mark.parametrize("fine", [False, True], ids=["CIFAR-10", "CIFAR-100"])
def test_cifar(tmp_path, fine):
    images = cifar(tmp_path / "data", fine)
    data = load_training_data(tmp_path / "data")
    np.testing.assert_array_equal(data.train.images, images)
    assert data.train.labels.tolist() == [1, 0, 2]
    assert data.names == ("a", "b", "c")
    found = samples(tmp_path / "data", (3, 32, 32), 3)
    assert [sample.label for sample in found] == [1, 0, 2]
    assert found[1].name == f"{tmp_path / 'data' / ('test.bin' if fine else 'test_batch.bin')}[1]"


def test_cifar_that_is_cut_off_is_refused(tmp_path):
    cifar(tmp_path / "data")
    path = tmp_path / "data" / "test_batch.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="9218 bytes, expected 3073 for each image"):
        count_images(tmp_path / "data", (3, 32, 32))


def matrix(array, magic):
    sizes = (*array.shape, *[1] * (3 - array.ndim))
    return struct.pack(f"<{2 + len(sizes)}i", magic, array.ndim, *sizes) + array.tobytes()


def norb(folder, encode=bytes, suffix=""):
    folder.mkdir()
    images = pixels(4, 2, 9, 9)
    for split in ("training", "testing"):
        for part, array, magic in (
            ("dat", images, 0x1E3D4C55),
            ("cat", np.array([0, 4, 1, 2], "<i4"), 0x1E3D4C54),
        ):
            path = folder / f"smallnorb-{split}-{part}.mat{suffix}"
            path.write_bytes(encode(matrix(array, magic)))
    return images


@pytest.mark.parametrize(("encode", "suffix"), [(bytes, ""), (gzip.compress, ".gz")])
def test_small_norb(tmp_path, encode, suffix):
    images = norb(tmp_path / "data", encode, suffix)
    data = load_training_data(tmp_path / "data")
    np.testing.assert_array_equal(data.train.images, images)
    assert data.train.labels.tolist() == data.test.labels.tolist() == [0, 4, 1, 2]
    assert (data.names[4], data.classes) == ("car", 5)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "ends inside its header"),
        (b"\0" * 40, "not a binary matrix"),
        (matrix(pixels(4, 2, 9, 9), 0x1E3D4C55)[:-1], "its header asks for"),
        (matrix(pixels(4, 2, 9, 9), 0x1E3D4C55)[:20], "ends inside its header"),
        (struct.pack("<5i", 0x1E3D4C55, 3, -1, 9, 9), "gives the shape"),
    ],
)
def test_small_norb_that_is_damaged_is_refused(tmp_path, content, match):
    norb(tmp_path / "data")
    (tmp_path / "data" / "smallnorb-training-dat.mat").write_bytes(content)
    with pytest.raises(DataError, match=match):
        load_training_data(tmp_path / "data")


class Fake:
    """A data set as torchvision has them: pairs of a Pillow image and a label."""

    classes = ("cat", "dog")

    def __init__(self, root, train, download):
        assert (root, download) == ("where", True)
        self.targets = [0, 1, 1] if train else [1]

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return Image.fromarray(np.full((6, 5, 3), index, np.uint8)), self.targets[index]


class FakeSplit(Fake):
    def __init__(self, root, split, download):
        super().__init__(root, split == "train", download)


@pytest.fixture
def torchvision(monkeypatch):
    package, datasets = types.ModuleType("torchvision"), types.ModuleType("torchvision.datasets")
    datasets.Fake, datasets.FakeSplit = Fake, FakeSplit
    package.datasets = datasets
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", datasets)


@pytest.mark.parametrize("name", ["Fake", "FakeSplit"])
def test_torchvision_by_name(torchvision, name):
    data = load_training_data(f"torchvision:{name}:where")
    assert data.train.labels.tolist() == [0, 1, 1]
    assert data.train.images[2].tolist() == np.full((3, 6, 5), 2).tolist()
    assert (data.names, data.test.labels.tolist()) == (("cat", "dog"), [1])
    with pytest.raises(DataError, match="has no None; expected a name such as MNIST"):
        parts_of("torchvision:None:where")
    with pytest.raises(DataError, match="expected torchvision:NAME:FOLDER"):
        parts_of("torchvision:Fake")


def test_torchvision_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(DataError, match=r"pip install 'capsnet-export\[torchvision\]'"):
        parts_of("torchvision:MNIST:data")


# Memory


def test_arrays_tensors_and_data_sets_are_taken():
    import torch

    images, labels = pixels(4, 3, 6, 5), np.array([0, 1, 1, 0])
    floats = torch.from_numpy(images).float() / 255
    pairs = torch.utils.data.TensorDataset(floats, torch.from_numpy(labels))
    for given in ((images, labels), (floats, torch.from_numpy(labels)), (pairs, None)):
        found = training_arrays(*given)
        np.testing.assert_array_equal(found.images, images)
        assert found.labels.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize(
    ("images", "labels", "match"),
    [
        (np.zeros((2, 6, 5), np.uint8), [0, 1], r"the images are uint8 \[2, 6, 5\]"),
        (np.zeros((2, 1, 6, 5), np.uint8), [0], "one for each image"),
        (np.zeros((2, 1, 6, 5)) - 1, [0, 1], "they look normalised"),
        (np.zeros((2, 1, 6, 5)) + 200, [0, 1], "they look like 0..255"),
        (np.zeros((2, 1, 6, 5), np.uint8), None, "item 0 of the data set is ndarray"),
        (7, None, "int is no data set"),
    ],
)
def test_what_is_no_training_data_is_refused(images, labels, match):
    with pytest.raises(DataError, match=match):
        training_arrays(images, labels)

"""Images to prove on: chosen evenly, with their labels where these are known."""

import os

import numpy as np
import pytest
from support.networks import SMALL, random_images
from support.proof import idx_folder, request_in, verify

from capsnet.about import About
from capsnet.data.options import ImageOptions
from capsnet.errors import DataError
from capsnet.runtime.proof.images import load_images
from capsnet.runtime.proof.results import ImageSet
from capsnet.training.describe import describe_inputs


def loaded(folder, **changes):
    return load_images(request_in(folder, **changes), SMALL, "")


def test_labelled_folder_gives_accuracy(folder):
    images = (random_images(SMALL, 6)[:, 0] * 255).astype(np.uint8)
    idx_folder(folder / "digits", images, np.array([0, 1, 2, 3, 4, 0]))
    certificate = verify(folder, images="digits")
    assert certificate.images == ImageSet("digits: t10k split", 6)
    accuracy = certificate.parity.accuracy
    for share in (accuracy.golden, accuracy.baseline, accuracy.candidate):
        assert 0 <= share <= 1


@pytest.mark.parametrize(("samples", "chosen"), [(1, [0]), (2, [0, 5]), (3, [0, 3, 6]), (99, None)])
def test_samples_are_spread_evenly_over_a_labelled_folder(folder, samples, chosen):
    images = np.arange(10, dtype=np.uint8)[:, None, None].repeat(12, 1).repeat(12, 2)
    idx_folder(folder / "digits", images, np.arange(10) % 5)
    _, used, labels, total, _ = loaded(folder, images="digits", samples=samples)
    expected = list(range(10)) if chosen is None else chosen
    assert np.rint(used[:, 0, 0, 0] * 255).astype(int).tolist() == expected
    assert labels.tolist() == [n % 5 for n in expected]
    named = ImageSet("digits", len(used), total)
    assert [named.index_of(n) for n in range(len(used))] == expected


def test_samples_are_spread_evenly_over_an_array(folder):
    images = np.arange(10, dtype=np.uint8)[:, None, None, None].repeat(12, 2).repeat(12, 3)
    np.save(folder / "images.npy", images)
    used = loaded(folder, samples=2).images
    assert np.rint(used[:, 0, 0, 0] * 255).tolist() == [0, 5]


def test_array_has_no_labels_and_is_limited_to_the_samples(folder):
    certificate = verify(folder, samples=3)
    assert certificate.images == ImageSet("images.npy", 3, total=5)
    assert certificate.parity.accuracy is None


def test_labels_beside_an_array_give_accuracy(folder):
    np.save(folder / "labels.npy", np.array([0, 1, 2, 3, 4], np.uint8))
    found = loaded(folder, labels=folder / "labels.npy", samples=2)
    assert found.labels.tolist() == [0, 2]
    assert found.labels.dtype == np.int64
    assert verify(folder, labels=folder / "labels.npy").parity.accuracy is not None


@pytest.mark.parametrize(
    "labels",
    [np.zeros(4, np.int64), np.zeros((5, 2), np.int64), np.zeros(5), np.array(["a"] * 5)],
    ids=["too few", "two columns", "floats", "words"],
)
def test_labels_that_do_not_fit_are_refused(folder, labels):
    np.save(folder / "labels.npy", labels)
    with pytest.raises(DataError, match=r"labels\.npy: the labels must be integers \[5\]"):
        loaded(folder, labels=folder / "labels.npy")


@pytest.mark.parametrize("content", [None, b"", b"no array"])
def test_labels_that_cannot_be_read_are_named(folder, content):
    if content is not None:
        (folder / "labels.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"cannot read .*labels\.npy"):
        loaded(folder, labels=folder / "labels.npy")


def test_labels_that_never_end_are_refused(folder):
    os.mkfifo(folder / "labels.npy")
    with pytest.raises(DataError, match="a pipe or a device, not a regular file"):
        loaded(folder, labels=folder / "labels.npy")


def test_images_unlike_the_training_images_are_a_warning(folder):
    images = np.random.default_rng(0).integers(0, 60, (40, 1, 12, 12), np.uint8)
    about = About((), describe_inputs(images, np.ones(3)))
    for name, pixels in (("as.npy", images), ("inverted.npy", 255 - images)):
        np.save(folder / name, pixels)
    for name, invert, warnings in (
        ("as.npy", False, 0),
        ("inverted.npy", False, 1),
        ("inverted.npy", True, 0),
    ):
        request = request_in(folder, images=name, reading=ImageOptions(invert=invert))
        found = load_images(request, SMALL, "", about)
        assert len(found.warnings) == warnings

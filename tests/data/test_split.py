"""The validation images: of every class, the same for a seed, and never all of a class."""

import numpy as np
import pytest

from capsnet.data.idx import LabelledImages
from capsnet.data.split import split_validation
from capsnet.errors import DataError


def numbered(labels):
    labels = np.asarray(labels)
    pixels = np.arange(len(labels), dtype=np.uint8)[:, None, None, None]
    return LabelledImages(pixels, labels)


def test_every_class_gives_its_share():
    learned, held_out = split_validation(numbered([0] * 40 + [1] * 20 + [2] * 4), 0.25, 0)
    assert np.bincount(held_out.labels).tolist() == [10, 5, 1]
    assert np.bincount(learned.labels).tolist() == [30, 15, 3]
    together = [*learned.images.ravel(), *held_out.images.ravel()]
    assert sorted(together) == list(range(64))


def test_choice_is_that_of_the_seed():
    images = numbered([0, 1] * 40)
    chosen = [split_validation(images, 0.1, seed)[1].images.ravel().tolist() for seed in (3, 3, 4)]
    assert chosen[0] == chosen[1] != chosen[2]


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_neither_part_is_empty(share):
    learned, held_out = split_validation(numbered(np.arange(12) % 6), share, 0)
    assert set(learned.labels) == set(range(6))
    assert len(held_out.images) == (1 if share < 0.5 else 6)


def test_too_few_images_are_refused():
    with pytest.raises(DataError, match="there are 9 images, training takes at least 10"):
        split_validation(numbered([0] * 9), 0.1, 0)

"""What is collected of a network is right by hand, and what is missing has a reason."""

import dataclasses

import numpy as np
import pytest
import torch
from support.networks import SMALL, lively_model, random_images

from capsnet.errors import DataError, ResultError
from capsnet.model import CapsNet
from capsnet.runtime.proof.images import ProofImages
from capsnet.runtime.show.collect import STEPS, collect

IMAGES = random_images(SMALL, 8)
PREDICTED = np.array([0, 0, 0, 0, 2, 2, 4, 4])
LABELS = np.array([1, 0, 0, 0, 2, 0, 4, 0])
LENGTHS = np.full((8, 5), 0.1, np.float32)
LENGTHS[np.arange(8), PREDICTED] = 0.9
LENGTHS[5, 0], LENGTHS[7, 0] = 0.3, 0.8


def fake(images):
    """Finds the images' lengths by their first pixel."""
    known = {float(image[0, 0, 0]): n for n, image in enumerate(IMAGES)}
    places = [known[float(image[0, 0, 0])] for image in images]
    return {"lengths": LENGTHS[places], "reconstruction": images / 2}


def of_model(model):
    def run(images):
        with torch.no_grad():
            outputs = model.outputs_by_name(torch.from_numpy(images))
        return {name: values.numpy() for name, values in outputs.items()}

    return run


def shown(labels=LABELS, total=80, run=fake, **options):
    given = ProofImages("digits", IMAGES, labels, total)
    return collect("model.onnx", run, "lengths", given, **options)


def test_counts_and_confusions():
    found = shown()
    assert found.counts.tolist() == [
        [3, 0, 1, 0, 1],
        [1, 0, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 1],
    ]
    assert found.right == 5
    assert [(c.label, c.predicted, c.count, c.indices) for c in found.confusions] == [
        (0, 2, 1, (50,)),
        (0, 4, 1, (70,)),
        (1, 0, 1, (0,)),
    ]
    assert [example.index for example in found.mistakes] == [0, 50, 70]  # by 0.8, 0.6 and 0.1


def test_examples_are_the_first_that_are_right():
    found = shown()
    assert [(e.predicted, e.index) for e in found.examples] == [(0, 10), (0, 20), (2, 40), (4, 60)]
    example = found.examples[0]
    np.testing.assert_array_equal(example.image, IMAGES[1])
    np.testing.assert_array_equal(example.reconstruction, IMAGES[1] / 2)
    np.testing.assert_array_equal(example.lengths, LENGTHS[1])
    assert found.names == ("0", "1", "2", "3", "4")


def test_artifact_says_what_is_missing():
    found = shown(labels=None, run=lambda images: {"lengths": fake(images)["lengths"]})
    assert set(found.missing) == {"reconstructions", "confusions", "tweaks", "couplings"}
    assert "show its checkpoint" in found.missing["tweaks"]
    assert found.counts is found.right is None
    assert [e.index for e in found.examples] == [0, 10, 40, 50, 60, 70]
    assert found.tweaks == found.couplings == found.mistakes == ()


def test_tweaks_change_one_value_of_the_capsule():
    model = lively_model(SMALL)
    found = shown(run=of_model(model), model=model)
    assert STEPS == (-0.25, -0.2, -0.15, -0.1, -0.05, 0.0, 0.05, 0.1, 0.15, 0.2, 0.25)
    assert {t.example.predicted for t in found.tweaks} == {e.predicted for e in found.examples}
    tweaks = found.tweaks[0]
    example = tweaks.example
    assert tweaks.images.shape == (6, 11, 1, 12, 12)
    with torch.no_grad():
        _, capsules = model(torch.from_numpy(example.image)[None])
        capsules[0, example.predicted, 3] += 0.2
        expected = model.reconstruct(capsules, torch.tensor([example.predicted]))[0]
    np.testing.assert_allclose(tweaks.images[3, 9], expected.numpy(), atol=1e-6)
    for value in range(6):
        np.testing.assert_allclose(tweaks.images[value, 5], example.reconstruction, atol=1e-6)


def test_couplings_are_those_of_the_class_that_was_found():
    model = lively_model(SMALL)
    found = shown(run=of_model(model), model=model)
    assert found.missing == {}
    assert found.places.field == (7, 7)
    for couplings in found.couplings:
        assert couplings.maps.shape == (3, 3, 3)
        np.testing.assert_allclose(couplings.maps[0], 0.2, rtol=1e-6)


def test_network_without_a_decoder_says_so():
    model = CapsNet(dataclasses.replace(SMALL, decoder=None))
    found = shown(run=of_model(model), model=model)
    assert set(found.missing) == {"reconstructions", "tweaks"}
    assert found.tweaks == ()
    assert found.couplings


def test_many_classes_are_counted_and_some_are_drawn():
    lengths = np.eye(30, dtype=np.float32)
    given = ProofImages("many", np.zeros((30, 1, 2, 2), np.float32), np.arange(30), 30)
    rows = iter(range(30))
    found = collect(
        "n", lambda images: {"lengths": lengths[[next(rows, 0) for _ in images]]}, "lengths", given
    )
    assert found.right == 30
    assert len(found.examples) == 20
    assert found.missing["classes"] == "30 were found, and the first 20 are drawn"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"labels": LABELS + 1}, DataError, "the labels are 1 to 5, the network has 5 classes"),
        ({"run": lambda x: {"lengths": np.full((len(x), 5), np.nan)}}, ResultError, "NaN"),
    ],
)
def test_what_cannot_be_shown_is_an_error(options, error, message):
    with pytest.raises(error, match=message):
        shown(**options)

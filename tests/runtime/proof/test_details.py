"""What the page draws comes from what was collected, and is right by hand."""

import dataclasses

import numpy as np
import pytest
from support.artifacts import metadata_for
from support.networks import SMALL, random_images

from capsnet.artifact import OUTPUT_NAMES
from capsnet.runtime.proof.collect import Collected, Run
from capsnet.runtime.proof.details import details_of

IMAGES = random_images(SMALL, 10)
EVERY = np.arange(10)
METADATA = metadata_for(SMALL, OUTPUT_NAMES)
GOLDEN = {
    "lengths": np.linspace(0, 1, 50).reshape(10, 5),
    "capsules": np.linspace(-1, 1, 300).reshape(10, 5, 6),
    "reconstruction": np.full((10, 1, 12, 12), 0.25),
}


def collected(*runs):
    plain = {name: values + 2e-6 for name, values in GOLDEN.items()}
    return Collected(10, GOLDEN, (plain,), runs)


def found(errors):
    """Outputs whose lengths are off by so much in the first class of each image."""
    outputs = {name: values.astype(np.float32) for name, values in GOLDEN.items()}
    outputs["lengths"][:, 0] += errors
    return outputs


def test_worst_images_come_first_with_their_values():
    errors = np.array([3, 0, 9, 1, 2, 8, 7, 6, 5, 4], np.float32) / 1000
    labels = np.arange(10) % 5
    details = details_of(collected(Run(10, EVERY, found(errors))), METADATA, IMAGES, labels)
    assert [image.label for image in details.worst] == [2, 0, 1, 2, 3, 4, 0, 4]
    assert [image.index for image in details.worst] == [2, 5, 6, 7, 8, 9, 0, 4]
    worst = details.worst[0]
    assert worst.error == pytest.approx(0.009, abs=1e-6)
    assert worst.golden == tuple(GOLDEN["lengths"][2])
    assert worst.artifact[0] == pytest.approx(GOLDEN["lengths"][2, 0] + 0.009, abs=1e-6)
    np.testing.assert_allclose(worst.pixels, IMAGES[2], atol=5e-5)
    assert list(worst.pictures) == ["reconstruction"]
    assert np.shape(worst.pictures["reconstruction"]) == (1, 12, 12)


def test_histograms_count_errors_by_their_size():
    details = details_of(collected(Run(10, EVERY, found(0.02))), METADATA, IMAGES)
    histogram = details.histograms["lengths"]
    edges = histogram.edges
    assert len(edges) == len(histogram.baseline) + 1 == len(histogram.artifact) + 1
    assert histogram.baseline[edges.index(-6.0)] == 50  # 2e-6 lies between 1e-6 and 10^-5.5
    assert histogram.artifact[edges.index(-2.0)] == 10  # 0.02 between 1e-2 and 10^-1.5
    assert sum(histogram.artifact) == 50


def test_last_run_that_is_well_formed_is_drawn():
    broken = found(0) | {"lengths": np.full((10, 5), np.nan, np.float32)}
    runs = (
        Run(1, EVERY, found(0.5)),
        Run(2, EVERY, found(0.02)),
        Run(3, EVERY, broken),
        Run(4, EVERY, {}, "no memory"),
    )
    details = details_of(collected(*runs), METADATA, IMAGES)
    assert details.worst[0].error == pytest.approx(0.02, abs=1e-6)
    assert details_of(collected(*runs[2:]), METADATA, IMAGES) is None


def test_without_a_decision_the_first_output_ranks_the_images():
    metadata = dataclasses.replace(METADATA, decision=None)
    errors = np.arange(10, dtype=np.float32) / 1000
    details = details_of(collected(Run(10, EVERY, found(errors))), metadata, IMAGES)
    assert (details.worst[0].index, details.worst[0].label) == (9, None)
    assert details.worst[0].golden == details.worst[0].artifact == ()

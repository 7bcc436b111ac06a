"""A preset's network takes the images and classes that there are, or the error says what to do."""

import numpy as np
import pytest
import torch

import capsnet
from capsnet.config import preset
from capsnet.errors import ConfigError
from capsnet.training.fit import fitted


@pytest.mark.parametrize("name", ["mnist", "cifar10", "efficient", "tiny"])
def test_preset_gets_the_input_and_the_classes_of_the_images(name):
    config = fitted(preset(name), (3, 40, 36), 7)
    assert (config.image_shape, config.classes) == ((3, 40, 36), 7)
    assert config.stem == preset(name).stem


def test_network_that_fits_is_left_alone():
    config = preset("tiny")
    assert fitted(config, (1, 28, 28), 10) is config


def test_images_that_are_too_small_are_refused():
    with pytest.raises(ConfigError, match=r"\[1, 8, 8\].*resize the images \(--resize N\)"):
        fitted(preset("tiny"), (1, 8, 8), 10)


def test_network_is_trained_on_a_data_set_of_torch():
    images = torch.rand(24, 3, 28, 30)
    pairs = torch.utils.data.TensorDataset(images, torch.arange(24) % 3)
    model = capsnet.train(pairs, config="tiny", epochs=1, device="cpu")
    assert (model.config.image_shape, model.config.classes) == ((3, 28, 30), 3)
    lengths, _ = model(torch.from_numpy(np.asarray(images[:2])))
    assert lengths.shape == (2, 3)

"""Forms and presets: tables that need no torch, and what is not in them."""

import re

import pytest

from capsnet.config import CapsNetConfig, preset
from capsnet.errors import ConfigError
from capsnet.forms import FORMS, check_forms
from capsnet.layers.dense_routing import ROUTINGS
from capsnet.presets import PRESETS


def test_every_form_that_is_listed_is_accepted():
    check_forms({})
    for choice, forms in FORMS.items():
        for form in forms:
            check_forms({choice: form})
    check_forms({choice: forms[-1] for choice, forms in FORMS.items()})


def test_forms_of_routing_are_those_that_there_are():
    assert set(FORMS["routing"]) == set(ROUTINGS)


@pytest.mark.parametrize(
    ("forms", "message"),
    [
        ({"colour": "red"}, "there is no choice 'colour', expected routing, convolution"),
        ({"routing": "em"}, "routing must be one of projected, votes, got 'em'"),
        ({"routing": "auto"}, "got 'auto'; leave it out for the fastest"),
        (
            {"routing": "votes", "convolution": "Winograd"},
            "one of direct, winograd, got 'Winograd'",
        ),
    ],
)
def test_form_that_does_not_exist_is_refused(forms, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_forms(forms)


def test_presets_are_those_of_the_documentation():
    assert list(PRESETS) == ["mnist", "cifar10", "paper", "efficient", "self-routing", "tiny"]


def test_the_mnist_preset_is_the_default_network():
    assert preset("mnist") == CapsNetConfig()


def test_unknown_preset_is_refused():
    with pytest.raises(ConfigError, match=r"preset must be one of mnist, .*, tiny, got 'big'"):
        preset("big")

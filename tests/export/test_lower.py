"""The lowered network is the readable one in other words: equal in float64, in every form."""

import copy
import dataclasses

import pytest
import torch
from support.networks import SMALL, TINY, altered, lively_model, random_images, with_layers
from torch import nn

from capsnet.artifact import COUPLINGS, Claim
from capsnet.config import CapsNetConfig, preset
from capsnet.errors import ConfigError
from capsnet.export.lower import lower
from capsnet.export.lowering.base import AsWritten
from capsnet.layers.dense_routing import ROUTINGS
from capsnet.layers.dynamic import DynamicConfig
from capsnet.layers.primary import PrimaryConfig
from capsnet.layers.stem import ConvConfig
from capsnet.model import CapsNet
from capsnet.stages import record_stages

STACK = with_layers(SMALL, (7, 5, 2), (4, 6, 3))
PAPER = altered(
    SMALL,
    primary_activation="squash",
    capsule_layers=(DynamicConfig(7, 5, 2, bias=True, leaky=True), DynamicConfig(4, 6, bias=True)),
)


def largest_difference(
    config: CapsNetConfig, *, batch: int, reconstruction: bool, **forms: str
) -> float:
    """Between the outputs of the readable and the lowered model in float64."""
    model = lively_model(config).double()
    images = torch.from_numpy(random_images(config, batch)).double()
    lowered = lower(model, reconstruction=reconstruction, forms=forms)
    with torch.no_grad():
        expected = model(images)
        if reconstruction:
            expected = (*expected, model.reconstruct(expected[1], expected[0].argmax(-1)))
        found = lowered(images)
    assert len(found) == len(expected)
    assert all(a.shape == b.shape for a, b in zip(found, expected, strict=True))
    assert all(tensor.dtype == torch.float64 for tensor in found)
    assert expected[0].max() > 0.05  # lengths near zero would hide a wrong routing
    return max((a - b).abs().max().item() for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("reconstruction", [False, True])
@pytest.mark.parametrize("iterations", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("activation", ["scale", "squash"])
@pytest.mark.parametrize("routing", ROUTINGS)
def test_lowered_network_equals_the_readable_one(routing, activation, iterations, reconstruction):
    config = with_layers(TINY, (10, 8, iterations))
    config = altered(config, primary_activation=activation)
    error = largest_difference(config, batch=5, reconstruction=reconstruction, routing=routing)
    assert error < 1e-12


@pytest.mark.parametrize("reconstruction", [False, True])
@pytest.mark.parametrize("activation", ["scale", "squash"])
@pytest.mark.parametrize("routing", ROUTINGS)
def test_lowered_stack_of_layers_equals_the_readable_one(routing, activation, reconstruction):
    config = altered(STACK, primary_activation=activation)
    error = largest_difference(config, batch=5, reconstruction=reconstruction, routing=routing)
    assert error < 1e-12


@pytest.mark.parametrize(("name", "batch"), [("mnist", 2), ("cifar10", 1), ("paper", 1)])
def test_lowered_preset_equals_the_readable_one(name, batch):
    assert largest_difference(preset(name), batch=batch, reconstruction=True) < 1e-12


def test_network_on_oblong_images_of_three_channels_is_lowered_exactly():
    config = altered(SMALL, image_shape=(3, 12, 17), primary_groups=3)
    assert config.shapes[1] == (4, 8, 13)  # (3, 6) positions of three capsules behind it
    assert config.shapes[2] == (3 * 3 * 6, 4)
    assert largest_difference(config, batch=3, reconstruction=True) < 1e-12


def test_comparison_notices_an_iteration_that_is_missing():
    model = lively_model(TINY).double()
    images = torch.from_numpy(random_images(TINY, 3)).double()
    shorter = lively_model(with_layers(TINY, (10, 8, 2))).double()
    with torch.no_grad():
        assert (lower(shorter)(images)[0] - model(images)[0]).abs().max() > 1e-4


def test_reconstruction_without_a_decoder_is_refused():
    model = lively_model(altered(SMALL, decoder_sizes=None))
    with pytest.raises(ConfigError, match=r"no decoder.*without --reconstruction"):
        lower(model, reconstruction=True)
    assert lower(model).output_names == ("lengths", "capsules")


@pytest.mark.parametrize("reconstruction", [False, True])
def test_model_is_left_as_it_was(reconstruction):
    model = lively_model(SMALL).train()
    weights = copy.deepcopy(model.state_dict())
    lower(model, reconstruction=reconstruction)
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert list(model.state_dict()) == list(weights)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, weights[name], rtol=0, atol=0)


def test_lowered_network_does_not_follow_later_changes_of_the_model():
    model = lively_model(SMALL)
    lowered = lower(model, reconstruction=True)
    images = torch.from_numpy(random_images(SMALL, 2))
    before = lowered(images)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    for tensor, earlier in zip(lowered(images), before, strict=True):
        torch.testing.assert_close(tensor, earlier, rtol=0, atol=0)


def test_lowered_network_is_in_evaluation_mode_and_has_no_gradients():
    lowered = lower(lively_model(SMALL).train(), reconstruction=True)
    assert not any(module.training for module in lowered.modules())
    assert not any(parameter.requires_grad for parameter in lowered.parameters())
    outputs = lowered(torch.from_numpy(random_images(SMALL, 2)))
    assert not any(tensor.requires_grad for tensor in outputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lowered_network_keeps_the_dtype_of_the_model(dtype):
    lowered = lower(lively_model(SMALL).to(dtype), reconstruction=True)
    assert {tensor.dtype for tensor in lowered.state_dict().values()} == {dtype}


def test_form_of_the_routing_is_named_and_an_automatic_choice_is_one_of_them():
    model = lively_model(SMALL)
    assert [lower(model, forms={"routing": name}).forms["routing"] for name in ROUTINGS] == list(
        ROUTINGS
    )
    assert lower(model).forms["routing"] in ROUTINGS
    with pytest.raises(ConfigError, match="routing must be one of projected, votes, got 'em'"):
        lower(model, forms={"routing": "em"})


def test_stages_have_the_documented_names_order_and_shapes():
    lowered = lower(lively_model(STACK), reconstruction=True)
    stages = record_stages(lowered, torch.from_numpy(random_images(STACK, 3)))
    assert {name: tuple(tensor.shape) for name, tensor in stages.items()} == {
        "stem": (3, 4, 8, 8),
        "primary_capsules": (3, 4, 18),
        "layer0.iteration1.inputs": (7, 3, 5),
        "layer0.iteration1.capsules": (7, 3, 5),
        "layer0.iteration2.inputs": (7, 3, 5),
        "layer0.iteration2.capsules": (7, 3, 5),
        "layer1.iteration1.inputs": (4, 3, 6),
        "layer1.iteration1.capsules": (4, 3, 6),
        "layer1.iteration2.inputs": (4, 3, 6),
        "layer1.iteration2.capsules": (4, 3, 6),
        "layer1.iteration3.inputs": (4, 3, 6),
        "layer1.iteration3.capsules": (4, 3, 6),
        "lengths": (3, 4),
        "capsules": (3, 4, 6),
        "reconstruction": (3, 1, 12, 12),
    }
    iterations = [name for name in stages if name.startswith("layer")]
    assert list(stages) == [
        "stem",
        "primary_capsules",
        *(f"layer0.iteration{n}.{part}" for n in (1, 2) for part in ("inputs", "capsules")),
        *(f"layer1.iteration{n}.{part}" for n in (1, 2, 3) for part in ("inputs", "capsules")),
        "lengths",
        "capsules",
        "reconstruction",
    ]
    assert len(iterations) == 10


@pytest.mark.parametrize("reconstruction", [False, True])
def test_outputs_are_the_last_stages_in_order(reconstruction):
    lowered = lower(lively_model(SMALL), reconstruction=reconstruction)
    images = torch.from_numpy(random_images(SMALL, 2))
    stages = record_stages(lowered, images)
    names = ("lengths", "capsules", "reconstruction")[: 3 if reconstruction else 2]
    assert lowered.output_names == tuple(stages)[-len(names) :] == names
    for name, tensor in zip(names, lowered(images), strict=True):
        torch.testing.assert_close(tensor, stages[name], rtol=0, atol=0)


def test_last_iteration_is_the_output():
    lowered = lower(lively_model(SMALL))
    stages = record_stages(lowered, torch.from_numpy(random_images(SMALL, 2)))
    last = stages["layer0.iteration3.capsules"].movedim(0, 1)
    torch.testing.assert_close(stages["capsules"], last, rtol=0, atol=0)
    torch.testing.assert_close(stages["lengths"], last.square().sum(-1).sqrt())


def test_stages_of_earlier_iterations_are_those_of_a_shorter_routing():
    images = torch.from_numpy(random_images(TINY, 3)).double()
    stages = record_stages(lower(lively_model(TINY).double()), images)
    for iterations in (1, 2):
        shorter = lively_model(with_layers(TINY, (10, 8, iterations))).double()
        with torch.no_grad():
            _, capsules = shorter(images)
        found = stages[f"layer0.iteration{iterations}.capsules"].movedim(0, 1)
        torch.testing.assert_close(found, capsules, rtol=0, atol=1e-12)


# Layouts


@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize(
    "config",
    [SMALL, altered(SMALL, primary_activation="squash"), STACK, PAPER],
    ids=["small", "squash", "stack", "paper"],
)
def test_every_stage_is_the_readable_one_in_another_layout(config, routing):
    model = lively_model(config).double()
    images = torch.from_numpy(random_images(config, 3)).double()
    lowered = lower(model, reconstruction=True, forms={"routing": routing})
    with torch.no_grad():
        expected, found = record_stages(model, images), record_stages(lowered, images)
    assert list(found) == list(expected)
    for name, values in expected.items():
        readable = lowered.to_readable(name, found[name])
        assert readable.shape == values.shape, name
        assert values.abs().max() > 1e-3, name
        assert (readable - values).abs().max() < 1e-12, name


def test_the_layouts_differ_so_that_the_comparison_means_something():
    lowered = lower(lively_model(SMALL))
    stages = record_stages(lowered, torch.from_numpy(random_images(SMALL, 3)))
    for name in ("primary_capsules", "layer0.iteration1.inputs"):
        assert lowered.to_readable(name, stages[name]).shape != stages[name].shape
    for name in ("stem", "lengths", "capsules"):
        assert lowered.to_readable(name, stages[name]) is stages[name]


@pytest.mark.parametrize("config", [SMALL, STACK], ids=["small", "stack"])
def test_a_network_as_written_is_the_readable_one(config):
    model = lively_model(config)
    images = torch.from_numpy(random_images(config, 3))
    lowered = lower(model, reconstruction=True, as_written=True)
    with torch.no_grad():
        expected, found = record_stages(model, images), record_stages(lowered, images)
    assert list(found) == list(expected)
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=0, atol=0)
        assert lowered.to_readable(name, found[name]) is found[name]
    assert lowered.forms == {}
    assert lowered.claims == ()


def test_convolutions_may_follow_each_other():
    config = dataclasses.replace(
        SMALL,
        stem=ConvConfig(4, 3),
        primary=ConvConfig(5, 3),
        capsule_layers=(PrimaryConfig(3, 4, 3), DynamicConfig(6, 5)),
    )
    model = CapsNet(config).double()
    images = torch.from_numpy(random_images(config, 3)).double()
    lowered = lower(model)
    with torch.no_grad():
        for found, expected in zip(lowered(images), model(images), strict=True):
            assert expected.abs().max() > 0
            torch.testing.assert_close(found, expected, rtol=1e-11, atol=0)
    assert lowered.forms == {"convolution": "direct", "routing": "projected"}


def test_outputs_are_readable_even_where_no_layer_is_routed():
    config = dataclasses.replace(
        SMALL,
        stem=ConvConfig(4, 3),
        primary=ConvConfig(5, 3),
        capsule_layers=(PrimaryConfig(groups=3, dim=4, kernel=3, stride=4),),
    )
    assert config.shapes[-1] == (2 * 2 * 3, 4)
    model = CapsNet(config).double()
    images = torch.from_numpy(random_images(config, 3)).double()
    with torch.no_grad():
        for found, expected in zip(lower(model)(images), model(images), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-11, atol=0)


# Claims


def claims_of(config, **options):
    return lower(lively_model(config), **options).claims


def test_claims_of_layers_with_the_same_operators_are_merged():
    assert claims_of(SMALL) == (Claim("routing of 3 iterations", COUPLINGS, 2, 2),)
    assert claims_of(STACK) == (
        Claim("routing of 2 iterations, routing of 3 iterations", COUPLINGS, 1 + 2, 1 + 2),
    )


def test_leaky_routing_claims_the_exponentials_of_its_extra_logit():
    expected = Claim("routing of 2 iterations, routing of 3 iterations", COUPLINGS, 2 + 2, 2 + 2)
    assert claims_of(PAPER) == (expected,)


def test_a_layer_that_is_not_lowered_may_hold_more_of_what_others_claim():
    model = lively_model(STACK)
    model.capsule_layers[0] = Unknown(model.capsule_layers[0])
    assert lower(model).claims == (Claim("routing of 3 iterations", COUPLINGS, 2, None),)


class Unknown(nn.Module):
    """A layer of a type that no rewrite is registered for."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, capsules):
        return self.layer(capsules)


@pytest.mark.parametrize("activation", ["scale", "squash"])
def test_a_layer_without_a_rewrite_is_exported_as_it_is_written(activation):
    model = lively_model(altered(STACK, primary_activation=activation)).double()
    images = torch.from_numpy(random_images(STACK, 3)).double()
    expected = model(images)
    for index in (0, 1):  # behind the lowered primary capsules, and behind a layer like it
        model.capsule_layers[index] = Unknown(model.capsule_layers[index])
        lowered = lower(model)
        assert isinstance(lowered.layers[f"layer{index}"], AsWritten)
        for found, values in zip(lowered(images), expected, strict=True):
            torch.testing.assert_close(found, values, rtol=1e-11, atol=0)

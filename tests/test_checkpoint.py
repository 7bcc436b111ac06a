"""Checkpoints: exact round trips, readable_capsnet's weights, and every file that is neither."""

import functools
import io
import json
import pickle
import random
import re
import resource
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from support import oracle
from support.networks import altered, network

from capsnet.bundled import BUNDLED
from capsnet.checkpoint import load_checkpoint, save_checkpoint
from capsnet.config import CapsNetConfig, preset
from capsnet.errors import CheckpointError, OutputError
from capsnet.layers.dynamic import DynamicConfig
from capsnet.model import CapsNet

SMALL = network(
    image_shape=(2, 9, 11),
    stem_channels=3,
    stem_kernel=3,
    primary_groups=2,
    primary_dim=3,
    primary_kernel=3,
    capsule_layers=(DynamicConfig(4, 5), DynamicConfig(3, 2, 1)),
    decoder_sizes=(6, 4),
)
CONFIGS = {
    "tiny": preset("tiny"),
    "stack": SMALL,
    "squashed": altered(SMALL, primary_activation="squash", decoder_sizes=None),
}


def refuse(path, *messages):
    """The one error of loading ``path``, which names the file and says ``messages``."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    for message in (str(path), *messages):
        assert message in str(caught.value)


def metadata(path):
    with safetensors.safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["capsnet"])


def rewrite(path, change, document=None):
    """Save a small network, then again with its tensors changed, and perhaps its document."""
    save_checkpoint(CapsNet(SMALL), path)
    tensors = safetensors.torch.load_file(path)
    document = json.dumps(metadata(path)) if document is None else document
    change(tensors)
    safetensors.torch.save_file(tensors, path, {"capsnet": document})


def readable_state(
    *, channels=1, image=(28, 28), stem=8, groups=4, dim=4, classes=10, class_dim=8, hidden=(16, 24)
):
    """Random weights of readable_capsnet's Encoder and Decoder, with long class capsules."""

    def convolution(outputs, inputs, size=9):
        bound = (inputs * size * size) ** -0.5
        return torch.empty(outputs, inputs, size, size).uniform_(-bound, bound)

    height, width = ((size - 8 - 9) // 2 + 1 for size in image)
    encoder = OrderedDict(
        {
            "image2primary_capsules.0.weight": 2 * convolution(stem, channels),
            "image2primary_capsules.0.bias": torch.randn(stem) / 10,
            "image2primary_capsules.2.weight": 2 * convolution(groups * dim, stem),
            "image2primary_capsules.2.bias": torch.randn(groups * dim) / 10,
            "primary2digit_capsules.input_caps2U.weight": 40
            * torch.randn(height * width * groups, dim, classes, class_dim),
        }
    )
    decoder = OrderedDict(
        {
            "0.weight": torch.randn(classes, class_dim, hidden[0]),
            "2.weight": torch.randn(hidden[1], hidden[0]) / hidden[0] ** 0.5,
            "2.bias": torch.randn(hidden[1]),
            "4.weight": torch.randn(hidden[1], channels, *image) / hidden[1] ** 0.5,
        }
    )
    return encoder, decoder


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_network_comes_back_bit_for_bit(tmp_path, config):
    model = CapsNet(config)
    save_checkpoint(model, tmp_path / "model.safetensors")
    loaded = load_checkpoint(tmp_path / "model.safetensors")
    assert loaded.config == config
    assert not loaded.training
    assert all(p.requires_grad and p.dtype == torch.float32 for p in loaded.parameters())
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    images = torch.rand(2, *config.image_shape)
    assert torch.equal(loaded(images)[1], model(images)[1])


def test_half_a_checkpoint_holds_the_weights_rounded_to_float16(tmp_path):
    model = CapsNet(SMALL)
    save_checkpoint(model, tmp_path / "whole.safetensors")
    save_checkpoint(model, tmp_path / "half.safetensors", half=True)
    stored = safetensors.torch.load_file(tmp_path / "half.safetensors")
    loaded = load_checkpoint(tmp_path / "half.safetensors").state_dict()
    for name, tensor in model.state_dict().items():
        assert stored[name].dtype == torch.float16
        assert torch.equal(loaded[name], tensor.half().float())
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("half", "whole")]
    assert sizes[0] < sizes[1]


def test_a_float64_network_is_stored_in_float32(tmp_path):
    model = CapsNet(SMALL).double()
    save_checkpoint(model, tmp_path / "model.safetensors")
    loaded = load_checkpoint(tmp_path / "model.safetensors").state_dict()
    assert all(torch.equal(loaded[n], t.float()) for n, t in model.state_dict().items())


def test_the_file_holds_the_configuration_and_how_it_was_trained(tmp_path):
    path = tmp_path / "model.safetensors"
    save_checkpoint(CapsNet(SMALL), path, training={"epochs": 3})
    document = metadata(path)
    assert CapsNetConfig.from_dict(document["config"]) == SMALL
    assert document["training"] == {"epochs": 3}


def test_the_file_says_which_schema_it_follows(tmp_path):
    path = tmp_path / "model.safetensors"
    save_checkpoint(CapsNet(SMALL), path)
    document = metadata(path)
    assert document["schema_version"] == 2
    assert document.keys() == {"schema_version", "config", "training"}


def test_a_newer_schema_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    save_checkpoint(CapsNet(SMALL), path)
    document = metadata(path)
    rewrite(path, lambda _: None, json.dumps(document | {"schema_version": 3}))
    refuse(path, "has schema version 3, this toolkit reads up to 2: upgrade capsnet-export")
    rewrite(path, lambda _: None, json.dumps(document | {"schema_version": "new"}))
    refuse(path, "bad configuration")


def test_a_checkpoint_of_version_0_1_is_read(tmp_path):
    flat = {
        "image_shape": [2, 9, 11],
        "stem_channels": 3,
        "stem_kernel": 3,
        "primary_groups": 2,
        "primary_dim": 3,
        "primary_kernel": 3,
        "primary_stride": 2,
        "primary_activation": "scale",
        "capsule_layers": [
            {"capsules": 4, "dim": 5, "routing_iterations": 3},
            {"capsules": 3, "dim": 2, "routing_iterations": 1},
        ],
        "decoder_sizes": [6, 4],
    }
    path = tmp_path / "model.safetensors"
    rewrite(path, lambda _: None, json.dumps({"config": flat, "training": {}}))
    assert "schema_version" not in metadata(path)
    model = load_checkpoint(path)
    assert model.config == SMALL
    tensors = safetensors.torch.load_file(path)
    assert all(torch.equal(tensors[name], t) for name, t in model.state_dict().items())


def test_saving_twice_gives_the_same_bytes(tmp_path):
    model = CapsNet(SMALL)
    for name in ("a", "b"):
        save_checkpoint(model, tmp_path / name, training={"b": 1, "a": 2})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_full_disk_is_an_output_error_and_keeps_the_earlier_file(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_text("earlier")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OutputError, match=re.escape(str(path))):
            save_checkpoint(CapsNet(SMALL), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [p.read_text() for p in tmp_path.iterdir()] == ["earlier"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    path = tmp_path / "model.safetensors"
    rewrite(path, lambda tensors: tensors["primary.weight"].view(-1)[7].fill_(value))
    refuse(path, "tensor primary.weight holds NaN or infinity")


def test_weights_that_overflow_float32_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    bias = torch.full((3,), 1e300, dtype=torch.float64)
    rewrite(path, lambda tensors: tensors.update({"stem.bias": bias}))
    refuse(path, "tensor stem.bias holds NaN or infinity in float32")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("stem.bias"), "stem.bias is missing"),
        (lambda t: t.update(extra=torch.zeros(1)), "extra is not expected"),
        (
            lambda t: t.update({"stem.bias": torch.zeros(4)}),
            "stem.bias has shape [4], expected [3]",
        ),
        (
            lambda t: t.update({"capsule_layers.1.weight": torch.zeros(5, 4, 3, 2)}),
            "capsule_layers.1.weight has shape [5, 4, 3, 2], expected [4, 5, 3, 2]",
        ),
        (
            lambda t: t.update({"stem.bias": torch.zeros(3, dtype=torch.int64)}),
            "tensor stem.bias is torch.int64",
        ),
        (lambda t: t.clear(), "capsule_layers.0.weight is missing; capsule_layers.1.weight is"),
    ],
)
def test_tensors_that_do_not_fit_the_configuration_are_refused(tmp_path, change, message):
    path = tmp_path / "model.safetensors"
    rewrite(path, change)
    refuse(path, message)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("", "bad configuration"),
        ("{", "bad configuration"),
        ("[" * 100_000, "bad configuration"),
        ("[]", "bad configuration"),
        ("{}", "bad configuration: 'config'"),
        ('{"config": null}', "expected an object, got None"),
        ('{"config": {"colour": "red"}}', "colour is not known, expected image_shape, stem"),
        ('{"config": {"stem_kernel": 0}}', "conv: kernel must be a positive integer, got 0"),
        ('{"config": {"stem_kernel": 29}}', "no pixels are left"),
        (json.dumps({"config": {"primary_groups": 10**18}}), "groups must be at most 268435456"),
        (json.dumps({"config": {"stem_channels": 10**30}}), "channels must be at most 268435456"),
        ('{"config": {}}', "stem.weight has shape [3, 2, 3, 3], expected [256, 1, 9, 9]"),
    ],
)
def test_a_broken_configuration_is_refused(tmp_path, document, message):
    path = tmp_path / "model.safetensors"
    rewrite(path, lambda _: None, document)
    refuse(path, message)


def test_a_safetensors_file_without_a_configuration_is_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"weight": torch.zeros(3)}, path)
    refuse(path, "holds no CapsNet configuration", "save_checkpoint")


def test_a_missing_file_is_refused(tmp_path):
    refuse(tmp_path / "absent.safetensors", "No such file or directory", "bundled one: mnist")


def test_a_folder_is_refused(tmp_path):
    refuse(tmp_path, "Is a directory")


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
@pytest.mark.parametrize(
    "content", [b"", b"x", b"rubbish" * 100, b"\x80\x04.", b"PK\x03\x04abcdef"]
)
def test_rubbish_is_refused(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    message = "truncated or damaged" if path.suffix == ".safetensors" else "is not a checkpoint"
    refuse(path, message)


@pytest.fixture
def whole(tmp_path, request):
    """The bytes of a checkpoint of one kind, and where to put others like it."""
    path = tmp_path / f"whole.{request.param}"
    if request.param == "safetensors":
        save_checkpoint(CapsNet(SMALL), path)
    else:
        encoder, _ = readable_state(stem=1, groups=1, dim=1, classes=2, class_dim=1)
        torch.save(encoder, path, _use_new_zipfile_serialization=request.param == "pt")
    load_checkpoint(path)
    return path.read_bytes(), tmp_path / f"damaged.{request.param}"


kinds = pytest.mark.parametrize("whole", ["safetensors", "pt", "old.pt"], indirect=True)


@kinds
def test_a_truncated_file_is_refused(whole):
    content, path = whole
    for size in [*range(64), *range(64, len(content), len(content) // 50), len(content) - 1]:
        path.write_bytes(content[:size])
        refuse(path)


@kinds
def test_a_damaged_byte_never_gives_another_error(whole):
    content, path = whole
    chance, refused = random.Random(0), 0
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(chance.randint(1, 3)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        path.write_bytes(damaged)
        try:
            load_checkpoint(path)
        except CheckpointError:
            refused += 1
    assert refused > 10


class Malicious:
    """An object whose unpickling creates a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("name", ["evil.pt", "evil.safetensors"])
@pytest.mark.parametrize("form", ["alone", "among tensors", "old format", "plain pickle"])
def test_a_malicious_pickle_is_never_executed(tmp_path, name, form):
    path, marker = tmp_path / name, tmp_path / "executed"
    evil = Malicious(marker)
    encoder, _ = readable_state(stem=1, groups=1, dim=1, classes=2, class_dim=1)
    if form == "plain pickle":
        path.write_bytes(pickle.dumps(evil))
        unpickle = pickle.load
    else:
        unpickle = functools.partial(torch.load, weights_only=False)
        content = {**encoder, "evil": evil} if form == "among tensors" else evil
        torch.save(content, path, _use_new_zipfile_serialization=form != "old format")
    refuse(path)
    assert not marker.exists()
    unpickle(io.BytesIO(path.read_bytes()))
    assert marker.exists()  # the file was dangerous


def test_a_safetensors_file_is_never_given_to_an_unpickler(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("torch.load", lambda *args, **_: calls.append(args))
    path = tmp_path / "model.safetensors"
    save_checkpoint(CapsNet(SMALL), path)
    assert load_checkpoint(path).config == SMALL
    assert load_checkpoint(path.rename(tmp_path / "no-suffix")).config == SMALL
    for content in (b"", pickle.dumps({}), b"\0" * 100):
        path.write_bytes(content)
        refuse(path, "truncated or damaged")
    assert calls == []


def without(state, name):
    return {key: value for key, value in state.items() if key != name}


ENCODER, DECODER = readable_state(stem=2, groups=2, dim=2, classes=3, class_dim=2)
WEIGHT = "primary2digit_capsules.input_caps2U.weight"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(3), "is not a state_dict"),
        ([ENCODER], "is not a state_dict"),
        ({"encoder": ENCODER, "decoder": DECODER["0.weight"]}, "is not a state_dict"),
        ({"encoder": None}, "is not a state_dict"),
        ({**ENCODER, "epoch": 3}, "is not a state_dict"),
        ({1: torch.zeros(1)}, "is not a state_dict"),
        ({}, "does not hold a network of arogozhnikov/readable_capsnet"),
        ({"weight": torch.zeros(1)}, "image2primary_capsules.0.weight is missing"),
        (without(ENCODER, WEIGHT), f"{WEIGHT} is missing"),
        (DECODER, "image2primary_capsules.0.weight is missing"),
        (
            {"encoder": ENCODER, "decoder": without(DECODER, "2.bias")},
            "decoder.2.bias is missing, expected of shape [24]",
        ),
        ({**ENCODER, "more.weight": torch.zeros(1)}, "more.weight, of shape [1], is not expected"),
        (
            {"encoder": ENCODER, "decoder": {**DECODER, "0.bias": torch.ones(16)}},
            "decoder.0.bias, of shape [16], is not expected",
        ),
        (
            {**ENCODER, WEIGHT: torch.zeros(3)},
            f"{WEIGHT} has shape [3], expected [capsules0, dim0, ",
        ),
        ({**ENCODER, WEIGHT: torch.zeros(72, 0, 3, 2)}, f"{WEIGHT} has shape [72, 0, 3, 2]"),
        ({**ENCODER, WEIGHT: torch.zeros(72, 9, 3, 2)}, "must be a multiple of 9, got 4"),
        ({**ENCODER, WEIGHT: torch.zeros(72, 2, 1, 2)}, "it needs at least 2"),
        (
            {"encoder": ENCODER, "decoder": {**DECODER, "0.weight": torch.zeros(3, 4)}},
            "decoder.0.weight has shape [3, 4], expected [3, 2, hidden0]",
        ),
        (
            {"encoder": ENCODER, "decoder": {**DECODER, "0.weight": torch.tensor(1.0)}},
            "decoder.0.weight has shape [], expected [3, 2, hidden0]",
        ),
        (
            {"encoder": ENCODER, "decoder": {**DECODER, "4.weight": torch.zeros(0, 1, 28, 28)}},
            "decoder.4.weight has shape [0, 1, 28, 28], expected [24, 1, height, width]",
        ),
        (
            {**ENCODER, WEIGHT: ENCODER[WEIGHT][:-1]},
            "must be a multiple of 2, got 71",
        ),
        (
            {"encoder": ENCODER, "decoder": {**DECODER, "2.weight": torch.zeros(24, 15)}},
            "decoder.2.weight has shape [24, 15], expected [hidden1, 16]",
        ),
        ({**ENCODER, WEIGHT: ENCODER[WEIGHT] / 0}, "capsule_layers.0.weight holds NaN or infinity"),
        ({**ENCODER, WEIGHT: ENCODER[WEIGHT].to(torch.complex64)}, "is torch.complex64"),
        ({**ENCODER, WEIGHT: ENCODER[WEIGHT].to_sparse()}, "is torch.float32 (torch.sparse_coo)"),
    ],
)
def test_a_pt_file_that_is_no_state_dict_of_readable_capsnet_is_refused(tmp_path, content, message):
    path = tmp_path / "state.pt"
    torch.save(content, path)
    refuse(path, message)


@pytest.mark.parametrize("prefix", ["", "module.", "net."])
def test_a_bare_state_dict_of_this_toolkits_network_names_what_saves_it(tmp_path, prefix):
    state = {f"{prefix}{name}": t for name, t in CapsNet(SMALL).state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "bare.pt")
    refuse(tmp_path / "bare.pt", "without its configuration", "save_checkpoint(model, ")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda encoder, decoder: {"state_dict": {"encoder": encoder, "decoder": decoder}},
        lambda encoder, _: {"model_state_dict": encoder, "epoch": 3},
        lambda encoder, _: {f"module.encoder.{name}": t for name, t in encoder.items()},
        lambda encoder, decoder: {
            **{f"encoder.{name}": t for name, t in encoder.items()},
            **{f"decoder.{name}": t for name, t in decoder.items()},
        },
    ],
)
def test_what_training_scripts_wrap_around_weights_is_taken_off(tmp_path, wrap):
    torch.save(wrap(ENCODER, DECODER), tmp_path / "wrapped.pt")
    model = load_checkpoint(tmp_path / "wrapped.pt")
    assert torch.equal(model.capsule_layers[0].weight, ENCODER[WEIGHT])
    assert model.config.classes == 3


@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning")
def test_a_torchscript_artifact_is_not_a_checkpoint(tmp_path):
    path = tmp_path / "capsnet.torchscript.pt"
    torch.jit.script(torch.nn.Linear(1, 1)).save(path)
    refuse(path, "is not a checkpoint")


def test_a_whole_pickled_module_is_refused(tmp_path):
    path = tmp_path / "module.pt"
    torch.save(torch.nn.Linear(1, 1), path)
    refuse(path, "is not a checkpoint", "holds only tensors")


SIZES = {
    "small": {},
    "colour": {"channels": 3, "image": (32, 32), "classes": 5, "class_dim": 3, "dim": 6},
    "odd": {"image": (27, 27)},
    "wide": {"image": (20, 27)},
    "mnist": {"stem": 256, "groups": 32, "dim": 8, "class_dim": 16, "hidden": (512, 1024)},
}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_weights_of_readable_capsnet_give_what_it_computes(tmp_path, sizes):
    encoder, decoder = readable_state(**sizes)
    shape = (sizes.get("channels", 1), *sizes.get("image", (28, 28)))
    images = torch.rand(1 if "stem" in sizes else 3, *shape)
    path = tmp_path / "state.pt"
    torch.save({"encoder": encoder, "decoder": decoder}, path)
    model = load_checkpoint(path)
    assert model.config.image_shape == shape
    with torch.no_grad():
        lengths, capsules = model(images)
        classes = lengths.argmin(-1)
        reconstructions = model.reconstruct(capsules, classes)
    expected = oracle.readable_capsnet_encoder(encoder, images)
    assert 0.1 < np.linalg.norm(expected, axis=-1).max() < 1
    np.testing.assert_allclose(capsules, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(lengths, np.linalg.norm(expected, axis=-1), rtol=0, atol=1e-5)
    expected = oracle.readable_capsnet_decoder(decoder, expected, classes)
    np.testing.assert_allclose(reconstructions, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", ["small", "colour", "mnist"])
@pytest.mark.parametrize("wrap", [dict, lambda state: {"encoder": state, "decoder": None}])
def test_an_encoder_alone_has_its_image_size_inferred(tmp_path, size, wrap):
    encoder, decoder = readable_state(**SIZES[size])
    torch.save({"encoder": encoder, "decoder": decoder}, tmp_path / "both.pt")
    torch.save(wrap(encoder), tmp_path / "encoder.pt")
    both, alone = (load_checkpoint(tmp_path / name) for name in ("both.pt", "encoder.pt"))
    assert alone.decoder is None
    assert alone.config == altered(both.config, decoder_sizes=None)
    for name, tensor in alone.state_dict().items():
        assert torch.equal(tensor, both.state_dict()[name])


def test_true_sizes_give_the_mnist_preset(tmp_path):
    encoder, decoder = readable_state(**SIZES["mnist"])
    torch.save({"encoder": encoder, "decoder": decoder}, tmp_path / "mnist.pt")
    assert load_checkpoint(tmp_path / "mnist.pt").config == preset("mnist")


def test_loading_prints_nothing(tmp_path, capsys, caplog):
    torch.save(ENCODER, tmp_path / "state.pt")
    load_checkpoint(tmp_path / "state.pt")
    assert capsys.readouterr() == ("", "")
    assert caplog.records == []


def test_the_bundled_checkpoint_is_the_mnist_preset():
    model = load_checkpoint(BUNDLED["mnist"])
    assert model.config == preset("mnist")
    assert metadata(BUNDLED["mnist"])["training"]

"""The document inside an artifact: round trip, claims, version 1, contradictions."""

import dataclasses
import json

import pytest
from support.artifacts import metadata_for
from support.networks import SMALL

from capsnet.artifact import COUPLINGS, ArtifactMetadata, Claim, TensorSpec
from capsnet.config import CapsNetConfig
from capsnet.errors import ArtifactError

ROUTING = Claim("routing of 3 iterations", COUPLINGS, 2, 2)
METADATA = dataclasses.replace(
    metadata_for(SMALL),
    claims=(ROUTING,),
    forms={"routing": "projected", "convolution": "direct"},
    opset=18,
    ir_version=10,
)
VERSION_1 = {
    "schema_version": 1,
    "toolkit_version": "0.1.0",
    "exporter": "torch.onnx",
    "versions": {"torch": "2.13.0"},
    "checkpoint_sha256": "ab" * 32,
    "config": {
        "image_shape": [1, 12, 12],
        "stem_channels": 4,
        "stem_kernel": 5,
        "primary_groups": 2,
        "primary_dim": 4,
        "primary_kernel": 3,
        "primary_stride": 2,
        "primary_activation": "scale",
        "capsule_layers": [{"capsules": 5, "dim": 6, "routing_iterations": 3}],
        "decoder_sizes": [8],
    },
    "routing": "votes",
    "routing_iterations": [3],
    "convolution": "winograd",
    "precision": "fp32",
    "inputs": [{"name": "image", "dtype": "float32", "shape": ["batch", 1, 12, 12]}],
    "outputs": [
        {"name": "lengths", "dtype": "float32", "shape": ["batch", 5]},
        {"name": "capsules", "dtype": "float32", "shape": ["batch", 5, 6]},
    ],
    "opset": 18,
    "ir_version": 10,
}
"""As version 0.1 of the toolkit wrote it."""


def read(document):
    return ArtifactMetadata.from_json(json.dumps(document))


def test_document_comes_back_as_it_was():
    text = METADATA.to_json()
    assert "\n" not in text
    assert ArtifactMetadata.from_json(text) == METADATA
    assert ArtifactMetadata.from_json(text).to_json() == text


def test_shapes_are_those_of_the_input():
    assert METADATA.image_shape == (1, 12, 12)
    assert METADATA.fixed_batch is None
    assert metadata_for(SMALL, batch=4).fixed_batch == 4


# Version 2


def test_document_of_version_2_is_read():
    document = json.loads(METADATA.to_json())
    del document["class_names"], document["training_inputs"]
    assert read(document | {"schema_version": 2}) == METADATA


def test_names_must_be_those_of_the_classes():
    names = ("a", "b", "c", "d", "e")
    named = dataclasses.replace(METADATA, class_names=names)
    assert read(json.loads(named.to_json())).class_names == names
    assert "Classes in order: a, b, c, d, e." in named.describe()
    with pytest.raises(ArtifactError, match="4 names for 5 classes"):
        read(json.loads(named.to_json()) | {"class_names": names[1:]})


# Version 1


def test_document_of_version_1_is_read():
    metadata = read(VERSION_1)
    assert metadata.schema_version == 3
    assert metadata.forms == {"routing": "votes", "convolution": "winograd"}
    assert metadata.claims == (ROUTING_CLAIM_OF_VERSION_1,)
    assert metadata.decision == "lengths"
    assert CapsNetConfig.from_dict(metadata.config) == SMALL
    assert metadata.checkpoint_sha256 == "ab" * 32
    assert metadata.outputs[1] == TensorSpec("capsules", "float32", ("batch", 5, 6))
    assert (metadata.opset, metadata.ir_version, metadata.precision) == (18, 10, "fp32")
    assert ArtifactMetadata.from_json(metadata.to_json()) == metadata


ROUTING_CLAIM_OF_VERSION_1 = Claim("routing of [3] iterations", COUPLINGS, 2, 2)


def test_document_of_version_1_before_there_was_a_choice_of_convolutions_is_read():
    old = {name: value for name, value in VERSION_1.items() if name != "convolution"}
    assert read(old).forms == {"routing": "votes", "convolution": "direct"}


def test_claim_of_version_1_covers_all_layers():
    layers = [{"capsules": 5, "dim": 6, "routing_iterations": count} for count in (1, 2, 4)]
    document = VERSION_1 | {
        "config": VERSION_1["config"] | {"capsule_layers": layers},
        "routing_iterations": [1, 2, 4],
    }
    (claim,) = read(document).claims
    assert (claim.least, claim.most) == (0 + 1 + 3, 0 + 1 + 3)


def test_document_of_version_1_that_contradicts_itself_is_refused():
    with pytest.raises(
        ArtifactError, match=r"routing iterations \[2\], but the model .* says \[3\]"
    ):
        read(VERSION_1 | {"routing_iterations": [2]})


@pytest.mark.parametrize("name", ["routing", "routing_iterations", "config", "precision"])
def test_document_of_version_1_with_a_part_missing_is_refused(name):
    with pytest.raises(ArtifactError, match=f"the metadata is damaged: .*{name}.*; export again"):
        read({key: value for key, value in VERSION_1.items() if key != name})


# Refusals


@pytest.mark.parametrize("version", [0, 4, 99, "2", None])
def test_another_schema_version_is_refused(version):
    with pytest.raises(ArtifactError, match=f"schema version {version}, .* reads up to 3: upgrade"):
        read(json.loads(METADATA.to_json()) | {"schema_version": version})


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", "{}", "[" * 100_000])
def test_text_that_is_no_document_is_refused(text):
    with pytest.raises(ArtifactError, match=r"the metadata is damaged: .*; export again"):
        ArtifactMetadata.from_json(text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": 32}, "damaged: precision: expected str, got 32"),
        ({"colour": "red"}, "damaged: colour is not known"),
        ({"claims": [{"what": "x"}]}, r"damaged: claims\[0\].operators is missing"),
        ({"inputs": []}, "names the inputs and outputs lengths, capsules, expected at least one"),
        ({"outputs": []}, "names the inputs and outputs image, expected at least one of each"),
        (
            {"outputs": [{"name": "image", "dtype": "float32", "shape": ["batch", 5]}]},
            "image, image, expected at least one of each, all different",
        ),
        (
            {"outputs": [{"name": "lengths", "dtype": "float64", "shape": ["batch", 5]}]},
            "not float32 with a batch axis",
        ),
        (
            {"outputs": [{"name": "lengths", "dtype": "float32", "shape": []}]},
            "not float32 with a batch axis",
        ),
        (
            {"outputs": [{"name": "lengths", "dtype": "float32", "shape": [2, 5]}]},
            "inputs and outputs of different batch sizes",
        ),
        ({"decision": "votes"}, "votes decides the class, and is none of its outputs"),
        ({"decision": "image"}, "image decides the class, and is none of its outputs"),
    ],
)
def test_document_that_is_wrong_is_refused_with_the_reason(changes, message):
    with pytest.raises(ArtifactError, match=message):
        read(json.loads(METADATA.to_json()) | changes)


def test_a_network_that_classifies_nothing_has_no_decision():
    assert read(json.loads(METADATA.to_json()) | {"decision": None}).decision is None


# Claims


@pytest.mark.parametrize(
    ("least", "most", "found", "problem"),
    [
        (2, 2, {"Exp": 2}, None),
        (2, 2, {"Exp": 1, "Softmax": 1, "Conv": 9}, None),
        (2, 2, {"Exp": 1}, "a thing takes 2 of Exp/Softmax, the graph has 1"),
        (2, 2, {"Exp": 2, "Softmax": 1}, "a thing takes 2 of Exp/Softmax, the graph has 3"),
        (2, None, {"Exp": 7}, None),
        (2, None, {}, "a thing takes at least 2 of Exp/Softmax, the graph has 0"),
        (0, 0, {}, None),
        (0, 0, {"Softmax": 1}, "a thing takes 0 of Exp/Softmax, the graph has 1"),
    ],
)
def test_claim_counts_its_operators_together(least, most, found, problem):
    assert Claim("a thing", ("Exp", "Softmax"), least, most).problem(found) == problem


def test_claims_of_one_graph_add_up():
    two, three = (Claim(f"{count}", COUPLINGS, count, count) for count in (2, 3))
    assert two.and_also(three) == Claim("2, 3", COUPLINGS, 5, 5)
    assert two.and_also(dataclasses.replace(three, most=None)) == Claim("2, 3", COUPLINGS, 5, None)
    none = Claim("none", COUPLINGS, 0, 0)
    assert none.and_also(none) == Claim("none, none", COUPLINGS, 0, 0)

"""The layout that a file in TOML describes, of NumPy's and safetensors' files; and what is none."""

import zipfile

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from support import oracle
from support.foreign import GROUPS, SIDE, TORCH

from capsnet.errors import CheckpointError
from capsnet.importers.reading import import_network, read_tensors
from capsnet.importers.weights import Given

WEIGHTS = TORCH["readable_capsnet"].weights()
NAMES = {
    "stem/kernel": "image2primary_capsules.0.weight",
    "stem/bias": "image2primary_capsules.0.bias",
    "primary/kernel": "image2primary_capsules.2.weight",
    "primary/bias": "image2primary_capsules.2.bias",
    "first": "primary2digit_capsules.input_caps2U.weight",
    "second": "second.input_caps2U.weight",
}
MAPPING = f"""
ignore = ["step"]

[network]
image_shape = [1, {SIDE}, {SIDE}]
stem = {{ kind = "conv", channels = 5, kernel = 5 }}
primary = {{ kind = "primary", groups = {GROUPS}, dim = 4, kernel = 3 }}
decoder = false

[[network.capsule_layers]]
kind = "dynamic"
capsules = 5
dim = 7

[[network.capsule_layers]]
kind = "dynamic"
capsules = 3
dim = 6

[weights]
"stem.weight" = {{ name = "stem/kernel", axes = "y x i o -> o i y x" }}
"stem.bias" = "stem/bias"
"primary.weight" = {{ name = "primary/kernel", axes = "y x i o -> o i y x" }}
"primary.bias" = "primary/bias"
"capsule_layers.0.weight" = {{ name = "first", axes = "o h i d -> i d o h" }}
"capsule_layers.1.weight" = "second"
"""


def arrays():
    found = {name: WEIGHTS[f"encoder.{theirs}"] for name, theirs in NAMES.items()}
    for name in ("stem/kernel", "primary/kernel"):
        found[name] = found[name].transpose(2, 3, 1, 0)
    found["first"] = found["first"].transpose(2, 3, 0, 1)
    found["step"] = np.array([3])
    return {name: np.ascontiguousarray(values) for name, values in found.items()}


def save_npz(path, found):
    np.savez_compressed(path, **found)


def save_safetensors(path, found):
    save_file(found, path)


def imported(tmp_path, text=MAPPING, found=None, name="theirs.npz", save=save_npz, **given):
    (tmp_path / "map.toml").write_text(text, encoding="utf-8")
    save(tmp_path / name, arrays() if found is None else found)
    return import_network(
        "mapping", tmp_path / name, Given(mapping=tmp_path / "map.toml", **given)
    )[0]


@pytest.mark.parametrize(
    ("name", "save"), [("theirs.npz", save_npz), ("theirs.safetensors", save_safetensors)]
)
def test_a_described_network_computes_what_its_formulas_say(tmp_path, name, save):
    model = imported(tmp_path, name=name, save=save).double()
    images = np.random.default_rng(0).random((3, 1, SIDE, SIDE))
    lengths, capsules, _ = TORCH["readable_capsnet"].compute(WEIGHTS, images, 3)
    with torch.no_grad():
        found = model(torch.from_numpy(images))
    np.testing.assert_allclose(found[0], lengths, rtol=0, atol=1e-10)
    np.testing.assert_allclose(found[1], capsules, rtol=0, atol=1e-10)


CONVOLUTIONS = f"""
[network]
image_shape = [1, {SIDE}, {SIDE}]
primary = {{ kind = "primary", groups = {GROUPS}, dim = 4, kernel = 3, stride = 1 }}
capsule_layers = [{{ kind = "dynamic", capsules = 3, dim = 6, routing_iterations = 2 }}]
decoder = false

[network.stem]
kind = "convolutions"
convolutions = [
    {{ channels = 3, kernel = 3, padding = 1, batch_norm = true }},
    {{ channels = 5, kernel = 4, stride = 2, padding = 2 }},
]

[weights]
"""


def test_a_stem_of_several_convolutions_with_stride_and_padding_is_taken(tmp_path):
    random = np.random.default_rng(5)
    shapes = {
        "stem.0.weight": (3, 1, 3, 3), "stem.0.bias": (3,),
        "stem.2.weight": (3,), "stem.2.bias": (3,),
        "stem.2.running_mean": (3,), "stem.2.running_var": (3,),
        "stem.3.weight": (5, 3, 4, 4), "stem.3.bias": (5,),
        "primary.weight": (8, 5, 3, 3), "primary.bias": (8,),
        "capsule_layers.0.weight": (50, 4, 3, 6),
    }  # fmt: skip
    found = {
        name: random.normal(0, 0.4, shape).astype(np.float32) for name, shape in shapes.items()
    }
    found["stem.2.running_var"] **= 2
    found["capsule_layers.0.weight"] *= 20
    named = "".join(f'"{ours}" = "their {ours}"\n' for ours in found)
    theirs = {f"their {name}": values for name, values in found.items()}
    model = imported(tmp_path, CONVOLUTIONS + named, theirs).double()
    images = random.random((2, 1, SIDE, SIDE))
    with torch.no_grad():
        capsules = model(torch.from_numpy(images))[1]

    weights = {name: values.astype(np.float64) for name, values in found.items()}
    around = ((0, 0), (0, 0), (1, 1), (1, 1))
    values = oracle.conv2d(
        np.pad(images, around), weights["stem.0.weight"], weights["stem.0.bias"], 1
    )
    gamma, beta, mean, variance = (
        weights[f"stem.2.{name}"][:, None, None]
        for name in ("weight", "bias", "running_mean", "running_var")
    )
    values = gamma * (np.maximum(values, 0) - mean) / np.sqrt(variance + 1e-3) + beta
    values = np.pad(values, ((0, 0), (0, 0), (2, 2), (2, 2)))
    values = np.maximum(
        oracle.conv2d(values, weights["stem.3.weight"], weights["stem.3.bias"], 2), 0
    )
    maps = oracle.conv2d(values, weights["primary.weight"], weights["primary.bias"], 1)
    primary = 0.01 * oracle.primary_capsules(maps, 4)
    expected = oracle.capsule_layer(primary, weights["capsule_layers.0.weight"], 2)
    np.testing.assert_allclose(capsules, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _: "[", "is not TOML"),
        (lambda _: "x = 1", "must have the tables network and weights"),
        (
            lambda text: text.replace('ignore = ["step"]', ""),
            r"step, of shape .*, is not expected",
        ),
        (
            lambda text: text.replace('"second"', '"third"'),
            "third is missing, which .*map.toml names",
        ),
        (
            lambda text: text.replace('"second"', "3"),
            r"weights.capsule_layers.1.weight must be a name",
        ),
        (
            lambda text: text.replace('"second"', '{ name = "second", axes = "a b -> b a" }'),
            r"second has shape \[5, 7, 3, 6\], which does not fit the axes 'a b -> b a'",
        ),
        (
            lambda text: text.replace('"stem.bias" = "stem/bias"', ""),
            r"stem/bias, of shape \[5\], is not expected",
        ),
        (
            lambda text: text.replace("i d o h", "d i o h"),
            r"capsule_layers.0.weight has shape \[4, 18, 5, 7\], expected \[18, 4, 5, 7\]",
        ),
        (
            lambda text: text.replace("dim = 7", "dimension = 7"),
            "capsule_layers.0..dimension is not",
        ),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused(tmp_path, change, message):
    with pytest.raises(CheckpointError, match=message):
        imported(tmp_path, change(MAPPING))


@pytest.mark.parametrize("given", [{"routing_iterations": 3}, {"image_shape": (1, SIDE, SIDE)}])
def test_what_the_mapping_says_is_not_an_option(tmp_path, given):
    [name] = given
    with pytest.raises(CheckpointError, match=f"takes no --{name.replace('_', '-')}: leave that"):
        imported(tmp_path, **given)


def test_a_missing_mapping_is_refused(tmp_path):
    save_npz(tmp_path / "theirs.npz", arrays())
    for mapping, message in ((None, "--mapping FILE.toml"), ("none.toml", "No such file")):
        given = Given(mapping=mapping and tmp_path / mapping)
        with pytest.raises(CheckpointError, match=message):
            import_network("mapping", tmp_path / "theirs.npz", given)


def hollow(path):
    """An archive of a few kilobytes whose array has a gigabyte of zeros, if it were inflated."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a.npy", "w", force_zip64=True) as member,
    ):
        header = {"descr": "<f4", "fortran_order": False, "shape": (2**22, 2**10)}
        np.lib.format.write_array_header_1_0(member, header)
        member.write(bytes(2**20))


@pytest.mark.parametrize(
    ("save", "message"),
    [
        (hollow, "its header asks for 17179869184 bytes"),
        (lambda path: np.savez(path, a=np.array([1j])), "a is complex128, expected numbers"),
        (lambda path: np.savez(path, a=np.array([{}])), "damaged"),
        (lambda path: path.write_bytes(b"PK\x03\x04"), "truncated, damaged"),
        (lambda _: None, "No such file"),
    ],
)
def test_an_archive_that_is_no_weights_is_refused(tmp_path, save, message):
    save(tmp_path / "theirs.npz")
    with pytest.raises(CheckpointError, match=message):
        read_tensors(tmp_path / "theirs.npz")


def test_an_archive_that_claims_more_than_any_network_has_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("capsnet.importers.reading._MOST_BYTES", 1000)
    np.savez_compressed(tmp_path / "theirs.npz", a=np.zeros(1000, np.float32))
    with pytest.raises(CheckpointError, match="its arrays claim more than 1000 bytes"):
        read_tensors(tmp_path / "theirs.npz")

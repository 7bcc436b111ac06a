"""TorchScript and torch.export artifacts: plain torch loads them, and nothing is unpickled."""

import json
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from support.artifacts import golden_outputs
from support.hostile import torch_archive
from support.networks import SMALL, lively_model, random_images, with_layers

from capsnet.artifact import METADATA_KEY, ArtifactMetadata
from capsnet.errors import ArtifactError, DeviceError
from capsnet.export.formats.pt2 import to_exported_program
from capsnet.export.formats.torchscript import to_torchscript
from capsnet.export.lower import lower
from capsnet.export.options import ExportOptions
from capsnet.runtime.sessions.opening import artifact_format, open_session

EXPORTERS = {"torchscript": to_torchscript, "pt2": to_exported_program}
NAMES = ("lengths", "capsules", "reconstruction")


def export(kind, path, config=SMALL, **options):
    lowered = lower(lively_model(config), reconstruction=True, forms={"convolution": "winograd"})
    EXPORTERS[kind](lowered, path, ExportOptions(**options))
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("artifacts")
    return {kind: export(kind, folder / f"model.{kind}") for kind in EXPORTERS}


def rewritten(source, target, change):
    """The archive with the records that ``change(name, content)`` gives; None drops one."""
    with zipfile.ZipFile(source) as archive:
        records = [(name, change(name, archive.read(name))) for name in archive.namelist()]
    kept = [(name, content) for name, content in records if content is not None]
    target.write_bytes(torch_archive(kept))
    return target


def with_document(kind, files, target, **changes):
    """The artifact with parts of its metadata changed."""

    def change(name, content):
        if name.endswith("extra/" + METADATA_KEY):
            return json.dumps({**json.loads(content), **changes}).encode()
        return content

    return rewritten(files[kind], target, change)


@pytest.mark.slow
@pytest.mark.parametrize("kind", EXPORTERS)
@pytest.mark.parametrize("batch", [1, 2, 3, 7, 64])
def test_one_file_gives_the_golden_numbers_at_every_batch_size(kind, batch, files):
    images = random_images(SMALL, batch)
    found = open_session(files[kind]).run(images)
    golden = golden_outputs(SMALL, images, NAMES)
    assert list(found) == list(NAMES)
    for name in NAMES:
        assert found[name].dtype == np.float32
        assert np.abs(found[name] - golden[name]).max() < 3e-6


@pytest.mark.parametrize("kind", EXPORTERS)
def test_two_exports_are_identical_and_name_no_path(kind, files, tmp_path):
    again = export(kind, tmp_path / "another name.bin")
    assert again.read_bytes() == files[kind].read_bytes()
    with zipfile.ZipFile(again) as archive:
        for name in archive.namelist():
            content = archive.read(name)
            for trace in (
                str(Path.cwd()),
                str(tmp_path),
                str(Path(torch.__file__).parent),
                "line ",
            ):
                assert trace.encode() not in content, name
            assert not name.endswith("debug_pkl")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "load"),
    [
        ("torchscript", "torch.jit.load(path, _extra_files=extra)"),
        ("pt2", "torch.export.load(path, extra_files=extra).module()"),
    ],
)
def test_a_process_without_the_toolkit_loads_and_runs_it(kind, load, files):
    code = f"""
import sys, warnings, torch
warnings.simplefilter("ignore")
path, extra = sys.argv[1], {{"{METADATA_KEY}": ""}}
module = {load}
for batch in (1, 5, 64):
    lengths, capsules, _ = module(torch.rand(batch, 1, 12, 12))
    assert lengths.shape == (batch, 5) and capsules.shape == (batch, 5, 6)
assert "schema_version" in str(extra["{METADATA_KEY}"])
assert not any(name.startswith("capsnet") for name in sys.modules)
print("fine")
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(files[kind])], capture_output=True, text=True
    )
    assert done.stdout.strip() == "fine", done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("iterations", [1, 2, 5])
@pytest.mark.parametrize("kind", EXPORTERS)
def test_the_routing_is_unrolled_in_the_graph(kind, iterations, tmp_path):
    config = with_layers(SMALL, (5, 6, iterations))
    session = open_session(export(kind, tmp_path / "model", config))
    counts = session.operators
    exponentials = counts.get("aten::exp", 0) + counts.get("aten.exp.default", 0)
    assert exponentials == iterations - 1
    assert not any("loop" in name.lower() for name in counts)


@pytest.mark.parametrize("kind", EXPORTERS)
@pytest.mark.parametrize("layers", [((6, 4, 2), (5, 6, 3)), ((6, 4, 3), (4, 4, 2), (5, 6, 4))])
def test_stacked_layers_are_right_and_identical(kind, layers, files, tmp_path):
    config = with_layers(SMALL, *layers)
    first, again = (export(kind, tmp_path / name, config) for name in ("first", "again"))
    assert first.read_bytes() == again.read_bytes()
    images = random_images(SMALL, 5)
    golden = golden_outputs(config, images, NAMES)
    for name, found in open_session(first, "cpu").run(images).items():
        assert np.abs(found - golden[name]).max() < 3e-6


@pytest.mark.parametrize("kind", EXPORTERS)
def test_a_fixed_batch_is_padded_and_trimmed(kind, tmp_path):
    session = open_session(export(kind, tmp_path / "model", batch=4))
    images = random_images(SMALL, 6)
    golden = golden_outputs(SMALL, images, NAMES)
    found = session.run(images)
    assert all(np.abs(found[name] - golden[name]).max() < 3e-6 for name in NAMES)


@pytest.mark.parametrize("kind", EXPORTERS)
def test_the_format_is_recognised_by_content(kind, files, tmp_path):
    renamed = tmp_path / "model.onnx"
    renamed.write_bytes(files[kind].read_bytes())
    assert artifact_format(renamed) == kind
    session = open_session(renamed)
    assert session.format == kind
    assert session.device == "cpu"
    assert isinstance(session.metadata, ArtifactMetadata)
    assert set(session.placement.values()) == {"torch cpu"}


class Touch:
    """Unpickling an instance creates a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_pickled_file_is_refused_and_not_executed(tmp_path):
    file, trap = tmp_path / "model.pt", tmp_path / "executed"
    torch.save({"weight": Touch(trap)}, file)
    with pytest.raises(ArtifactError, match="never executed"):
        open_session(file)
    file.write_bytes(pickle.dumps(Touch(trap)))
    with pytest.raises(ArtifactError, match="is neither onnx, torchscript nor pt2"):
        open_session(file)
    assert not trap.exists()


def test_pickles_inside_a_torch_export_archive_are_refused_and_not_executed(files, tmp_path):
    trap, samples = tmp_path / "executed", tmp_path / "samples.pt"
    torch.save(Touch(trap), samples)

    def plant(name, content):
        return samples.read_bytes() if "sample_inputs" in name else content

    with pytest.raises(ArtifactError, match="never executed"):
        open_session(rewritten(files["pt2"], tmp_path / "model.pt2", plant))

    def claim(name, content):
        return content.replace(b'"use_pickle": false', b'"use_pickle": true')

    with pytest.raises(ArtifactError, match="pickled tensors"):
        open_session(rewritten(files["pt2"], tmp_path / "other.pt2", claim))
    assert not trap.exists()


@pytest.mark.parametrize("kind", EXPORTERS)
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(kind, kept, files, tmp_path):
    content = files[kind].read_bytes()
    file = tmp_path / "model"
    file.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ArtifactError, match="truncated or damaged"):
        open_session(file)


@pytest.mark.parametrize("kind", EXPORTERS)
def test_a_file_without_metadata_is_refused(kind, files, tmp_path):
    file = rewritten(
        files[kind], tmp_path / "model", lambda name, content: None if "extra/" in name else content
    )
    with pytest.raises(ArtifactError, match="without capsnet metadata"):
        open_session(file)


@pytest.mark.parametrize("kind", EXPORTERS)
def test_a_newer_schema_is_refused(kind, files, tmp_path):
    file = with_document(kind, files, tmp_path / "model", schema_version=4)
    with pytest.raises(ArtifactError, match=r"schema version 4.*upgrade"):
        open_session(file)


def with_parts(kind, files, target, change):
    """The artifact after ``change`` has edited its metadata in place."""
    document = json.loads(open_session(files[kind]).metadata.to_json())
    change(document)
    return with_document(kind, files, target, **document)


@pytest.mark.parametrize("kind", EXPORTERS)
def test_metadata_that_claims_other_iterations_contradicts_the_graph(kind, files, tmp_path):
    def claim(document):
        document["claims"][0] |= {"least": 3, "most": 3}

    file = with_parts(kind, files, tmp_path / "model", claim)
    with pytest.raises(ArtifactError, match=r"contradicts the graph: routing of .* takes 3 of"):
        open_session(file)


@pytest.mark.slow
@pytest.mark.parametrize("kind", EXPORTERS)
@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_metadata_that_claims_another_precision_contradicts_the_graph(
    kind, precision, files, tmp_path
):
    def claim(document):
        document["precision"] = {"float16": "fp16"}.get(precision, precision)

    file = with_parts(kind, files, tmp_path / "model", claim)
    with pytest.raises(ArtifactError, match=f"contradicts the graph: {precision} takes at least 1"):
        open_session(file)


@pytest.mark.parametrize("kind", EXPORTERS)
def test_metadata_that_claims_another_image_shape_contradicts_the_graph(kind, files, tmp_path):
    def claim(document):
        for spec in (*document["inputs"], *document["outputs"]):
            if spec["name"] in ("image", "reconstruction"):
                spec["shape"] = ["batch", 1, 14, 14]

    file = with_parts(kind, files, tmp_path / "model", claim)
    with pytest.raises(ArtifactError, match="contradicts the graph"):
        open_session(file)


@pytest.mark.parametrize("kind", EXPORTERS)
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_is_refused_where_it_is_not(kind, files):
    with pytest.raises(DeviceError, match=r"CPU build|finds no device"):
        open_session(files[kind], "cuda")

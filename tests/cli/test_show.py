"""``capsnet show``: a page of a checkpoint or an artifact, pictures, and everything as JSON."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from support.artifacts import onnx_bytes
from support.networks import SMALL, lively_model, random_images
from support.proof import idx_folder

from capsnet.checkpoint import save_checkpoint
from capsnet.cli.commands import cli
from capsnet.errors import CheckpointError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    save_checkpoint(lively_model(SMALL), tmp_path / "model.safetensors")
    (tmp_path / "model.onnx").write_bytes(onnx_bytes())
    pixels = (random_images(SMALL, 10)[:, 0] * 255).astype(np.uint8)
    idx_folder(tmp_path / "digits", pixels, np.arange(10) % 5)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(line):
    return CliRunner().invoke(cli, line.split(), catch_exceptions=False)


def test_checkpoint_is_shown_whole_with_pictures(folder):
    result = run(
        "show model.safetensors --images digits --samples 5 --device cpu --png --json found"
    )
    assert result.exit_code == 0
    found = json.loads((folder / "found").read_text())
    files = ["capsnet-show.html"]
    files += [f"capsnet-show.{part}.png" for part in ("confusions", "couplings")]
    files += [f"capsnet-show.{part}.png" for part in ("reconstructions", "tweaks")]
    assert sorted(found["files"]) == sorted(files)
    for file in files[1:]:
        with Image.open(folder / file) as picture:
            assert min(picture.size) > 50
    assert found["missing"] == {}
    assert (found["images"], found["total"]) == (5, 10)
    matrix = np.array(found["confusion_matrix"])
    assert matrix.sum(axis=1).tolist() == [1] * 5  # the labels 0, 2, 4, 1, 3 of every second image
    assert np.trace(matrix) == found["right"]
    assert (
        f"{found['right']} of 5 images (digits: t10k split) are classified right" in result.output
    )
    assert "Not shown" not in (folder / "capsnet-show.html").read_text(encoding="utf-8")


def test_artifact_shows_what_it_can(folder):
    np.save(folder / "images.npy", random_images(SMALL, 3))
    result = run("show model.onnx --images images.npy --device cpu --output page.html --json -")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["files"] == ["page.html"]
    assert set(found["missing"]) == {"reconstructions", "confusions", "tweaks", "couplings"}
    assert (found["right"], found["confusion_matrix"]) == (None, None)
    assert "note: tweaks: an artifact does not hold" in result.stderr
    assert (folder / "page.html").read_text(encoding="utf-8").count("Not shown") == 4


def test_what_is_neither_checkpoint_nor_artifact_writes_nothing(folder):
    (folder / "other").write_bytes(b"words")
    with pytest.raises(CheckpointError):
        run("show other --images digits --output page.html")
    assert not (folder / "page.html").exists()

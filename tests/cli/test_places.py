"""No command overwrites what it reads, or one of its outputs with another: exit code 2."""

import os
import subprocess
import sys

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from support.artifacts import onnx_bytes
from support.networks import SMALL, lively_model, random_images

from capsnet.checkpoint import save_checkpoint
from capsnet.cli.commands import cli
from capsnet.cli.options import InputFile, OutputFile
from capsnet.errors import OutputError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A checkpoint, its artifact, images as an array and in a folder, and links to them."""
    save_checkpoint(lively_model(SMALL), tmp_path / "model.safetensors")
    (tmp_path / "model.onnx").write_bytes(onnx_bytes())
    (tmp_path / "model.onnx.parity.json").write_text("{}")
    np.save(tmp_path / "images.npy", random_images(SMALL, 2))
    (tmp_path / "digits").mkdir()
    Image.fromarray(np.zeros((12, 12), np.uint8)).save(tmp_path / "digits" / "1.png")
    (tmp_path / "link").symlink_to("model.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


VERIFY = "verify model.onnx --checkpoint model.safetensors --images images.npy"
UNPROVEN = "export --format onnx --checkpoint model.safetensors"
EXPORT = f"{UNPROVEN} --images images.npy"
TRAIN = "train --data digits --init model.safetensors"
SHOW = "show model.safetensors --images images.npy"
BENCH = "bench model.onnx --checkpoint model.safetensors --images images.npy"
PREDICT = "predict model.onnx images.npy digits"


@pytest.mark.parametrize(
    "line",
    [
        f"{EXPORT} --output model.safetensors",
        f"{EXPORT} --output link",
        f"{EXPORT} --output digits/../model.safetensors",
        f"{EXPORT} --output images.npy",
        f"{EXPORT} --json model.safetensors",
        f"{EXPORT} --json capsnet.onnx",
        f"{EXPORT} --json capsnet.onnx.parity.json",
        f"{EXPORT} --report capsnet.onnx",
        f"{EXPORT} --report same --json same",
        f"{EXPORT} --format pt2 --output digits --json digits/capsnet.pt2",
        f"{EXPORT} --output model --json model.parity.json",
        f"{UNPROVEN} --no-verify --output model.safetensors",
        f"{VERIFY} --json model.onnx",
        f"{VERIFY} --json link",
        f"{VERIFY} --json model.onnx.parity.json",
        f"{VERIFY} --report images.npy",
        f"{VERIFY} --report x --json ./x",
        "inspect model.onnx --json model.onnx",
        f"{PREDICT} --output model.onnx",
        f"{PREDICT} --output images.npy",
        f"{PREDICT} --output digits/1.png",
        f"{PREDICT} --output x --json x",
        f"{PREDICT} --json digits/../digits/1.png",
        f"{TRAIN} --output model.safetensors",
        f"{TRAIN} --output x --json x",
        f"{TRAIN} --output x --json x.state",
        f"{SHOW} --output model.safetensors",
        f"{SHOW} --output link",
        f"{SHOW} --output images.npy",
        f"{SHOW} --output x --json x",
        f"{SHOW} --png --output x.html --json x.tweaks.png",
        f"{BENCH} --csv model.onnx",
        f"{BENCH} --csv x --plot x",
        f"{BENCH} --csv x.csv --json x.csv",
    ],
)
def test_a_clash_is_a_wrong_command_line_and_nothing_is_written(folder, line):
    def contents():
        return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    before = contents()
    result = CliRunner().invoke(cli, line.split())
    assert result.exit_code == 2, result.output
    assert "same file" in result.output or "would overwrite" in result.output
    assert contents() == before


def test_every_file_of_every_command_is_an_input_or_an_output():
    """The check sees these types alone; a place that may be a folder is looked at itself."""
    other = [
        (name, param.name)
        for name, command in cli.commands.items()
        for param in command.params
        if isinstance(param.type, click.Path | click.File)
        and not isinstance(param.type, InputFile | OutputFile)
    ]
    assert other == [("export", "output"), ("train", "tensorboard")]


@pytest.mark.parametrize("name", ["model.safetensors", "link", "images.npy"])
def test_the_library_refuses_it_too(folder, name):
    from capsnet.api import export_model

    before = (folder / name).read_bytes()
    with pytest.raises(OutputError, match="would overwrite what is read"):
        export_model(
            "model.safetensors", folder / name, format="onnx", images="images.npy", device="cpu"
        )
    assert (folder / name).read_bytes() == before


@pytest.mark.skipif(os.name != "posix", reason="limits the memory of another process")
@pytest.mark.parametrize("command", [VERIFY, EXPORT, PREDICT, "inspect model.onnx"])
def test_a_limit_with_which_nothing_works_is_named(folder, command):
    """Not left to numpy's libraries, which end the process with exit code 1: a wrong result."""
    import resource

    done = subprocess.run(
        [sys.executable, "-m", "capsnet", *command.split()],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2**27, 2**27)),
    )
    assert (done.returncode, done.stdout) == (3, "")
    assert "may take 128 MiB of memory, expected at least 200" in done.stderr

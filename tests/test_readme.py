"""What the README and docs/commands.md show works as written, also in the root of a clone."""

import re
import shlex

import click
import numpy as np
import pytest
from support.artifacts import onnx_bytes
from support.blocks import ROOT, python_blocks, run_blocks, run_python
from support.networks import SMALL

from capsnet.cli.commands import cli

README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")
DOCUMENTED = TEXT + (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
INLINE = re.findall(r"`(capsnet(?:-export)? [^`|]+)`", DOCUMENTED)
COMMANDS = [
    *re.findall(r"^ {4}.*(capsnet-export .*)$", TEXT, re.MULTILINE),
    *(" ".join(command.split()) for command in INLINE if " --format F " not in command),
]
"""Command lines of both, without the one that has a letter in place of names."""


@pytest.fixture(params=["the clone's root", "another folder"])
def place(tmp_path, request):
    """A folder to run in; in a clone, Python finds ./capsnet before the installed package."""
    if request.param == "the clone's root":
        for name in ("capsnet", "export", "runtime", "pyproject.toml"):
            (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


@pytest.mark.slow
def test_modules_are_found(place):
    code = """
import capsnet.export.lower, capsnet.runtime.sessions.opening
print(capsnet.__file__)
"""
    (file,) = run_python(place, "-c", code).splitlines()
    assert file.startswith(str(place)) is (place / "capsnet").exists()


def test_command_classifies_images(place):
    (place / "small.onnx").write_bytes(onnx_bytes())
    np.save(place / "images.npy", np.full((3, *SMALL.image_shape), 0.5, np.float32))
    header, *rows = run_python(
        place, "-m", "capsnet", "predict", "small.onnx", "images.npy", "--device", "cpu"
    ).splitlines()
    assert header.startswith("source,label,length_0")
    assert [row.partition(",")[0] for row in rows] == [f"images.npy[{i}]" for i in range(3)]


@pytest.mark.slow
@pytest.mark.parametrize("place", ["the clone's root"], indirect=True)
def test_main_job_runs_as_written(place):
    main_job = COMMANDS[0]
    assert main_job == "capsnet-export --format onnx"
    run_python(place, "-m", "capsnet", "export", *shlex.split(main_job)[1:])
    assert (place / "capsnet.onnx.parity.json").is_file()


@pytest.mark.slow
def test_python_examples_run_as_written(place):
    assert len(python_blocks(TEXT)) >= 1
    assert "pass" in run_blocks(README, place)
    np.save(place / "more.npy", np.zeros((2, 1, 28, 28), np.float32))
    rows = run_python(
        place, "-m", "capsnet", "predict", "--certified", "capsnet.onnx", "more.npy"
    ).splitlines()
    assert len(rows) == 3


def test_commands_are_found():
    names = {shlex.split(command)[1] for command in COMMANDS if command.startswith("capsnet ")}
    assert names == set(cli.commands)
    assert sum(command.startswith("capsnet-export ") for command in COMMANDS) >= 3


@pytest.mark.parametrize("command", COMMANDS)
def test_command_line_is_valid(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name, *arguments = shlex.split(command.replace("capsnet-export", "capsnet export"))[1:]
    found = cli.commands[name]
    while isinstance(found, click.Group):
        name, *arguments = arguments
        found = found.commands[name]
    if arguments:
        assert found.make_context(name, arguments).params


@pytest.mark.parametrize("path", re.findall(r"\]\((?!https?:)([^)#]+)", TEXT))
def test_link_leads_to_a_file(path):
    assert (ROOT / path).is_file()

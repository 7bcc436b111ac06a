"""Standard output that is closed, full, left by its reader, or of a small character set."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.artifacts import onnx_bytes
from support.networks import SMALL, random_images

pytestmark = pytest.mark.skipif(os.name != "posix", reason="uses a POSIX shell")

CAPSNET = f"'{sys.executable}' -P -W error -m capsnet"
PREDICT = f"{CAPSNET} predict model.onnx images.npy --device cpu"


@pytest.fixture
def folder(tmp_path):
    """An artifact, and more images than a pipe holds predictions of."""
    (tmp_path / "model.onnx").write_bytes(onnx_bytes())
    np.save(tmp_path / "images.npy", np.tile(random_images(SMALL, 4), (500, 1, 1, 1)))
    return tmp_path


def shell(command, folder, **variables):
    """Exit codes of a pipeline's commands, and what is printed."""
    done = subprocess.run(
        ["bash", "-c", f"{command}; echo codes ${{PIPESTATUS[@]}}"],
        cwd=folder,
        capture_output=True,
        env={**os.environ, **variables},
        check=True,
    )
    output, _, codes = done.stdout.decode(errors="surrogateescape").rpartition("codes ")
    return list(map(int, codes.split())), output, done.stderr.decode()


@pytest.mark.parametrize(
    "command", [PREDICT, f"{CAPSNET} --help", f"{CAPSNET} inspect model.onnx --json - --device cpu"]
)
def test_a_reader_that_has_gone_ends_the_command_quietly_as_it_ends_cat(folder, command):
    codes, _, err = shell(f"{command} | (exec <&-; sleep 3)", folder)
    assert codes[0] == 141
    assert err == ""


def test_the_first_line_is_enough_for_head(folder):
    codes, output, err = shell(f"{PREDICT} | head -1", folder)
    assert output.startswith("source,label,")
    assert (codes, err) == ([141, 0], "")


def test_an_error_is_told_though_nobody_reads(folder):
    codes, _, err = shell(f"{CAPSNET} inspect none.onnx | (exec <&-; sleep 2)", folder)
    assert codes[0] == 3
    assert err.startswith("error: cannot read none.onnx")


def test_predictions_for_a_closed_standard_output_are_an_error(folder):
    for command in (PREDICT, f"{CAPSNET} inspect model.onnx --json - --device cpu"):
        codes, _, err = shell(f"{command} >&-", folder)
        assert codes == [3]
        assert err.startswith("error: standard output is closed")


def test_a_closed_standard_output_does_not_hinder_a_command_that_writes_files(folder):
    codes, _, err = shell(f"{PREDICT} --output out.csv <&- >&- 2>&-", folder)
    assert (codes, err) == ([0], "")
    assert (folder / "out.csv").read_text().count("\n") == 2001


@pytest.mark.parametrize("command", [PREDICT, f"{CAPSNET} --help"])
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_standard_output_is_named(folder, command):
    codes, _, err = shell(f"{command} >/dev/full", folder)
    assert codes == [3]
    assert err == "error: standard output: No space left on device\n"


def test_characters_that_an_encoding_lacks_are_escaped(folder):
    (folder / "café").mkdir()
    for name in ("model.onnx", "images.npy"):
        (folder / name).rename(folder / "café" / name)
    command = f"{CAPSNET} {{}} café/model.onnx {{}} --device cpu"
    plain = {"PYTHONIOENCODING": "ascii"}
    codes, output, err = shell(command.format("predict", "café/images.npy"), folder, **plain)
    assert (codes, err) == ([0], "")
    assert output.splitlines()[1].startswith("caf\\xe9/images.npy[0],")
    for more in ("", "--debug"):
        codes, output, err = shell(command.format("inspect", more), folder, **plain)
        assert (codes, err) == ([0], "")
    codes, _, err = shell(f"{CAPSNET} inspect café", folder, **plain)
    assert codes == [3]
    assert "caf\\xe9" in err


def test_names_that_are_not_utf_8_are_printed_as_the_bytes_that_they_are(folder):
    name = b"caf\xe9.npy".decode(errors="surrogateescape")
    (folder / "images.npy").rename(folder / name)
    codes, output, err = shell(
        f"{CAPSNET} predict model.onnx caf*.npy --device cpu", folder, PYTHONIOENCODING="utf-8"
    )
    assert (codes, err) == ([0], "")
    assert output.splitlines()[1].startswith(f"{name}[0],")


def test_what_would_control_a_terminal_is_not_printed_in_an_error(folder):
    codes, _, err = shell(f"{CAPSNET} inspect $'a\\e[2Jb.onnx'", folder)
    assert codes == [3]
    assert "\\x1b[2J" in err
    assert "\x1b" not in err

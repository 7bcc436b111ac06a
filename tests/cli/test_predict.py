"""``capsnet predict``: what is interrupted is continued, and what cannot be read is skipped."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from support.artifacts import onnx_bytes
from support.networks import SMALL, random_images

from capsnet.cli.commands import cli
from capsnet.errors import DataError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An artifact, many images in an array, and a folder of images some of which are damaged."""
    (tmp_path / "model.onnx").write_bytes(onnx_bytes())
    np.save(tmp_path / "images.npy", np.tile(random_images(SMALL, 100), (200, 1, 1, 1)))
    (tmp_path / "digits").mkdir()
    for number in range(6):
        pixels = np.full((12, 12), 40 * number, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "digits" / f"{number}.png")
    for name, content in (("1.png", b""), ("3.png", b"\x89PNG\r\n\x1a\ngarbage")):
        (tmp_path / "digits" / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def predict(*arguments):
    return CliRunner().invoke(
        cli, ["predict", "model.onnx", *map(str, arguments), "--device", "cpu"]
    )


def sources(path):
    return [line.partition(",")[0] for line in path.read_text().splitlines()[1:]]


# Continued


@pytest.mark.skipif(os.name != "posix", reason="sends signals to another process")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_run_that_a_signal_ends_is_continued_to_the_same_bytes(folder, number):
    assert predict("images.npy", "--output", "whole.csv").exit_code == 0
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from capsnet.cli.main import main; main()"
    )
    arguments = ["predict", "model.onnx", "images.npy", "--device", "cpu", "--output", "out.csv"]
    child = subprocess.Popen(
        [sys.executable, "-P", "-c", code, *arguments], stderr=subprocess.PIPE, text=True
    )
    partial = folder / "out.csv.partial"
    while not partial.exists() or partial.stat().st_size < 50_000:
        assert child.poll() is None, child.communicate()
        time.sleep(0.002)
    child.send_signal(number)
    err = child.communicate(timeout=30)[1]
    assert child.returncode == (-number if number == signal.SIGKILL else 128 + number)
    assert "Traceback" not in err
    assert ("with --resume to continue" in err) == (number != signal.SIGKILL)
    assert not (folder / "out.csv").exists()
    again = predict("images.npy", "--output", "out.csv")
    assert isinstance(again.exception, Exception)
    assert "holds predictions of an interrupted run" in str(again.exception)
    done = predict("images.npy", "--output", "out.csv", "--resume", "--json", "about.json")
    assert done.exit_code == 0, done.exception
    about = json.loads((folder / "about.json").read_text())
    assert about["predictions"] == 20_000
    assert 0 < about["resumed"] < 20_000
    assert (folder / "out.csv").read_bytes() == (folder / "whole.csv").read_bytes()
    assert not partial.exists()


def test_resuming_needs_a_file(folder):
    result = predict("images.npy", "--resume")
    assert result.exit_code == 2
    assert "give its --output" in result.output


# Skipped


def test_images_that_cannot_be_read_are_skipped_and_listed(folder):
    options = ("--skip-unreadable", "--output", "out.csv", "--json", "about.json")
    result = predict("digits", *options)
    assert result.exit_code == 0, result.exception
    assert sources(folder / "out.csv") == [f"digits/{n}.png" for n in (0, 2, 4, 5)]
    about = json.loads((folder / "about.json").read_text())
    assert about["predictions"] == 4
    assert [item["source"] for item in about["skipped"]] == ["digits/1.png", "digits/3.png"]
    assert all("damaged" in item["reason"] for item in about["skipped"])
    notes = result.stderr.splitlines()
    assert [note.split(":")[1].strip() for note in notes[:2]] == [
        "skipped digits/1.png",
        "skipped digits/3.png",
    ]
    assert notes[2] == "note: 2 images skipped"


def test_one_is_said_in_the_singular(folder):
    result = predict("digits/0.png", "digits/1.png", "--skip-unreadable", "--output", "out.csv")
    assert result.stdout == "1 prediction in out.csv\n"
    assert result.stderr.splitlines()[-1] == "note: 1 image skipped"
    result = predict("digits/1.png", "--skip-unreadable")
    assert "no image can be read; the first of 1: " in str(result.exception)


def test_files_of_every_kind_are_skipped(folder):
    values = random_images(SMALL, 3)
    values[1, 0, 0, 0] = np.nan
    np.save(folder / "nan.npy", values)
    inputs = ("missing.png", "nan.npy", *sorted((folder / "digits").iterdir()))
    result = predict(*inputs, "--skip-unreadable")
    assert result.exit_code == 0, result.exception
    named = [line.partition(",")[0] for line in result.stdout.splitlines()[1:]]
    assert named == [
        "nan.npy[0]",
        "nan.npy[2]",
        *(str(folder / "digits" / f"{n}.png") for n in (0, 2, 4, 5)),
    ]
    assert result.stderr.count("note: skipped") == 4


def test_without_the_option_the_first_one_ends_the_run(folder):
    result = predict("digits", "--output", "out.csv")
    assert isinstance(result.exception, DataError)
    assert "1.png" in str(result.exception)
    assert not (folder / "out.csv").exists()
    assert not (folder / "out.csv.partial").exists()


def test_nothing_that_can_be_read_is_an_error(folder):
    result = predict("digits/1.png", "digits/3.png", "--skip-unreadable", "--output", "out.csv")
    assert isinstance(result.exception, DataError)
    assert "no image can be read; the first of 2: " in str(result.exception)
    assert not (folder / "out.csv").exists()
    assert not (folder / "out.csv.partial").exists()


def test_a_run_that_stopped_at_a_damaged_image_goes_on_without_it(folder):
    np.save(folder / "first.npy", random_images(SMALL, 70))
    inputs = ("first.npy", "digits", "--output", "out.csv")
    assert isinstance(predict(*inputs).exception, DataError)
    assert (folder / "out.csv.partial").exists()
    assert predict(*inputs, "--resume", "--skip-unreadable").exit_code == 0
    assert sources(folder / "out.csv") == [
        *(f"first.npy[{n}]" for n in range(70)),
        *(f"digits/{n}.png" for n in (0, 2, 4, 5)),
    ]

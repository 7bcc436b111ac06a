"""Predictions that are continued: no row twice, none missing, wherever the run was cut."""

import contextlib
import io
import os
from pathlib import Path

import pytest

import capsnet.runtime.resumable as resumable
from capsnet.errors import OutputError
from capsnet.runtime.predict import Prediction
from capsnet.runtime.resumable import PartialFile, partial_path
from capsnet.runtime.rows import write_csv, write_jsonl

RUN = {"artifact_sha256": "ab", "device": "cpu"}
BATCH = 2
NAMES = ["a.png", 'q"uote,\n.png', "digits.npy[0]", "caf\udce9.png", "é.png", "b.png", "c.png"]
WRITERS = {"csv": write_csv, "jsonl": write_jsonl}


def images(names=NAMES):
    return iter([(name, float(number)) for number, name in enumerate(names)])


def predictions(images):
    for name, image in images:
        yield Prediction(name, int(image), (image, 0.5))


def rows(kind, given, file, header=True):
    options = {"header": header} if kind == "csv" else {}
    return WRITERS[kind](predictions(given), file, **options)


def expected(kind):
    file = io.StringIO()
    rows(kind, images(), file)
    return file.getvalue().encode("utf-8", "surrogateescape")


def run(target, kind, *, resume, names=NAMES, about=RUN):
    """How many rows were kept."""
    with PartialFile(target, about, kind, resume=resume) as partial:
        kept, left = partial.skip(images(names), BATCH)
        rows(kind, left, partial.file, header=kept == 0)
        partial.finish()
    return kept


def interrupted(target, kind):
    """The partial file of a run that Ctrl-C ended after its last row."""
    partial = PartialFile(target, RUN, kind, resume=False)
    with contextlib.suppress(KeyboardInterrupt), partial:
        rows(kind, images(), partial.file)
        raise KeyboardInterrupt
    return partial


@pytest.fixture(params=list(WRITERS))
def kind(request):
    return request.param


@pytest.fixture
def target(tmp_path):
    return tmp_path / "out"


def whole(target, kind):
    """The partial file of a run that ended just before its end."""
    with PartialFile(target, RUN, kind, resume=False) as partial:
        rows(kind, images(), partial.file)
    return partial_path(target).read_bytes()


def test_a_run_without_interruption_leaves_its_rows_alone(target, kind):
    assert run(target, kind, resume=False) == 0
    assert target.read_bytes() == expected(kind)
    assert [path.name for path in target.parent.iterdir()] == ["out"]


def test_a_run_cut_at_any_byte_is_continued_without_a_duplicate_or_a_gap(target, kind):
    content = whole(target, kind)
    kept = set()
    for end in range(len(content) + 1):
        partial_path(target).write_bytes(content[:end])
        kept.add(run(target, kind, resume=True))
        assert target.read_bytes() == expected(kind)
        assert not partial_path(target).exists()
    assert kept == {0, 2, 4, 6}


def test_rows_that_a_crash_of_the_system_has_left_as_zeros_are_done_again(target, kind):
    content = whole(target, kind)
    for end in range(len(content) - 60, len(content)):
        partial_path(target).write_bytes(content[:end].ljust(len(content) + 100, b"\0"))
        run(target, kind, resume=True)
        assert target.read_bytes() == expected(kind)


def test_resuming_what_was_not_interrupted_starts_anew(target, kind):
    assert run(target, kind, resume=True) == 0
    assert target.read_bytes() == expected(kind)


def test_an_interrupted_run_is_not_overwritten(target, kind):
    content = whole(target, kind)
    with pytest.raises(OutputError, match="continue it with --resume, or remove the file"):
        run(target, kind, resume=False)
    assert partial_path(target).read_bytes() == content


@pytest.mark.parametrize(
    "changes",
    [
        {"names": ["other", *NAMES[1:]]},
        {"names": NAMES[:3]},
        {"names": [*NAMES[1:], NAMES[0]]},
        {"about": {**RUN, "artifact_sha256": "cd"}},
        {"about": {**RUN, "device": "cuda"}},
    ],
)
def test_another_run_is_not_continued(target, kind, changes):
    content = whole(target, kind)
    with pytest.raises(OutputError, match="cannot resume from"):
        run(target, kind, resume=True, **changes)
    assert partial_path(target).read_bytes() == content
    assert not target.exists()


def test_another_format_is_not_continued(target):
    whole(target, "csv")
    with pytest.raises(OutputError, match="belongs to another run"):
        run(target, "jsonl", resume=True)


def test_a_run_that_fails_before_its_first_row_leaves_nothing(target, kind):
    with pytest.raises(KeyboardInterrupt), PartialFile(target, RUN, kind, resume=False):
        raise KeyboardInterrupt
    assert list(target.parent.iterdir()) == []


def test_a_run_that_is_interrupted_leaves_its_rows_to_itself(target, kind):
    assert interrupted(target, kind).holds_rows
    assert partial_path(target).stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.name != "posix", reason="locks files")
def test_two_runs_do_not_write_one_file(target, kind):
    with PartialFile(target, RUN, kind, resume=False) as partial:
        rows(kind, images(), partial.file)
        with pytest.raises(OutputError, match="another process writes"):
            run(target, kind, resume=True)
        partial.finish()
    assert target.read_bytes() == expected(kind)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_link_in_its_place_is_not_followed(target, kind):
    partial_path(target).symlink_to("/dev/full")
    with pytest.raises(OutputError, match="cannot write"):
        run(target, kind, resume=True)


def test_a_full_disk_is_one_error_that_names_the_file(target, kind):
    with (
        pytest.raises(OutputError, match=r"out\.partial: No space left"),
        PartialFile(target, RUN, kind, resume=False),
    ):
        raise OSError(28, "No space left on device")


def test_an_earlier_file_stays_until_all_rows_are_there(target, kind):
    target.write_text("earlier")
    target.chmod(0o600)
    interrupted(target, kind)
    assert target.read_text() == "earlier"
    run(target, kind, resume=True)
    assert target.read_bytes() == expected(kind)
    assert target.stat().st_mode & 0o777 == 0o600


def test_a_file_that_its_run_removes_while_it_is_being_opened_is_not_written(
    target, kind, monkeypatch
):
    def lock_late(handle):
        monkeypatch.undo()
        partial_path(target).unlink()
        return resumable.lock(handle)

    partial_path(target).touch()
    monkeypatch.setattr(resumable, "lock", lock_late)
    with PartialFile(target, RUN, kind, resume=True) as partial:
        rows(kind, images(), partial.file)
        partial.file.flush()
        assert partial_path(target).stat().st_size > 0
        partial.finish()
    assert target.read_bytes() == expected(kind)


def test_a_file_without_rows_is_removed_while_it_is_locked(target, kind, monkeypatch):
    seen = []

    class Watched(io.TextIOWrapper):
        def close(self):
            seen.append(partial_path(target).exists())
            super().close()

    monkeypatch.setattr(resumable, "TextIOWrapper", Watched)
    with PartialFile(target, RUN, kind, resume=False):
        pass
    assert seen[0] is False


def test_a_file_of_another_run_in_its_place_is_left_alone(target, kind):
    with PartialFile(target, RUN, kind, resume=False) as partial:
        partial_path(target).unlink()
        partial_path(target).write_text("another run")
    assert partial_path(target).read_text() == "another run"
    assert not partial.holds_rows


def test_finishing_does_not_need_the_file_that_somebody_has_removed(target, kind):
    with PartialFile(target, RUN, kind, resume=False) as partial:
        rows(kind, images(), partial.file)
        partial_path(target).unlink()
        partial.finish()
    assert target.read_bytes() == expected(kind)


def test_a_first_line_that_cannot_be_written_leaves_nothing(target, kind, monkeypatch):
    class Full(io.BufferedRandom):
        def flush(self):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(resumable.os, "fdopen", lambda handle, _: Full(io.FileIO(handle, "r+b")))
    with pytest.raises(OutputError, match="No space"):
        PartialFile(target, RUN, kind, resume=False)
    assert not partial_path(target).exists()

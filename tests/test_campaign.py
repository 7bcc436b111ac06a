"""The campaign sees what must not happen: it can fail."""

import itertools
import json
import mmap
import os
import pickle
import random
import signal
import sys
from pathlib import Path

import pytest
from campaign import trial
from campaign.commands import Ended, capsnet, end, environment, outliving, start
from campaign.damage import damaged_files, mutate
from campaign.environments import Room
from campaign.hostile import hostile_files
from campaign.kills import Victim, kill, problems
from campaign.tally import Tally, table
from campaign.trial import Batch, File, try_files, work
from support.hostile import Marker

from capsnet.errors import DataError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the campaign is for POSIX systems")


def refused(path):
    raise DataError(f"cannot read {path.name}")


def reported(capsys, tmp_path, files, read, seconds=60.0):
    """What is wrong, and the outcomes, of files that are read with a function."""
    (tmp_path / "place").mkdir()
    work(files, read, tmp_path / "place", seconds)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == {"ready": True}
    return [line["wrong"] for line in lines[1:]], [line["outcome"] for line in lines[1:]]


@pytest.fixture(autouse=True)
def _limits_stay(monkeypatch):
    """The limit on memory is for the campaign's own processes."""
    monkeypatch.setattr(trial.resource, "setrlimit", lambda *_: None)


def test_mutations_are_reproducible_and_change_something():
    content = bytes(range(256)) * 8
    first = [mutate(content, random.Random(seed)) for seed in range(200)]
    again = [mutate(content, random.Random(seed)) for seed in range(200)]
    assert first == again
    assert sum(mutated != content for mutated in first) > 150
    assert len(set(first)) > 150


def test_damage_begins_at_any_number_and_takes_the_kinds_in_turn(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(bytes(1000))
    first = list(itertools.islice(damaged_files(tmp_path, ["a", "b"], 3, 0), 10))
    later = list(itertools.islice(damaged_files(tmp_path, ["a", "b"], 3, 4), 6))
    assert later == first[4:]
    assert [file.name for file in first] == ["a", "b"] * 5


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (lambda path: {}[path.name], "KeyError"),
        (lambda path: path.read_bytes(), "was not refused"),
        (lambda path: refused(path.with_name("a\x1b\n")), "says 'cannot read"),
        (lambda path: pickle.loads(path.read_bytes()), "wrote canary"),
        (refused, ""),
    ],
    ids=["an undocumented error", "opened", "an unclear message", "code that runs", "refused"],
)
def test_a_file_that_is_not_refused_in_words_is_seen(capsys, tmp_path, read, words):
    content = pickle.dumps(Marker(tmp_path / "place" / "canary"))
    wrong, _ = reported(capsys, tmp_path, [File("what", "file", content, True)] * 2, read)
    assert len(wrong) == 2
    assert all(words in line and bool(line) is bool(words) for line in wrong)


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux")
def test_memory_is_that_of_the_file_which_takes_it(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(trial, "MEMORY", 2**27)

    def read(path):
        size = path.read_bytes()[0] << 20
        with mmap.mmap(-1, size) as fresh:  # not what the heap has left over from other tests
            for _ in range(size >> 20):
                fresh.write(bytes([1]) * (1 << 20))

    files = [File("what", "file", bytes([size])) for size in (1, 200, 1, 1)]
    wrong, outcomes = reported(capsys, tmp_path, files, read)
    assert outcomes == ["opened"] * 4
    assert [bool(line) for line in wrong] == [False, True, False, False]
    assert "MiB" in wrong[1]


def test_files_are_read_until_the_time_is_up_but_not_fewer_than_some(capsys, tmp_path):
    files = (File("what", "file", b"") for _ in itertools.count())
    wrong, _ = reported(capsys, tmp_path, files, Path.read_bytes, seconds=0)
    assert len(wrong) == trial._LEAST


WORKER = """
import json, os, sys, time
first = json.loads(sys.argv[1])["first"]
print(json.dumps({"ready": True}), flush=True)
for number in range(first, 4):
    if number == 1:
        os.abort()
    print(json.dumps({"what": str(number), "outcome": "opened", "wrong": ""}), flush=True)
"""


@pytest.mark.parametrize(
    ("code", "cases", "words"),
    [
        (WORKER, 3, "number 1: the process ended with 134"),
        (
            "import sys; sys.exit('no sound file')",
            0,
            "number 0: the process ended with 1; no sound",
        ),
        (WORKER.replace("os.abort()", "time.sleep(60)"), 0, "the process ended with None"),
    ],
    ids=["crash", "no start", "hang"],
)
def test_a_file_that_ends_its_process_is_seen_and_the_next_are_read(
    monkeypatch, code, cases, words
):
    monkeypatch.setattr(trial, "_WORKER", (sys.executable, "-c", code))
    monkeypatch.setattr(trial, "HANG", 0.05)
    monkeypatch.setattr(trial, "_LEAST", 0)
    tally = try_files(Batch("damaged", "", 0, 0, 60 if "abort" in code else 0.5))
    assert words in tally.wrong[0]
    assert len(tally.wrong) == 1
    assert tally.cases >= cases


def test_a_command_that_hangs_is_ended_and_no_error_of_the_campaign(tmp_path):
    child = start(tmp_path, "-c", "import time; time.sleep(60)", command=(sys.executable,))
    assert end(child, 0.1).code is None
    assert end(start(tmp_path, "-c", "pass", command=(sys.executable,))).code == 0


PARENT = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_child_that_outlives_its_parent_is_seen(tmp_path):
    mark = f"campaign_test_{os.getpid()}"
    options = {"env": environment(CAMPAIGN=mark), "stdout": None, "stderr": None}
    child = start(tmp_path, "-c", PARENT, command=(sys.executable,), **options)
    assert outliving(mark, 0.5)
    assert child.wait(10) == 0
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            left = mark.encode() in path.read_bytes()
        except OSError:
            continue
        if left:
            os.kill(int(path.parent.name), signal.SIGKILL)
    assert not outliving(mark, 10)


@pytest.mark.parametrize(
    ("ended", "number", "words"),
    [
        (Ended(130, b"", b"interrupted\n"), signal.SIGINT, []),
        (Ended(137, b"", b""), signal.SIGKILL, []),
        (Ended(0, b"", b""), signal.SIGTERM, []),
        (Ended(1, b"", b"error: wrong"), signal.SIGINT, ["exit 1"]),
        (Ended(3, b"", b"error: no"), signal.SIGTERM, ["exit 3"]),
        (Ended(139, b"", b""), signal.SIGKILL, ["exit 139"]),
        (Ended(130, b"", b""), signal.SIGTERM, ["exit 130"]),
        (Ended(None, b"", b""), signal.SIGTERM, ["still ran"]),
        (Ended(143, b"", b"Traceback\nValueError"), signal.SIGTERM, ["a traceback"]),
        (Ended(130, b"", b"Traceback\n, in main\nKeyboardInterrupt"), signal.SIGINT, ["a trace"]),
        (Ended(130, b"", b"Traceback\n, in _run_code\nKeyboardInterrupt"), signal.SIGINT, []),
        (Ended(137, b"", b""), 0, ["exit 137"]),
    ],
)
def test_a_wrong_end_after_a_signal_is_seen(ended, number, words):
    found = problems(ended, number)
    assert len(found) == len(words)
    assert all(word in problem for word, problem in zip(words, found, strict=True))


VICTIM = """
import os, sys, time
from pathlib import Path
{}
"""


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("time.sleep(60)", []),
        ("Path('out').write_text('wh'); time.sleep(60)", ["out is not the file"]),
        ("Path('out').write_text('whole')", []),
        ("pass", ["out is missing"]),
        ("Path('.out.capsnet-abcdefgh').touch(); time.sleep(60)", ["it left .out.capsnet-"]),
        ("sys.exit(1)", ["exit 1"]),
    ],
)
def test_what_a_killed_command_leaves_is_seen(tmp_path, monkeypatch, code, words):
    (tmp_path / "tmp").mkdir()
    program = VICTIM.format(code)
    victim = Victim(tmp_path, (), ("out",), program=(sys.executable, "-c", program))
    victim.whole, victim.seconds, tally = {"out": b"whole"}, 1.0, Tally()
    kill(victim, signal.SIGTERM, 1.0, tally)
    assert len(tally.wrong) == len(words), tally.wrong
    assert all(word in wrong for word, wrong in zip(words, tally.wrong, strict=True))
    assert tally.cases == ("sleep" in code)


@pytest.mark.parametrize(
    ("ended", "words"),
    [
        (Ended(0, b"rows", b""), ""),
        (Ended(3, b"", b"error: no such file"), ""),
        (Ended(1, b"", b"error: wrong"), "exit 1, expected"),
        (Ended(None, b"", b""), "exit None, expected"),
        (Ended(3, b"", b""), "without a message"),
        (Ended(0, b"", b"Traceback"), "a traceback"),
        (Ended(0, b"a\x1b[2J", b""), "a terminal escape"),
    ],
)
def test_a_wrong_end_in_an_odd_environment_is_seen(tmp_path, ended, words):
    tally = Tally()
    Room(tmp_path, tally).judge("what", (0, 3), ended)
    assert tally.cases == 1
    assert len(tally.wrong) == bool(words)
    assert all(words in wrong for wrong in tally.wrong)


def test_what_a_command_leaves_behind_or_changes_is_seen(tmp_path):
    tally = Tally()
    room = Room(tmp_path, tally)
    (tmp_path / ".a.capsnet-abcdefgh").touch()
    room.judge("what", (0,), Ended(0, b"", b""))
    room.same("what", b"a", b"b")
    room.skip("other")
    assert tally.wrong == ["what: left behind: .a.capsnet-abcdefgh", "what: other bytes"]
    assert tally.outcomes["skipped: other"] == 1


def test_commands_of_the_campaign_run_this_source(tmp_path):
    ended = capsnet(tmp_path, "--version")
    assert ended.code == 0
    assert b"version" in ended.output


@pytest.mark.slow
def test_hostile_files_would_run_their_code_where_nothing_refuses_them(tmp_path):
    canary = tmp_path / "canary"
    files = list(hostile_files(canary))
    assert len(files) > 90
    assert len({file.what for file in files}) == len(files)
    assert all(len(file.content) < 20_000_000 for file in files)
    [pickled] = [file for file in files if file.what.endswith(": a pickle")]
    pickle.loads(pickled.content)
    assert canary.exists()


def test_table_has_a_row_for_every_part():
    tally = Tally(cases=3, wrong=["something"])
    tally.outcomes.update(["opened", "opened", "ArtifactError"])
    row = table({"damaged files": tally}).splitlines()[-1]
    assert row == "| damaged files | 3 | 2 opened, 1 ArtifactError | 1 |"

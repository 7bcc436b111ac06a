"""Files that are read in another process, one after the other: it may crash, hang or swell."""

import contextlib
import faulthandler
import itertools
import json
import resource
import sys
import time
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from campaign.commands import HANG, ROOT, end, start
from campaign.tally import Tally
from capsnet.errors import CapsNetError

__all__ = ["MEMORY", "Batch", "File", "try_files", "work"]

MEMORY = 2**30  # bytes beyond the idle process
_LIMIT = 8 * MEMORY  # where a file gets a MemoryError, so that the machine does not suffer
_MOST = 5000  # files in one process
_LONGEST = 2000  # characters of a message that somebody reads
_LEAST = 60  # files of a part whose time is short
_WORKER = (sys.executable, "-m", "tests.campaign", "--worker")


@dataclass(frozen=True)
class Batch:
    """What a process is to read.

    Attributes:
        part: ``"damaged"`` or ``"hostile"``.
        folder: holds the sound files.
        seed: of the damage.
        first: number of the first file.
        seconds: to go on for.
    """

    part: str
    folder: str
    seed: int
    first: int
    seconds: float


@dataclass(frozen=True)
class File:
    """A file to be read.

    Attributes:
        what: it is, in words.
        name: to give it, by which it is read.
        content: its bytes.
        refused: whether reading it must be an error.
    """

    what: str
    name: str
    content: bytes
    refused: bool = False


def try_files(batch: Batch) -> Tally:
    """Read files in processes of their own until the time is up, or there are no more.

    A process that a file has ended is followed by another, which begins with the next file.
    """
    tally, deadline, first = Tally(), time.monotonic() + batch.seconds, batch.first
    while True:
        left = max(0.0, deadline - time.monotonic())
        now = replace(batch, first=first, seconds=left)
        ended = end(start(ROOT, json.dumps(asdict(now)), command=_WORKER), left + 10 * HANG)
        lines = [json.loads(line) for line in ended.output.splitlines() if line.startswith(b"{")]
        files = lines[1:]  # the first one says that it is ready
        for line in files:
            tally.cases += 1
            tally.outcomes[line["outcome"]] += 1
            if line["wrong"]:
                tally.wrong.append(f"{line['what']}: {line['wrong']}")
        first += len(files)
        if ended.code != 0:
            said = ended.errors.decode(errors="replace")[-500:]
            tally.wrong.append(f"number {first}: the process ended with {ended.code}; {said}")
            first += 1
        over = time.monotonic() >= deadline and tally.cases >= _LEAST
        if not lines or over or (ended.code == 0 and len(files) < _MOST):
            return tally


def work(files: Iterable[File], read: Callable[[Path], None], place: Path, seconds: float) -> None:
    """Read files, and say what came of each, a line of JSON each.

    Args:
        files: to be read.
        read: reads the file at a path.
        place: a folder to put one after the other in; nothing else may appear there.
        seconds: to go on for.
    """
    print(json.dumps({"ready": True}), flush=True)
    until = time.monotonic() + seconds
    idle, there = _memory("VmRSS"), {path.name for path in place.iterdir()}
    with contextlib.suppress(OSError, ValueError):
        limit = _memory("VmSize") + _LIMIT
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    for number, file in enumerate(itertools.islice(files, _MOST)):
        if number >= _LEAST and time.monotonic() > until:
            return
        path = place / file.name
        path.write_bytes(file.content)
        before = _reset_peak()
        faulthandler.dump_traceback_later(HANG, exit=True, file=sys.__stderr__)
        try:
            read(path)
            outcome, wrong = "opened", "was not refused" if file.refused else ""
        except CapsNetError as error:
            message = str(error)
            kinds = {unicodedata.category(character) for character in message}
            clear = not kinds & {"Cc", "Cf", "Cs"} and len(message) < _LONGEST
            outcome, wrong = type(error).__name__, "" if clear else f"says {message[:200]!r}"
        except Exception as error:
            outcome, wrong = "undocumented error", f"{type(error).__name__}: {error}"
        faulthandler.cancel_dump_traceback_later()
        peak = _memory("VmHWM")
        if peak > before and peak - idle > MEMORY:
            wrong = wrong or f"took {(peak - idle) / 2**20:.0f} MiB"
        path.unlink()
        for new in {path.name for path in place.iterdir()} - there:
            wrong = f"wrote {new}"
            (place / new).unlink()
        print(json.dumps({"what": file.what, "outcome": outcome, "wrong": wrong}), flush=True)


def _reset_peak() -> int:
    """Let the peak of memory begin anew, where the system can (Linux); what it is now, in bytes."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmHWM")


def _memory(field: str) -> int:
    """A field of this process's status in bytes; elsewhere than on Linux, the peak ever."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

"""Child processes end with their parents, and tell what the machine lacks from wrong results."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from capsnet.errors import DataError, ResourceError
from capsnet.runtime.process import ChildProcess, ChildProcessEnded

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends signals to other processes")

CHILD = """
import os, signal, time, sys
from capsnet.runtime.process import serve
from capsnet.errors import DataError
def answer(request):
    exec(request["code"])
    return {"done": True}
def start(request):
    exec(request.get("code", ""))
    return {"pid": os.getpid()}, answer
if __name__ == "__main__":
    serve(start)
"""


@pytest.fixture
def child(tmp_path, monkeypatch):
    """Starts a process that executes what it is sent."""
    (tmp_path / "child_module.py").write_text(CHILD)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    started = []

    def start(code=""):
        started.append(ChildProcess("child_module", {"code": code}))
        return started[-1]

    yield start
    for process in started:
        process.kill()


def answer_to(process, code):
    process.send({"code": code})
    return process.receive(30)


def test_answers_come_in_order_and_the_process_ends_well(child):
    process = child()
    assert "pid" in process.receive(30)
    for _ in range(3):
        assert answer_to(process, "pass") == {"done": True}
    process.finish()


@pytest.mark.parametrize("at", ["start", "request"])
@pytest.mark.parametrize(
    ("code", "match"),
    [
        ("raise MemoryError", "out of memory"),
        ("raise OSError(12, 'Cannot allocate memory')", "out of memory"),
        ("raise RuntimeError('DefaultCPUAllocator: can\\'t allocate memory')", "out of memory"),
        ("raise FileNotFoundError(2, 'No such file or directory')", "No such file or directory"),
        ("'\\udce9'.encode()", "UnicodeEncodeError"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed .SIGKILL., as the system does when"),
        ("os.kill(os.getpid(), signal.SIGTERM)", "ended by signal 15"),
        ("import no_such_library", "could not load a library"),
        ("print('std::bad_alloc', file=sys.stderr, flush=True); os.abort()", "ran out of memory"),
    ],
)
def test_trouble_of_the_machine_is_no_wrong_result(child, code, match, at):
    process = child(code if at == "start" else "")
    if at == "start":
        with pytest.raises(ResourceError, match=match):
            process.receive(30)
        return
    process.receive(30)
    with pytest.raises(ResourceError, match=match) as caught:
        answer_to(process, code)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    "code", ["raise KeyError('abc')", "raise RuntimeError('no')", "os.abort()"]
)
def test_a_crash_is_one(child, code):
    process = child()
    process.receive(30)
    with pytest.raises(ChildProcessEnded):
        answer_to(process, code)


def test_an_error_of_the_toolkit_is_itself_and_more_can_be_asked(child):
    process = child()
    process.receive(30)
    with pytest.raises(DataError, match="no images"):
        answer_to(process, "raise DataError('no images')")
    assert answer_to(process, "pass") == {"done": True}


def test_little_memory_is_no_wrong_result(child):
    process = child()
    process.receive(30)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (10**9, 10**9)); b'x' * 10**10"
    with pytest.raises(ResourceError, match="out of memory"):
        answer_to(process, limit)


def test_a_working_folder_that_is_gone_is_no_wrong_result(child, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(ResourceError, match="the working folder is not there"):
        child()


def test_ctrl_c_is_left_to_the_parent(child):
    process = child()
    pid = process.receive(30)["pid"]
    os.kill(pid, signal.SIGINT)
    assert answer_to(process, "pass") == {"done": True}


PARENT = """
import sys, time
from capsnet.runtime.process import ChildProcess
child = ChildProcess("child_module", {"code": ""})
print(child.receive(30)["pid"], flush=True)
child.send({"code": sys.argv[1]})
time.sleep(60)
"""
BUSY = "while True: pass"
NO_SIGNAL = "import ctypes; ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)\n"  # as on other systems


def ended(pid):
    """Whether a process is gone, or only waits for its parent to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("code", ["time.sleep(60)", BUSY, NO_SIGNAL + BUSY, "pass"])
def test_a_child_ends_with_its_parent_however_that_ends(child, code):
    with subprocess.Popen(
        [sys.executable, "-P", "-c", PARENT, code], stdout=subprocess.PIPE, text=True
    ) as parent:
        pid = int(parent.stdout.readline())
        time.sleep(0.3)
        alive = not ended(pid)
        parent.kill()
    assert alive
    deadline = time.monotonic() + 5
    while not ended(pid):
        assert time.monotonic() < deadline, "it outlives its parent"
        time.sleep(0.05)

"""Ctrl-C and SIGTERM: 130 and 143, nothing left behind, no traceback, from start to end."""

import os
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends signals to other processes")

# As a terminal starts it: a background job would ignore Ctrl-C.
START = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
"""
RUN = """
from capsnet.cli.main import main
main()
"""

# What a command meets: each prints a line when it is there.
READY = 'print("ready", flush=True)\n'
IMPORTS = f"""
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "rich.console" or name == "capsnet.cli.bench":
            {READY}
            try:
                import time; time.sleep(60)
            except BaseException as error:
                raise ImportError("numpy's C extensions failed") from error
sys.meta_path.insert(0, Finder())
"""
WORK = """
import capsnet.cli.doctor, time
import capsnet.runtime.doctor as doctor
def examine(cuda):
    {}
doctor.examine = examine
"""
WAITS = WORK.format(f"{READY}    time.sleep(60)")
SHORT = WORK.format(f"{READY}    time.sleep(1)\n    return ()")
WRAPPED = WORK.format(f"""try:
        {READY}        time.sleep(60)
    except KeyboardInterrupt as error:
        raise RuntimeError("the exporter failed") from error""")
SUPPRESSED = WORK.format(f"""
    class Node:
        def __del__(self):
            {READY}            time.sleep(60)
    Node()
    time.sleep(60)""")
# An exception in the C++ of a module that is being loaded may end the process.
LOADED = WORK.format(f"""
    import os
    class ExtensionFileLoader:
        def create_module(self):
            end = time.monotonic() + 0.5
            try:
                {READY}                while time.monotonic() < end:
                    pass
            except BaseException:
                os.abort()
    ExtensionFileLoader().create_module()
    time.sleep(60)""")
STUBBORN = WORK.format(f"""try:
        {READY}        time.sleep(60)
    finally:
        print("cleaning", flush=True)
        time.sleep(60)""")
ENDING = """
import atexit, time
atexit.register(lambda: (print("ready", flush=True), time.sleep(60)))
"""

PLACES = {
    "imports": (IMPORTS, ["doctor"]),
    "work": (WAITS, ["doctor"]),
    "wrapped": (WRAPPED, ["doctor"]),
    "suppressed by a destructor": (SUPPRESSED, ["doctor"]),
    "in a compiled module": (LOADED, ["doctor"]),
    "teardown": (ENDING, ["--version"]),
}


def started(code, arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-P", "-W", "error", "-c", START + code + RUN, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def wait_for(child, word):
    for line in child.stdout:
        if line.strip() == word:
            return
    raise AssertionError(child.stderr.read())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("place", PLACES)
def test_a_signal_ends_the_process_with_its_code_and_one_word(place, number):
    with started(*PLACES[place]) as child:
        wait_for(child, "ready")
        child.send_signal(number)
        _, err = child.communicate(timeout=30)
    assert child.returncode == 128 + number
    assert err.split() in (["interrupted"], [] if place == "teardown" else None)


def test_a_second_signal_ends_a_slow_clean_up_at_once_without_a_traceback():
    with started(STUBBORN, ["doctor"]) as child:
        wait_for(child, "ready")
        child.send_signal(signal.SIGINT)
        wait_for(child, "cleaning")
        child.send_signal(signal.SIGINT)  # the same, sent twice, as `timeout` and shells do
        time.sleep(1.2)
        assert child.poll() is None
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=30)
    assert child.returncode == 130
    assert "Traceback" not in err


def test_signals_that_the_caller_ignores_stay_ignored():
    ignored = f"signal.signal(signal.SIGINT, signal.SIG_IGN)\n{SHORT}"
    with started(ignored, ["doctor"]) as child:
        wait_for(child, "ready")
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=30)
    assert child.returncode == 0


WRITES = """
import time
from pathlib import Path
import capsnet.cli.doctor
import capsnet.runtime.doctor as doctor
from capsnet.files import atomic_path
def examine(cuda):
    with atomic_path(Path("model.onnx")) as temporary:
        temporary.write_text("half")
        print("ready", flush=True)
        time.sleep(60)
doctor.examine = examine
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_no_file_behind(tmp_path, number):
    with started(WRITES, ["doctor"], cwd=tmp_path) as child:
        wait_for(child, "ready")
        assert len(list(tmp_path.iterdir())) == 1
        child.send_signal(number)
        child.communicate(timeout=30)
    assert child.returncode == 128 + number
    assert list(tmp_path.iterdir()) == []

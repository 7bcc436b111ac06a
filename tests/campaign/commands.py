"""Commands as processes of their own, none of which can keep the campaign waiting."""

import contextlib
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "CAPSNET",
    "HANG",
    "ROOT",
    "Ended",
    "capsnet",
    "end",
    "environment",
    "outliving",
    "start",
]

ROOT = Path(__file__).parents[2]
HANG = 30.0  # seconds for one file, and for ending after a signal

# A slow machine must not look like a hang: an undisturbed command takes 0.4 to 6 s on two cores.
_PATIENCE = 120.0
_OFFLINE = ROOT / "tests" / "support" / "offline"
CAPSNET = (sys.executable, "-m", "capsnet")


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        code: as a shell has it: 128 + signal for one that died of a signal; None after a hang.
        output: what it wrote to standard output.
        errors: what it wrote to standard error.
    """

    code: int | None
    output: bytes
    errors: bytes


def environment(**changes: str) -> dict[str, str]:
    """The variables of a process of the campaign: it runs this source, and has no network."""
    return os.environ | {"PYTHONPATH": f"{_OFFLINE}{os.pathsep}{ROOT}"} | changes


def start(
    here: Path, *arguments: str, command: tuple[str, ...] = CAPSNET, **options: object
) -> subprocess.Popen[bytes]:
    """Start a command in a folder; options are those of ``Popen``."""
    return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
        [*command, *arguments],
        cwd=here,
        **{
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "env": environment(),
            **options,
        },
    )


def end(child: subprocess.Popen[bytes], seconds: float = _PATIENCE) -> Ended:
    """Wait for a process to end; kill it when it takes longer."""
    try:
        output, errors = child.communicate(timeout=seconds)
        code: int | None = child.returncode if child.returncode >= 0 else 128 - child.returncode
    except subprocess.TimeoutExpired:
        child.kill()
        output, errors, code = b"", b"", None
        with contextlib.suppress(subprocess.TimeoutExpired):  # a child of its holds the pipe
            output, errors = child.communicate(timeout=seconds)
    return Ended(code, output or b"", errors or b"")


def capsnet(here: Path, *arguments: str, **options: object) -> Ended:
    """Run a command to its end."""
    return end(start(here, *arguments, **options))


def outliving(mark: str, seconds: float) -> bool:
    """Whether a process with these characters in its variables still runs after some time."""
    deadline = time.monotonic() + seconds
    while _marked(mark.encode()):
        if time.monotonic() > deadline:
            return True
        time.sleep(0.05)
    return False


def _marked(mark: bytes) -> bool:
    for path in Path("/proc").glob("[0-9]*/environ"):  # Linux; elsewhere there are none
        with contextlib.suppress(OSError):  # it has ended, or is somebody else's
            if mark in path.read_bytes():
                return True
    return False

"""Child processes that answer requests: one line of JSON each way, over the standard streams."""

import contextlib
import ctypes
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

from capsnet.errors import ArtifactError, CapsNetError, ResourceError, first_line, lacks_memory
from capsnet.files import check_working_folder

__all__ = ["ChildProcess", "ChildProcessEnded", "Handler", "serve"]

Handler = Callable[[dict[str, Any]], dict[str, Any]]

_GRACE = 30.0  # seconds that a process which has nothing left to do may take to end
_PR_SET_PDEATHSIG = 1  # see prctl(2)
_ENDED_BY_OTHERS = (-1, -2, -15)  # SIGHUP, SIGINT, SIGTERM
_CANNOT_LOAD = ("ImportError: ", "ModuleNotFoundError: ", "Intel oneMKL FATAL ERROR: Cannot load")
_LAST_OUTPUT = 4096  # bytes of what a process printed last that tell why it ended


class ChildProcessEnded(Exception):  # noqa: N818 - not always an error
    """The process ended without an answer."""


class ChildProcess:
    """A module run as a process of its own, which shares nothing with this one.

    Used as a context manager, it is killed at the end of the block if it still runs.

    Args:
        module: to run; it calls :func:`serve`.
        request: JSON values that its ``start`` receives.

    Raises:
        ResourceError: if the working folder is gone.
    """

    def __init__(self, module: str, request: Mapping[str, Any]) -> None:
        check_working_folder()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        # -P: files of the working folder must not stand in for the installed modules.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, json.dumps(request, default=str)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
        )
        self._answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def send(self, request: Mapping[str, Any]) -> None:
        """Ask for something; answers come in the order of the requests."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # receiving tells why it ended
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()

    def receive(self, timeout: float | None = None) -> dict[str, Any]:
        """The next answer; the first one is that of ``start``.

        Args:
            timeout: seconds to wait; None for as long as it takes.

        Returns:
            The answer.

        Raises:
            CapsNetError: what the process raised; a ResourceError also where it was killed, or
                ended for lack of memory.
            ChildProcessEnded: if it ended instead; the message has its code and last output.
            TimeoutError: if there is no answer for so long.
        """
        try:
            answer = self._answers.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError from None
        if answer is None:
            self._answers.put(None)  # for whoever asks again
            code = self._process.wait()
            self._raise_if_machine_failed(code)
            raise ChildProcessEnded(
                f"its process ended with code {code} and no answer; "
                f"it printed last: {self._last_error()}"
            )
        if "error" in answer:
            kinds = {kind.__name__: kind for kind in CapsNetError.__subclasses__()}
            raise kinds.get(answer["kind"], ArtifactError)(answer["error"])
        return answer

    def finish(self) -> None:
        """Let it end by itself.

        Raises:
            ChildProcessEnded: if it does not end well: its answers are then in doubt.
            ResourceError: if it was killed, or ended for lack of memory.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            code = self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            raise ChildProcessEnded(f"its process did not end within {_GRACE:.0f} s") from None
        if code != 0:
            self._raise_if_machine_failed(code)
            raise ChildProcessEnded(
                f"its process ended with code {code}; it printed last: {self._last_error()}"
            )

    def kill(self) -> None:
        """End it now."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._errors):
            with contextlib.suppress(BrokenPipeError):
                stream.close()  # type: ignore[union-attr]

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            for line in stdout:
                with contextlib.suppress(ValueError):  # an interpreter may print before `serve`
                    answer = json.loads(line)
                    if isinstance(answer, dict):
                        self._answers.put(answer)
        self._answers.put(None)

    def _raise_if_machine_failed(self, code: int) -> None:
        """Raise ResourceError where it ended for a reason that says nothing of its answers."""
        if code == -9:
            raise ResourceError(
                "its process was killed (SIGKILL), as the system does when memory runs out; use "
                "fewer --samples, or a machine with more memory"
            )
        if code in _ENDED_BY_OTHERS:
            raise ResourceError(f"its process was ended by signal {-code}; try again")
        if code != 0 and lacks_memory(self._last_output()):
            raise ResourceError(
                f"its process ran out of memory: {self._last_error()}; use fewer --samples, or a "
                "machine with more memory"
            )

        if self._last_error().startswith(_CANNOT_LOAD):
            raise ResourceError(
                f"its process could not load a library: {self._last_error()}; find out more: "
                "capsnet doctor"
            )

    def _last_error(self) -> str:
        lines = self._last_output().splitlines()
        return lines[-1] if lines else "nothing"

    def _last_output(self) -> str:
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - _LAST_OUTPUT))
        return self._errors.read().decode(errors="replace").strip()


def serve(start: Callable[[dict[str, Any]], tuple[dict[str, Any], Handler]]) -> None:
    """Be such a process, until standard input ends.

    It ends with its parent, also while it computes. Ctrl-C is the parent's to answer.

    Args:
        start: makes the first answer, and the function that answers each request. What either
            raises of the toolkit's errors is an answer, as is what the machine lacks; any other
            exception ends the process.
    """
    _end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not look like an answer
    requests = _Requests()

    def answer(make: Callable[[], dict[str, Any]]) -> bool:
        made, good = _attempt(make)
        requests.done()
        answers.write(json.dumps(made) + "\n")
        answers.flush()
        return good

    handler: Handler

    def begin() -> dict[str, Any]:
        nonlocal handler
        about, handler = start(json.loads(sys.argv[1]))
        return about

    if not answer(begin):
        return
    for request in requests:
        answer(lambda request=request: handler(request))  # type: ignore[misc]


def _attempt(make: Callable[[], dict[str, Any]]) -> tuple[dict[str, Any], bool]:
    """An answer, or the error in its place; and whether it is the answer."""
    try:
        return make(), True
    except CapsNetError as error:
        kind, message = type(error).__name__, str(error)
    except (MemoryError, OSError, RuntimeError, UnicodeError) as error:
        said = f"{type(error).__name__}: {first_line(error)}"
        if lacks_memory(said):
            message = f"out of memory ({said}); use fewer --samples, or a larger machine"
        elif isinstance(error, RuntimeError):  # a crash, whose verdict is the parent's
            raise
        else:
            message = f"the system failed: {said}; repair that, and try again"
        kind = ResourceError.__name__
    return {"error": message, "kind": kind}, False


class _Requests:
    """The requests on standard input, which is watched also while one is being answered.

    Its end is the end of this process: at once while something is being computed that nobody will
    read, or else when the last answer is written.
    """

    def __init__(self) -> None:
        self._unanswered = 1  # no request comes before the first answer
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        threading.Thread(target=self._watch, daemon=True).start()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while (line := self._lines.get()) is not None:
            yield json.loads(line)

    def done(self) -> None:
        """One more is answered."""
        with self._lock:
            self._unanswered -= 1

    def _watch(self) -> None:
        # Not sys.stdin: the interpreter waits at its end for who reads that.
        with os.fdopen(os.dup(0), encoding="utf-8") as lines:
            for line in lines:
                with self._lock:
                    self._unanswered += 1
                self._lines.put(line)
        with self._lock:
            if self._unanswered:
                os._exit(1)
        self._lines.put(None)


def _end_with_parent() -> None:
    """Let the system kill this process when its parent ends, where it can (Linux)."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

"""Child processes that answer requests: one line of JSON each way, over the standard streams."""

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from typing import Any, Self

from capsnet.errors import ArtifactError, CapsNetError

__all__ = ["ChildProcess", "ChildProcessEnded", "Handler", "serve"]

Handler = Callable[[dict[str, Any]], dict[str, Any]]

_GRACE = 30.0  # seconds that a process which has nothing left to do may take to end


class ChildProcessEnded(Exception):  # noqa: N818 - not always an error
    """The process ended without an answer."""


class ChildProcess:
    """A module run as a process of its own, which shares nothing with this one.

    Used as a context manager, it is killed at the end of the block if it still runs.

    Args:
        module: to run; it calls :func:`serve`.
        request: JSON values that its ``start`` receives.
    """

    def __init__(self, module: str, request: Mapping[str, Any]) -> None:
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
            CapsNetError: what the process raised.
            ChildProcessEnded: if it ended instead; the message has its code and last output.
            TimeoutError: if there is no answer for so long.
        """
        try:
            answer = self._answers.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError from None
        if answer is None:
            self._answers.put(None)  # for whoever asks again
            raise ChildProcessEnded(
                f"its process ended with code {self._process.wait()} and no answer; "
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
        """
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            code = self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            raise ChildProcessEnded(f"its process did not end within {_GRACE:.0f} s") from None
        if code != 0:
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

    def _last_error(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "nothing"


def serve(start: Callable[[dict[str, Any]], tuple[dict[str, Any], Handler]]) -> None:
    """Be such a process, until standard input ends.

    Args:
        start: makes the first answer, and the function that answers each request. What either
            raises of the toolkit's errors is an answer; any other exception ends the process.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not look like an answer

    def send(answer: Mapping[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    def attempt(answer: Handler, request: dict[str, Any]) -> dict[str, Any]:
        try:
            return answer(request)
        except CapsNetError as error:
            return {"error": str(error), "kind": type(error).__name__}

    request = json.loads(sys.argv[1])
    try:
        about, handler = start(request)
    except CapsNetError as error:
        send({"error": str(error), "kind": type(error).__name__})
        return
    send(about)
    for line in sys.stdin:
        send(attempt(handler, json.loads(line)))

"""What Ctrl-C does, and a request to end (SIGTERM, SIGHUP): clean up, and the code 128 + signal.

Only what every interpreter has loaded already is imported here: this is in force before the
commands are imported.
"""

import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

__all__ = ["Interruption"]

_SAME_KEY = 1.0  # seconds in which a second signal is taken for the first one, sent twice
_AGAIN = 0.05  # seconds after which an interruption that came to nothing is raised again


class Interruption:
    """The first signal raises KeyboardInterrupt; a later one ends the process at once.

    Libraries replace a KeyboardInterrupt by errors of their own, or suppress it; ``code`` is set in
    every case. Signals that are ignored, as under ``nohup``, stay so.

    Attributes:
        code: the exit code, 130 for Ctrl-C and 143 for SIGTERM; None where there was no signal.
    """

    def __init__(self) -> None:
        self.code: int | None = None
        self._at = 0.0
        self._working = True

    def install(self) -> None:
        """Handle the signals from now on, until the process ends."""
        if threading.current_thread() is not threading.main_thread():  # signals arrive there
            return
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)  # Windows lacks SIGHUP
            if number is None:
                continue
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(number, self._handle)
        sys.unraisablehook = self._unraisable

    def finish(self) -> None:
        """There is nothing left to clean up: from now on a signal ends the process at once."""
        self._working = False

    def _handle(self, number: int, _: FrameType | None) -> None:
        first = self.code is None
        if first:
            self.code = 128 + number
            self._at = time.monotonic()
        if not self._working or time.monotonic() - self._at > _SAME_KEY:
            os._exit(128 + number)
        if first:
            raise KeyboardInterrupt

    def _unraisable(self, what: Any) -> None:
        """Interrupt again where a destructor got the interruption, and could not raise it."""
        if not isinstance(what.exc_value, KeyboardInterrupt):
            sys.__unraisablehook__(what)
            return
        threading.Timer(_AGAIN, self._again).start()

    def _again(self) -> None:
        if self._working and self.code is not None:
            number, self.code = self.code - 128, None
            if hasattr(signal, "pthread_kill"):  # also where the main thread waits
                signal.pthread_kill(threading.main_thread().ident or 0, number)
            else:
                signal.raise_signal(number)

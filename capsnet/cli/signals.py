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
_AGAIN = 0.05  # seconds after which an interruption that came to nothing is tried again


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
        self._due = False  # a KeyboardInterrupt is still to be raised
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

    def _handle(self, number: int, frame: FrameType | None) -> None:
        first = self.code is None
        if first:
            self.code = 128 + number
            self._due = True
        elif not self._due and time.monotonic() - self._at > _SAME_KEY:
            os._exit(128 + number)
        if not self._working:
            os._exit(128 + number)
        if self._due:
            if _loads_extension(frame):
                if first:
                    self._raise_later()
                return
            self._due = False
            self._at = time.monotonic()
            raise KeyboardInterrupt

    def _unraisable(self, what: Any) -> None:
        """Interrupt again where a destructor got the interruption, and could not raise it."""
        if not isinstance(what.exc_value, KeyboardInterrupt):
            sys.__unraisablehook__(what)
            return
        self._due = True
        self._raise_later()

    def _raise_later(self) -> None:
        threading.Thread(target=self._repeat, daemon=True).start()

    def _repeat(self) -> None:
        """Send the signal until it was raised: one that arrives just before a wait is not seen."""
        while True:
            time.sleep(_AGAIN)
            if not self._due or not self._working or self.code is None:
                return
            if hasattr(signal, "pthread_kill"):  # also where the main thread waits
                signal.pthread_kill(threading.main_thread().ident or 0, self.code - 128)
            else:
                signal.raise_signal(self.code - 128)


def _loads_extension(frame: FrameType | None) -> bool:
    """Whether a compiled module is being loaded: an exception in C++ may end the process there."""
    while frame is not None:
        loads = frame.f_code.co_name in ("create_module", "exec_module")
        if loads and type(frame.f_locals.get("self")).__name__ == "ExtensionFileLoader":
            return True
        frame = frame.f_back
    return False

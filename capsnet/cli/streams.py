"""Standard output and standard error that can always be written, or say why not."""

import codecs
import io
import os
import sys
from typing import Any

from capsnet.errors import OutputError

__all__ = ["ReaderGoneError", "check_standard_output", "end_standard_output", "prepare_streams"]

_ESCAPED = "capsnet.escaped"
_closed = False


class ReaderGoneError(Exception):
    """The reader of standard output has closed it; no OSError, which libraries catch."""

    exit_code = 141  # that of ``cat``: 128 + SIGPIPE


class _StandardOutput(io.FileIO):
    """Standard output, whose errors name it."""

    def write(self, content: Any) -> int | None:  # type: ignore[override]
        try:
            return super().write(content)
        except BrokenPipeError as error:
            raise ReaderGoneError from error
        except OSError as error:
            error.filename = "standard output"
            raise


def prepare_streams() -> None:
    """Make standard output ready, also where the caller has closed it.

    Where it is closed, what is written is discarded, and no other file is opened in its place.
    Characters that its encoding lacks are escaped, and file names that are not UTF-8 are written as
    the bytes that they are.
    """
    global _closed
    _closed = sys.__stdout__ is None
    _occupy_standard_files()
    codecs.register_error(_ESCAPED, _escaped)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - for good
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - for good
    elif sys.stdout is sys.__stdout__ and isinstance(sys.stdout, io.TextIOWrapper):
        given = sys.stdout
        strict = given.errors in ("strict", "surrogateescape")
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(_StandardOutput(given.fileno(), "wb", closefd=False)),
            encoding=given.encoding,
            errors=_ESCAPED if strict else given.errors,
            line_buffering=given.line_buffering,
            write_through=given.write_through,
        )


def check_standard_output() -> None:
    """Raise OutputError where standard output is closed, and the command's product goes there."""
    if _closed:
        raise OutputError("standard output is closed, expected a file or a pipe; give --output")


def end_standard_output() -> None:
    """Write what is left.

    Raises:
        OSError, ReaderGoneError: where that fails, once: then the rest is dropped.
    """
    try:
        sys.stdout.flush()
    except (OSError, ReaderGoneError):
        _drop_standard_output()
        raise


def _drop_standard_output() -> None:
    """Discard what the interpreter flushes last: it would print a traceback."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.close(devnull)


def _occupy_standard_files() -> None:
    """Open what is closed of files 0 to 2: else data files get these numbers, and prints."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            if opened != number:
                os.close(opened)


def _escaped(error: UnicodeError) -> tuple[str | bytes, int]:
    """Bytes for what stands for bytes, and backslash escapes for other characters."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    if all("\udc80" <= character <= "\udcff" for character in text):
        return bytes(ord(character) - 0xDC00 for character in text), error.end
    return text.encode("ascii", "backslashreplace"), error.end

"""Every error that the toolkit raises for something a user can mend.

    CapsNetError                exit code
    +-- ConfigError             3   a network that cannot exist
    +-- CheckpointError         3   weights that cannot be read, or do not fit their configuration
    +-- DataError               3   images or labels that cannot be read, or have the wrong form
    +-- ArtifactError           3   an exported file that cannot be opened, or is not what it claims
    +-- DeviceError             3   a device or an execution provider that is not there
    +-- OutputError             3   a file that cannot be written
    +-- ResourceError           3   memory, or a working folder, that is not there
    +-- ExportError             4   an export that failed
    +-- ResultError             1   an artifact that computes the wrong numbers

A message says what was wrong, what was expected, and what to do.
"""

import unicodedata
from typing import ClassVar

__all__ = [
    "ArtifactError",
    "CapsNetError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DeviceError",
    "ExportError",
    "OutputError",
    "ResourceError",
    "ResultError",
    "counted",
    "first_line",
    "lacks_memory",
    "printable",
    "raise_interruption",
]


class CapsNetError(Exception):
    """Base of the toolkit's errors; ``exit_code`` is what the command line returns for it.

    A message may quote a file that others wrote, so control characters are escaped.
    """

    exit_code: ClassVar[int] = 3

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message))


class ConfigError(CapsNetError):
    """A configuration that describes no network, or an export that does not fit the network."""


class CheckpointError(CapsNetError):
    """A checkpoint that cannot be read, or whose tensors do not fit its configuration."""


class DataError(CapsNetError):
    """Images or labels that cannot be read, or whose shape, type or range is wrong."""


class ArtifactError(CapsNetError):
    """An exported artifact that cannot be opened, or whose contents contradict each other."""


class DeviceError(CapsNetError):
    """A device or execution provider that was asked for and is not there."""


class OutputError(CapsNetError):
    """A file that cannot be written."""


class ResourceError(CapsNetError):
    """A machine that lacks what any work needs: memory, a working folder, a temporary folder."""


class ExportError(CapsNetError):
    """An export that failed, or whose result is not a valid artifact."""

    exit_code = 4


class ResultError(CapsNetError):
    """An artifact that computes something other than the model it was exported from."""

    exit_code = 1


def printable(text: str) -> str:
    """Text in which control characters, which a terminal acts on, are escapes such as ``\\x1b``.

    Those that change the direction of the text are among them. Ends of lines and tabs stay.
    """
    return "".join(
        c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs") else _escaped(c)
        for c in text
    )


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def first_line(error: BaseException) -> str:
    """The first line of a library's error, or its kind where it has no text."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def counted(count: int, noun: str) -> str:
    """How many there are: ``1 image``, ``2 images``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


_LACK_OF_MEMORY = (
    "memoryerror",  # Python and numpy
    "bad_alloc",  # C++, onnxruntime
    "can't allocate memory",  # torch
    "cannot allocate memory",  # the system, its loader
    "not enough memory",  # torch
    "out of memory",  # CUDA
    "failed to allocate memory",  # onnxruntime
    "memory allocation still failed",  # OpenBLAS
    "failed to map segment",  # the system's loader
    "can't start new thread",  # Python
    "resource temporarily unavailable",  # threads of the system
)


def lacks_memory(message: str) -> bool:
    """Whether an error's kind and text, or a process's last output, names a lack of memory."""
    text = message.lower()
    return any(words in text for words in _LACK_OF_MEMORY)


def raise_interruption(error: BaseException) -> None:
    """Raise the KeyboardInterrupt that a library's error was made of, where there was one."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        if isinstance(cause, KeyboardInterrupt):
            raise cause
        seen.add(id(cause))
        cause = cause.__cause__ or cause.__context__

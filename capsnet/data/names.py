"""Names of classes from a text file."""

from collections.abc import Sequence
from pathlib import Path

from capsnet.data.source import reading
from capsnet.errors import DataError, printable
from capsnet.files import open_regular

__all__ = ["check_names", "read_names"]

_LARGEST = 1 << 20  # bytes


def read_names(path: Path, classes: int | None = None) -> tuple[str, ...]:
    """The names of classes, one a line, in the order of their numbers.

    Args:
        path: the file, UTF-8.
        classes: how many there must be; None for any number.

    Raises:
        DataError: if it cannot be read, names a class twice, or another number of them.
    """
    with reading(str(path)), open_regular(path) as file:
        text = file.read(_LARGEST).decode()
    names = tuple(printable(line.strip()) for line in text.splitlines() if line.strip())
    check_names(str(path), names, classes)
    return names


def check_names(where: str, names: Sequence[str], classes: int | None) -> None:
    """Raise DataError where names are not those of so many classes."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{where} names the class {twice[0]!r} more than once")
    if classes is not None and len(names) != classes:
        raise DataError(
            f"{where} names {len(names)} classes, and there are {classes}; give one name a line, "
            "in the order of their numbers"
        )

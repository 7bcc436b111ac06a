"""Files that appear whole or not at all, and their digests."""

import contextlib
import errno
import hashlib
import io
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from capsnet.errors import OutputError

__all__ = [
    "StagedFile",
    "atomic_path",
    "check_writable",
    "file_sha256",
    "open_regular",
    "read_file",
]


def open_regular(path: Path) -> io.BufferedReader:
    """Open a regular file for reading.

    A pipe would make its reader wait for a writer, and a device may never end: they are refused
    before anything is read, without waiting.

    Args:
        path: the file, or a link to one.

    Raises:
        OSError: if it cannot be opened, or is no regular file; ``strerror`` says which.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    handle = os.open(path, flags | getattr(os, "O_BINARY", 0))
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "It is a pipe or a device, not a regular file", str(path))
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_file(path: Path) -> bytes:
    """All bytes of a regular file, read once.

    Raises:
        OSError: as :func:`open_regular` does.
    """
    with open_regular(path) as file:
        return file.read()


def file_sha256(path: Path) -> str:
    """SHA-256 of a regular file's bytes, as lower-case hexadecimal."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class StagedFile:
    """A temporary file beside ``target`` that can take its place, whole or not at all.

    Used as a context manager: leaving the block without :meth:`commit`, by an error or by Ctrl-C,
    removes the temporary file, and an earlier ``target`` stays as it was. An error of the operating
    system that leaves the block becomes an OutputError.

    Args:
        target: the file to write; a symbolic link stays one, and the file it leads to is written.

    Attributes:
        path: the temporary file, in the same folder and with the same suffix, to be written.

    Raises:
        OutputError: if the folder is missing or not writable, or the disk is full.
    """

    def __init__(self, target: Path) -> None:
        if target.exists() and not target.is_file():  # renaming over /dev/null would remove it
            kind = "a folder" if target.is_dir() else "a device or a pipe"
            raise OutputError(f"cannot write {target}: it is {kind}; give the name of a file")
        self._target = target
        self._place = Path(os.path.realpath(target))
        try:
            handle, name = tempfile.mkstemp(
                prefix=f".{target.name}.", suffix=target.suffix, dir=self._place.parent
            )
        except OSError as error:
            raise OutputError(_cannot_write(target, error)) from error
        os.close(handle)
        self.path = Path(name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OutputError(_cannot_write(self._target, error)) from error

    def commit(self) -> None:
        """Put the file in the target's place, synced to the disk before."""
        try:
            with self.path.open("rb+") as file:
                os.fsync(file.fileno())
            self.path.chmod(_default_mode())
            self.path.replace(self._place)
        except OSError as error:
            raise OutputError(_cannot_write(self._target, error)) from error


@contextlib.contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """A staged file's path, committed when the block ends without an error.

    Args:
        target: the file to write.

    Yields:
        A path in the same folder and with the same suffix, for the block to write.

    Raises:
        OutputError: if the folder is missing or not writable, or the disk is full.
    """
    with StagedFile(target) as staged:
        yield staged.path
        staged.commit()


def check_writable(path: Path) -> None:
    """Raise now what writing the file would raise later, after the work.

    Args:
        path: the file that will be written. It is not changed; a temporary file appears beside it
            and is removed.

    Raises:
        OutputError: if the folder is missing or not writable, or the path is a folder or a device.
    """
    with StagedFile(path):
        pass


def _default_mode() -> int:
    """Permissions a plain ``open`` would give; ``mkstemp`` alone leaves files private."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _cannot_write(target: Path, error: OSError) -> str:
    return (
        f"cannot write {target}: {error.strerror or error}; "
        "choose a folder that exists, is writable and has space"
    )

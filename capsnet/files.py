"""Files that appear whole or not at all, and their digests."""

import atexit
import contextlib
import errno
import functools
import hashlib
import io
import os
import re
import secrets
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

from capsnet.errors import OutputError, ResourceError

try:
    import fcntl
except ImportError:  # Windows: files left by a kill stay there
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "IMAGE_SUFFIXES",
    "StagedFile",
    "atomic_path",
    "cannot_write",
    "check_working_folder",
    "check_writable",
    "clash",
    "file_sha256",
    "lock",
    "open_regular",
    "read_file",
    "sweep",
]

_MARK = ".capsnet-"
_LEFT = re.compile(r"\..*\.capsnet-[a-z0-9_]{8}(\.[^.]*)?", re.DOTALL)
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
_NAME = 40  # characters of a target's name that its temporary file repeats; names have a limit


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
    system that leaves the block becomes an OutputError. A file that a killed process has left is
    removed by the next one that writes into the same folder, see :func:`sweep`.

    Args:
        target: the file to write; a symbolic link stays one, and the file it leads to is written.

    Attributes:
        path: the temporary file, in the same folder and with the same suffix, to be written.

    Raises:
        OutputError: if the folder is missing or not writable, or the disk is full.
    """

    def __init__(self, target: Path) -> None:
        _require_place(target)
        self._target = target
        self._place = Path(os.path.realpath(target))
        try:
            sweep(self._place.parent)
            self._handle, self.path = _locked_file(target, self._place.parent)
        except OSError as error:
            raise OutputError(cannot_write(target, error)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.path.unlink(missing_ok=True)
        _unfinished.discard(self.path)
        os.close(self._handle)
        if isinstance(error, OSError):
            raise OutputError(cannot_write(self._target, error)) from error

    def write_text(self, text: str) -> None:
        """Write all of the file, in UTF-8."""
        try:
            self.path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise OutputError(cannot_write(self._target, error)) from error

    def prepare(self) -> None:
        """Do all of :meth:`commit` that can fail, for files that appear together or not at all.

        The file is synced to the disk. Its permissions are those of the file that is replaced, or
        else those of a new file.
        """
        _require_place(self._target)
        try:
            os.fsync(self._handle)
            try:
                mode = stat.S_IMODE(self._place.stat().st_mode)
            except FileNotFoundError:
                mode = _default_mode()
            self.path.chmod(mode)
        except OSError as error:
            raise OutputError(cannot_write(self._target, error)) from error

    def commit(self) -> None:
        """Put the file in the target's place."""
        self.prepare()
        try:
            self.path.replace(self._place)
        except OSError as error:
            raise OutputError(cannot_write(self._target, error)) from error


def _require_place(target: Path) -> None:
    """Raise OutputError where a file would replace what is none."""
    if target.exists() and not target.is_file():  # renaming over /dev/null would remove it
        kind = "a folder" if target.is_dir() else "a device or a pipe"
        raise OutputError(f"cannot write {target}: it is {kind}; give the name of a file")


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


def check_working_folder() -> None:
    """Raise ResourceError where the working folder is gone: libraries crash there on loading."""
    try:
        Path.cwd()
    except OSError as error:
        raise ResourceError(
            f"the working folder is not there: {error.strerror}; change to one that exists"
        ) from error


def clash(outputs: Mapping[str, Path], inputs: Mapping[str, Path]) -> str | None:
    """Where writing a file would destroy another that is read or written.

    Two names are the same file if they lead to it, through links or in another spelling. A folder
    of inputs counts as the images in it.

    Args:
        outputs: files to write, by what the user calls them.
        inputs: files and folders to read, by what the user calls them.

    Returns:
        What is wrong, in words; None if every output is a file of its own.
    """
    written: dict[str, str] = {}
    for name, path in outputs.items():
        real = os.path.realpath(path)
        other = written.setdefault(real, name)
        if other != name:
            return f"{name} and {other} are the same file, {path}: give each a name of its own"
        for source, read in inputs.items():
            if _reads(read, path, real):
                return f"{name} {path} would overwrite what is read, {source} {read}: give another"
    return None


IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
"""Of the images that are read of a folder."""

# IDX files, NumPy's, CIFAR's and SmallNORB's
_READ_IN_FOLDERS = (*IMAGE_SUFFIXES, "-ubyte", "-ubyte.gz", ".npy", ".bin", ".mat", ".mat.gz")


def _reads(read: Path, written: Path, real: str) -> bool:
    """Whether writing a file changes a file, or the files that are read of a folder."""
    if os.path.realpath(read) == real:
        return True
    if not written.is_file():
        return False
    if not read.is_dir():
        return read.exists() and read.samefile(written)
    known = written.stat()
    return any(
        os.path.samestat(known, (Path(folder) / name).stat())
        for folder, _, names in os.walk(read)
        for name in names
        if name.lower().endswith(_READ_IN_FOLDERS) and (Path(folder) / name).exists()
    )


def lock(handle: int, *, wait: bool = False) -> bool:
    """Lock an open file until it is closed, or its process ends, however it ends.

    Args:
        handle: of the file.
        wait: until another process gives it back.

    Returns:
        Whether no other process holds it; where files cannot be locked, it is free.

    Raises:
        OSError: if the file system cannot lock files.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


@functools.cache
def sweep(folder: Path) -> None:
    """Remove temporary files that killed processes have left in a folder; once a process.

    A process that still writes holds a lock on its file. Other users and containers see the lock,
    because it is the system's. What cannot be locked or removed is left.
    """
    if fcntl is None:
        return
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if _MARK in path.name and _LEFT.fullmatch(path.name):
                _remove_if_left(path)


def _remove_if_left(path: Path) -> None:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return
    try:
        with contextlib.suppress(OSError):
            if stat.S_ISREG(os.fstat(handle).st_mode) and lock(handle):
                path.unlink()
    finally:
        os.close(handle)


def _locked_file(target: Path, folder: Path) -> tuple[int, Path]:
    """A new temporary file for a target, open and locked."""
    while True:
        name = f".{target.name[:_NAME]}{_MARK}{secrets.token_hex(4)}{target.suffix}"
        path = folder / name
        _unfinished.add(path)
        try:
            handle = os.open(path, _NEW, 0o600)
        except FileExistsError:
            _unfinished.discard(path)
            continue
        with contextlib.suppress(OSError):  # what cannot be locked is never swept
            lock(handle, wait=True)
        if os.fstat(handle).st_nlink:
            return handle, path
        os.close(handle)  # another process has swept it before it was locked
        _unfinished.discard(path)


_unfinished: set[Path] = set()  # an interruption may come before a file's `with` block, or after


@atexit.register
def _remove_unfinished() -> None:
    for path in _unfinished:
        with contextlib.suppress(OSError):
            path.unlink()


if hasattr(os, "register_at_fork"):  # they are the parent's
    os.register_at_fork(after_in_child=_unfinished.clear)


def _default_mode() -> int:
    """Permissions a plain ``open`` would give; temporary files are private."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def cannot_write(target: Path, error: OSError) -> str:
    """What to say of a file that the system does not let us write."""
    return (
        f"cannot write {target}: {error.strerror or error}; "
        "choose a folder that exists, is writable and has space"
    )

"""Files that appear whole or not at all, and their digests."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from capsnet.errors import OutputError

__all__ = ["atomic_path", "file_sha256"]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as lower-case hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """A temporary path beside ``target`` that replaces it when the block ends without an error.

    The file is synced before the rename; when anything fails, or Ctrl-C arrives, the temporary file
    is removed and an earlier ``target`` stays as it was.

    Args:
        target: the file to write.

    Yields:
        A path in the same folder and with the same suffix, for the block to write.

    Raises:
        OutputError: if the folder is missing or not writable, or the disk is full.
    """
    if target.exists() and not target.is_file():  # renaming over /dev/null would remove the device
        kind = "a folder" if target.is_dir() else "a device or a pipe"
        raise OutputError(f"cannot write {target}: it is {kind}; give the name of a file")
    try:
        handle, name = tempfile.mkstemp(
            prefix=f".{target.name}.", suffix=target.suffix, dir=target.parent
        )
    except OSError as error:
        raise OutputError(_cannot_write(target, error)) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(_default_mode())
        temporary.replace(target)
    except OSError as error:
        raise OutputError(_cannot_write(target, error)) from error
    finally:
        temporary.unlink(missing_ok=True)


def _default_mode() -> int:
    """Permissions a plain ``open`` would give; ``mkstemp`` alone leaves files private."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _cannot_write(target: Path, error: OSError) -> str:
    return (
        f"cannot write {target}: {error.strerror or error}; "
        "choose a folder that exists, is writable and has space (--output)"
    )

"""Predictions in a file that grows beside its target, and is continued after a kill."""

import contextlib
import csv
import itertools
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from io import TextIOWrapper
from pathlib import Path
from typing import Any, BinaryIO, Self, TypeVar

from capsnet.errors import OutputError
from capsnet.files import atomic_path, cannot_write, lock

__all__ = ["PartialFile", "partial_path"]

_T = TypeVar("_T", bound=tuple[Any, ...])

_PRIVATE = 0o600
_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


def partial_path(target: Path) -> Path:
    """Where the rows lie until all are there."""
    return target.with_name(target.name + ".partial")


class PartialFile:
    """The rows of a run of predictions that is not finished, beside the file that they are for.

    Its first line says what run it is of; the rows are those of the target. Used as a context
    manager: it stays when the block is left early, by whatever, unless it holds no row.

    Args:
        target: the file that all the rows are for.
        run: what the rows depend on besides the images, in words: it must be the same to go on.
        output_format: ``"csv"`` or ``"jsonl"``.
        resume: continue the file of an interrupted run, where there is one.

    Attributes:
        file: to write rows to, open for text.
        holds_rows: at the end of the block, whether something is left to be continued.

    Raises:
        OutputError: if it cannot be written, or there is one that is not to be continued, or it is
            of another run, or another process writes it.
    """

    def __init__(
        self, target: Path, run: Mapping[str, str], output_format: str, *, resume: bool
    ) -> None:
        self.path = partial_path(target)
        self._target = target
        self._format = output_format
        self._raw = self._opened(resume)
        first = json.dumps({**run, "format": output_format}).encode("ascii") + b"\n"
        self._start = len(first)
        try:
            self._check_run(first)
        except BaseException as error:
            self._remove_unless_rows()
            with contextlib.suppress(OSError):
                self._raw.close()
            if isinstance(error, OSError):
                raise OutputError(cannot_write(self.path, error)) from error
            raise
        self.file = TextIOWrapper(self._raw, "utf-8", "surrogateescape", newline="")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self.file.flush()
        except OSError as failure:  # the disk is full: what could not be written is done again
            error = error or failure
        self._remove_unless_rows()
        with contextlib.suppress(OSError):
            self.file.close()
        if isinstance(error, OSError):
            raise OutputError(cannot_write(self.path, error)) from error

    def skip(self, images: Iterator[_T], batch_size: int) -> tuple[int, Iterator[_T]]:
        """Pass over the images whose rows are there; rows of half a batch are dropped.

        So every batch is what it would have been, and the numbers are the same to the last bit.

        Args:
            images: all of them; the first item of each is its name.
            batch_size: of the predictions.

        Returns:
            How many rows are kept, and the images that are left.

        Raises:
            OutputError: if a row is of another image than the one at its place.
        """
        kept, end = 0, self._start
        pending: list[_T] = []
        lines = _Lines(self._raw, self._start)
        rows = _csv_sources(lines) if self._format == "csv" else _jsonl_sources(lines)
        for number, source in enumerate(rows, 1):
            found = next(images, None)
            if found is None or found[0] != source:
                there = "none" if found is None else found[0]
                raise OutputError(
                    f"cannot resume from {self.path}: row {number} is of {source}, and image "
                    f"{number} is {there}; give the same inputs in the same order, or remove it"
                )
            pending.append(found)
            if number % batch_size == 0:
                kept, end = number, lines.offset
                pending.clear()
        self._raw.seek(end)
        self._raw.truncate()
        return kept, itertools.chain(pending, images)

    def finish(self, write: Callable[[BinaryIO, Path], None] | None = None) -> None:
        """Put the rows in the target's place, whole or not at all, and remove this file.

        Args:
            write: writes the target from the rows, in another form; None copies them.
        """
        self.file.flush()
        self._raw.seek(self._start)
        with atomic_path(self._target) as temporary:
            if write is not None:
                write(self._raw, temporary)
            else:
                with temporary.open("wb") as rows:
                    shutil.copyfileobj(self._raw, rows, 1 << 20)
        self.path.unlink(missing_ok=True)

    def _remove_unless_rows(self) -> None:
        """Remove the file, if it is still there, while no other process can lock it."""
        found = os.fstat(self._raw.fileno())
        self.holds_rows = found.st_nlink > 0 and found.st_size > self._start
        if found.st_nlink and not self.holds_rows:
            self.path.unlink(missing_ok=True)

    def _opened(self, resume: bool) -> BinaryIO:
        try:
            handle = os.open(self.path, _FLAGS | (0 if resume else os.O_EXCL), _PRIVATE)
        except FileExistsError as error:
            raise OutputError(
                f"{self.path} holds predictions of an interrupted run: continue it with --resume, "
                "or remove the file to start anew"
            ) from error
        except OSError as error:
            raise OutputError(cannot_write(self.path, error)) from error
        file = os.fdopen(handle, "r+b")
        if not stat.S_ISREG(os.fstat(handle).st_mode) or not lock(handle):
            file.close()
            raise OutputError(f"another process writes {self.path}; wait, or give another --output")
        if not os.fstat(handle).st_nlink:  # its run ended, and removed it, before it was locked
            file.close()
            return self._opened(resume)
        return file

    def _check_run(self, first: bytes) -> None:
        """Write the first line, or compare it with the one that is there."""
        there = self._raw.readline()
        if not there.endswith(b"\n"):  # new, or killed before it was written
            self._raw.seek(0)
            self._raw.truncate()
            self._raw.write(first)
            self._raw.flush()
        elif there != first:
            raise OutputError(
                f"cannot resume from {self.path}: it belongs to another run, "
                f"{there.decode(errors='replace').strip()}, now it is "
                f"{first.decode().strip()}; give the same artifact, device and --format, or "
                "remove the file"
            )


class _Lines(Iterator[str]):
    """The lines of a file, and where the last one ends; one without an end is left out."""

    def __init__(self, file: BinaryIO, start: int) -> None:
        file.seek(start)
        self._file = file
        self.offset = start

    def __next__(self) -> str:
        line = self._file.readline()
        if not line.endswith(b"\n"):
            raise StopIteration
        self.offset += len(line)
        return line.decode("utf-8", "surrogateescape")


def _csv_sources(lines: Iterator[str]) -> Iterator[str]:
    """The source of every row up to the first that is not whole."""
    try:
        reader = csv.reader(lines)
        columns = len(next(reader, []))
        for row in reader:
            if len(row) != columns:
                return
            yield row[0]
    except csv.Error:
        return


def _jsonl_sources(lines: Iterator[str]) -> Iterator[str]:
    """The source of every row up to the first that is not whole."""
    for line in lines:
        try:
            yield str(json.loads(line)["source"])
        except (ValueError, KeyError, TypeError):
            return

"""The zip archives of torch, checked byte by byte before torch reads them. Needs no torch.

Readers of zip archives differ: in which of two records of one name they take, in whether names have
a case, in what they make of bytes that no record owns. So only what torch's own writer lays out is
let through: one record after the other from the first byte on, stored as they are, and a directory
at the end that says the same of each as the record says itself. Every reader sees the same in that.
"""

import re
import struct
import zlib
from collections.abc import Mapping

from capsnet.errors import ArtifactError

__all__ = ["check_records", "read_archive"]

_LOCAL, _CENTRAL, _DESCRIPTOR = b"PK\x03\x04", b"PK\x01\x02", b"PK\x07\x08"
_END_64, _LOCATOR, _END = b"PK\x06\x06", b"PK\x06\x07", b"PK\x05\x06"
_HAS_DESCRIPTOR, _UTF_8 = 0x0008, 0x0800
_PADDING = b"FB"  # the only extra field that torch writes: it aligns the records
_NAME = re.compile(r"[A-Za-z0-9_.\-]+(/[A-Za-z0-9_.\-]+)+")


def read_archive(content: bytes) -> dict[str, memoryview]:
    """The records of an archive by their names without the common folder; nothing is copied.

    Args:
        content: of the file.

    Raises:
        ArtifactError: if it is not laid out as torch's writer does it.
    """
    try:
        records = _records(memoryview(content))
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise _damaged(f"it ends too early ({error})") from error
    folders = {name.partition("/")[0] for name in records}
    if len(folders) != 1:
        raise _damaged("its records are not all in one folder")
    if len({name.casefold() for name in records}) < len(records):
        raise _damaged("two records have one name, or names that differ in nothing but case")
    return {name.partition("/")[2]: data for name, data in records.items()}


def check_records(records: Mapping[str, memoryview], required: set[str], more: str) -> None:
    """Raise ArtifactError where an archive holds anything else than its exporter writes.

    Args:
        records: of the archive.
        required: names that must be there.
        more: a pattern for the names that may be there, too.
    """
    missing = sorted(required - records.keys())
    if missing:
        raise ArtifactError(f"the record {missing[0]} is missing")
    for name in records:
        if name not in required and not re.fullmatch(more, name):
            raise ArtifactError(
                f"it holds a record that the exporter does not write, {name}; such records are "
                "never read: they may hold code"
            )
    for name, expected in (("byteorder", b"little"), ("version", None), (".data/version", None)):
        value = bytes(records.get(name, b"0"))
        if value != expected if expected else not re.fullmatch(rb"[0-9]{1,4}\n?", value):
            raise ArtifactError(f"the record {name} holds {value[:16]!r}")


def _records(content: memoryview) -> dict[str, memoryview]:
    start, end, count = _directory(content)
    entries: dict[str, memoryview] = {}
    offset, place = 0, start
    for _ in range(count):
        name, (flags, crc, size), place = _central_entry(content, place, offset)
        data, offset = _local_record(content, offset, name, flags, crc, size)
        if name in entries:
            raise _damaged(f"the record {name} occurs twice")
        entries[name] = data
    if place != end or offset != start:
        raise _damaged("there are bytes in it that belong to no record")
    return entries


def _directory(content: memoryview) -> tuple[int, int, int]:
    """Start, end and number of entries of the directory at the end of the archive."""
    end_64 = len(content) - 56 - 20 - 22
    if end_64 < 0:
        raise _damaged("it has no directory at its end")
    mark, size_64, _, _, disk, disk_2, here, count, size, start = struct.unpack_from(
        "<4sQHHIIQQQQ", content, end_64
    )
    locator = struct.unpack_from("<4sIQI", content, end_64 + 56)
    end = struct.unpack_from("<4sHHHHIIH", content, end_64 + 76)
    if (mark, size_64, disk, disk_2, here) != (_END_64, 44, 0, 0, count) or count > 0xFFFE:
        raise _damaged("it has no directory at its end")
    if locator != (_LOCATOR, 0, end_64, 1) or end != (_END, 0, 0, count, count, size, start, 0):
        raise _damaged("the parts of its directory contradict each other")
    if start + size != end_64:
        raise _damaged("there are bytes in it that belong to no record")
    return start, end_64, count


def _central_entry(
    content: memoryview, place: int, offset: int
) -> tuple[str, tuple[int, int, int], int]:
    """Name, flags, checksum and size of a record, and where the next entry begins."""
    fields = struct.unpack_from("<4sHHHHHHIIIHHHHHII", content, place)
    mark, _, _, flags, method, _, _, crc, packed, size, name_length, *rest = fields
    extra, comment, disk, _, _, where = rest
    place += 46
    name = bytes(content[place : place + name_length]).decode("ascii")
    if mark != _CENTRAL or not _NAME.fullmatch(name) or "/../" in f"/{name}/":
        raise _damaged("its directory is not one of names")
    if method != 0 or packed != size:
        raise _damaged(f"the record {name} is compressed, and torch stores records as they are")
    if (extra, comment, disk, where) != (0, 0, 0, offset) or flags & ~(_HAS_DESCRIPTOR | _UTF_8):
        raise _damaged(f"the record {name} is not where its directory says")
    return name, (flags, crc, size), place + name_length


def _local_record(
    content: memoryview, offset: int, name: str, flags: int, crc: int, size: int
) -> tuple[memoryview, int]:
    """A record's bytes, and where the next record begins."""
    header = struct.unpack_from("<4sHHHHHIIIHH", content, offset)
    mark, _, here, method, _, _, *sums, name_length, extra = header
    start = offset + 30 + name_length
    local_name = bytes(content[offset + 30 : start])
    described = bool(flags & _HAS_DESCRIPTOR)
    if (mark, here, method, local_name) != (_LOCAL, flags, 0, name.encode()):
        raise _damaged(f"the record {name} contradicts the directory")
    if sums != ([0, 0, 0] if described else [crc, size, size]):
        raise _damaged(f"the record {name} contradicts the directory")
    if extra:
        kind, length = struct.unpack_from("<2sH", content, start)
        if kind != _PADDING or length + 4 != extra:
            raise _damaged(f"the record {name} has a header that torch does not write")
    start += extra
    end = start + size
    data = content[start:end]
    if len(data) != size or zlib.crc32(data) != crc:
        raise _damaged(f"the record {name} is cut off, or its checksum does not fit")
    if described:
        if struct.unpack_from("<4sIII", content, end) != (_DESCRIPTOR, crc, size, size):
            raise _damaged(f"the record {name} contradicts the directory")
        end += 16
    return data, end


def _damaged(reason: str) -> ArtifactError:
    return ArtifactError(f"the archive is not one that torch writes: {reason}")

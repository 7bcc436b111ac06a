"""The bytes of a protocol buffer, field by field. Needs nothing."""

import struct
from collections.abc import Iterator

__all__ = ["BYTES", "VARINT", "Field", "encoded", "fields", "integers"]

Field = tuple[int, int, "int | memoryview"]
"""Number, wire type, and value: an integer, or the bytes of text, a message or packed numbers."""

VARINT, FIXED_64, BYTES, FIXED_32 = 0, 1, 2, 5


def fields(message: memoryview) -> Iterator[Field]:
    """The fields of a message, in their order; nothing is copied.

    Raises:
        ValueError: if the bytes are no message.
    """
    position, end = 0, len(message)
    while position < end:
        key, position = _varint(message, position)
        number, wire = key >> 3, key & 7
        value: int | memoryview
        if wire == VARINT:
            value, position = _varint(message, position)
        elif wire in (FIXED_32, FIXED_64):
            size = 4 if wire == FIXED_32 else 8
            value, position = message[position : position + size], position + size
        elif wire == BYTES:
            size, position = _varint(message, position)
            value, position = message[position : position + size], position + size
        else:
            raise ValueError(f"field {number} has the wire type {wire}")
        if number == 0 or position > end:
            raise ValueError("a field reaches beyond its message")
        yield number, wire, value


def integers(wire: int, value: int | memoryview) -> Iterator[int]:
    """The signed 64-bit integers of a repeated field, packed or not."""
    if isinstance(value, int):
        yield _signed(value)
    elif wire == BYTES:
        position = 0
        while position < len(value):
            number, position = _varint(value, position)
            yield _signed(number)
    else:
        yield from struct.unpack("<q" if wire == FIXED_64 else "<i", value)


def encoded(number: int, value: int | bytes | memoryview) -> bytes:
    """A field with an integer, none negative, or with the bytes of a text or a message."""
    if isinstance(value, int):
        return _encoded_varint(number << 3 | VARINT) + _encoded_varint(value)
    return b"".join(
        (_encoded_varint(number << 3 | BYTES), _encoded_varint(len(value)), bytes(value))
    )


def _encoded_varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def _signed(number: int) -> int:
    number &= 2**64 - 1
    return number - 2**64 if number >= 2**63 else number


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise ValueError("a number is cut off")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number is too long")

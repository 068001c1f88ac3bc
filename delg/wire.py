"""The bytes of protobuf messages, read with suspicion and written as its own library would.

Only what feature files need: varints, fixed 32-bit and 64-bit values and length-delimited fields,
whose meaning the caller knows (https://protobuf.dev/programming-guides/encoding).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from delg.types import FloatArray

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_KINDS = {
    VARINT: "a varint",
    FIXED64: "64 bits",
    BYTES: "a length",
    3: "a group",
    4: "the end of a group",
    FIXED32: "32 bits",
}
_FLOAT = struct.Struct("<f")


class WireError(ValueError):
    """The bytes are no such message; says what is wrong and at which byte."""


def read_varint(data: memoryview, at: int) -> tuple[int, int]:
    """The unsigned number at a place, and the place after it."""
    value = shift = 0
    start = at
    while at < len(data):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >= 1 << 64:
                break
            return value, at
        shift += 7
        if shift > 63:
            break
    raise WireError(f"a number that does not end at byte {start}")


def read_fields(data: memoryview) -> Iterator[tuple[int, int, memoryview | int]]:
    """The fields of one message, in order; nothing is copied.

    Yields:
        Field number, wire type, and the value: a number for ``VARINT``, else its bytes.

    Raises:
        WireError: the message is cut short, a length leads past its end, or it holds a group.
    """
    at = 0
    while at < len(data):
        start = at
        key, at = read_varint(data, at)
        number, kind = key >> 3, key & 7
        if not 0 < number < 1 << 29:
            raise WireError(f"field number {number} at byte {start}")
        if kind == VARINT:
            value, at = read_varint(data, at)
            yield number, kind, value
            continue
        if kind == BYTES:
            length, at = read_varint(data, at)
        elif kind in (FIXED32, FIXED64):
            length = 4 if kind == FIXED32 else 8
        else:
            raise WireError(f"field {number} at byte {start} is {_KINDS.get(kind, 'of no type')}")
        if length > len(data) - at:
            raise WireError(
                f"field {number} at byte {start} wants {length:,} bytes, "
                f"{len(data) - at:,} are left"
            )
        yield number, kind, data[at : at + length]
        at += length


def expect(name: str, kind: int, wanted: int) -> None:
    """Refuse a field of another wire type than the schema's."""
    if kind != wanted:
        raise WireError(f"{name} is {_KINDS[kind]}, not {_KINDS[wanted]}")


def as_message(name: str, kind: int, value: memoryview | int) -> memoryview:
    """The bytes of a field that holds a message."""
    if isinstance(value, int):
        raise WireError(f"{name} is {_KINDS[kind]}, not {_KINDS[BYTES]}")
    expect(name, kind, BYTES)
    return value


def as_float(name: str, kind: int, value: memoryview | int) -> float:
    """The number of a field that holds a float."""
    if isinstance(value, int):
        raise WireError(f"{name} is {_KINDS[kind]}, not {_KINDS[FIXED32]}")
    expect(name, kind, FIXED32)
    return float(_FLOAT.unpack(value)[0])


def as_floats(name: str, kind: int, value: memoryview | int) -> FloatArray:
    """The numbers of a repeated float field, packed or one by one: float32 (n,)."""
    if isinstance(value, int) or kind not in (BYTES, FIXED32):
        raise WireError(f"{name} is {_KINDS[kind]}, not {_KINDS[FIXED32]}")
    if len(value) % 4:
        raise WireError(f"{name} is {len(value)} bytes long, not a multiple of 4")
    return np.frombuffer(value, "<f4").astype(np.float32)


def as_varints(name: str, kind: int, value: memoryview | int, most: int) -> list[int]:
    """The numbers of a repeated varint field, packed or one by one; no more than ``most``."""
    if isinstance(value, int):
        return [value]
    expect(name, kind, BYTES)
    found: list[int] = []
    at = 0
    while at < len(value):
        if len(found) == most:
            raise WireError(f"{name} has more than {most:,} numbers")
        number, at = read_varint(value, at)
        found.append(number)
    return found


def write_varint(value: int) -> bytes:
    """An unsigned number below 2⁶⁴."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def write_message(number: int, content: bytes) -> bytes:
    """A length-delimited field."""
    return write_varint(number << 3 | BYTES) + write_varint(len(content)) + content


def write_float(number: int, value: float) -> bytes:
    """A float field."""
    return write_varint(number << 3 | FIXED32) + _FLOAT.pack(value)

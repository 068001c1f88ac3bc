"""The bytes of protobuf messages, as :mod:`delg.inference.onnx_file` writes them."""

from __future__ import annotations

VARINT, BYTES = 0, 2


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

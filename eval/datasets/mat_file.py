"""Read the plain data of a MATLAB file: cells, structs, text and numbers, flattened.

Understands level 5 (MATLAB's -v6 and -v7), as MathWorks' "MAT-File Format" lays it down. SciPy
reads these files too, but a damaged one can crash its process.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from delg.errors import UsageError

# INSTRE's ground truth has 0.2 MB.
MAX_BYTES = 32 << 20
_MAX_UNPACKED = 4 * MAX_BYTES
_HEADER_BYTES = 128
_NOTHING = np.zeros(0)
_MAX_DEPTH = 8

_NUMBERS = {
    1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8",
}  # fmt: skip
_MATRIX, _COMPRESSED = 14, 15
_ENCODINGS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_CELL, _STRUCT, _CHAR = 1, 2, 4
# double, single and the eight integers
_NUMERIC_CLASSES = range(6, 16)
_COMPLEX_FLAG = 8


class _Elements:
    """A stretch of bytes that holds one tagged element after another."""

    def __init__(self, data: bytes, order: str) -> None:
        self._data, self._order, self._at = data, order, 0

    def left(self) -> int:
        return len(self._data) - self._at

    def next(self) -> tuple[int, bytes]:
        """The type and the bytes of the next element."""
        kind, size = struct.unpack_from(self._order + "II", self._data, self._at)
        start = self._at + 8
        if kind >> 16:  # Up to four bytes fit into the tag itself.
            kind, size, start = kind & 0xFFFF, kind >> 16, self._at + 4
            self._at += 8
            if size > 4:
                raise ValueError("an element is larger than its place")
        else:
            padding = 0 if kind == _COMPRESSED else -size % 8
            self._at = min(start + size + padding, len(self._data))
        if start + size > len(self._data):
            raise ValueError("it ends too early")
        return kind, self._data[start : start + size]

    def numbers(self) -> np.ndarray:
        kind, data = self.next()
        if kind not in _NUMBERS:
            raise ValueError(f"an element of type {kind} stands where numbers should")
        return np.frombuffer(data, self._order + _NUMBERS[kind])


class _Reader:
    def __init__(self, order: str) -> None:
        self._order = order
        self._unpacked = 0

    def variables(self, data: bytes, wanted: Collection[str]) -> dict[str, Any]:
        found = {}
        elements = _Elements(data, self._order)
        while elements.left():
            kind, content = elements.next()
            if kind == _COMPRESSED:
                kind, content = _Elements(self._unpack(content), self._order).next()
            if kind != _MATRIX:
                continue
            name, value = self._matrix(content, wanted, 0)
            if name in wanted:
                found[name] = value
        return found

    def _unpack(self, data: bytes) -> bytes:
        room = _MAX_UNPACKED - self._unpacked
        unpacked = zlib.decompressobj().decompress(data, room + 1)
        if len(unpacked) > room:
            raise ValueError("it unpacks to far more than its own size")
        self._unpacked += len(unpacked)
        return unpacked

    def _matrix(self, data: bytes, wanted: Collection[str] | None, depth: int) -> tuple[str, Any]:
        """Name and value; at the top the value only of what is wanted."""
        if not data:
            return "", _NOTHING
        if depth > _MAX_DEPTH:
            raise ValueError("cells in cells in cells")
        elements = _Elements(data, self._order)
        flags = int(elements.numbers()[0])
        count = math.prod(int(side) for side in elements.numbers()[:8])
        name = elements.next()[1].decode("latin-1")
        if wanted is not None and name not in wanted:
            return name, None
        kind = flags & 0xFF
        if kind == _CELL:
            return name, self._matrices(elements, count, depth)
        if kind == _STRUCT:
            return name, self._structs(elements, count, depth)
        if kind == _CHAR:
            return name, self._text(elements)
        if kind in _NUMERIC_CLASSES and not flags >> 8 & _COMPLEX_FLAG:
            values = elements.numbers()
            if len(values) != count:
                raise ValueError("an array declares another size than it has")
            return name, values
        raise ValueError(f"a value of class {kind} is neither cell, struct, text nor real numbers")

    def _matrices(self, elements: _Elements, count: int, depth: int) -> list:
        # Each takes eight bytes at least, so that no declared size is believed.
        if not 0 <= count <= elements.left() // 8:
            raise ValueError("an array declares another size than it has")
        values = []
        for _ in range(count):
            kind, content = elements.next()
            if kind != _MATRIX:
                raise ValueError(f"an element of type {kind} stands where a value should")
            values.append(self._matrix(content, None, depth + 1)[1])
        return values

    def _structs(self, elements: _Elements, count: int, depth: int) -> list[dict[str, Any]]:
        length = int(elements.numbers()[0])
        if length < 1:
            raise ValueError("fields have no names")
        text = elements.next()[1]
        names = [
            text[start : start + length].partition(b"\0")[0].decode("latin-1")
            for start in range(0, len(text), length)
        ]
        values = self._matrices(elements, count * len(names), depth)
        width = max(len(names), 1)
        return [
            dict(zip(names, values[start : start + width], strict=True))
            for start in range(0, len(values), width)
        ]

    def _text(self, elements: _Elements) -> str:
        kind, data = elements.next()
        if kind not in _ENCODINGS:
            raise ValueError(f"an element of type {kind} stands where text should")
        encoding = _ENCODINGS[kind]
        if encoding in ("utf-16", "utf-32"):
            encoding += "-le" if self._order == "<" else "-be"
        return data.decode(encoding)


def read_mat(path: str | Path, wanted: Collection[str]) -> dict[str, Any]:
    """Read variables of a MATLAB file.

    Args:
        path: a file of level 5.
        wanted: names of variables; others are passed over.

    Returns:
        Those there are: a cell array as a list of values, a struct array as a list of dicts with
        the fields in their order, text as str, an array of numbers as a flat array, by columns.

    Raises:
        UsageError: the file cannot be read, is too large, damaged, of another version, or a
            variable holds anything else.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise UsageError(f"{path}: no such file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"it is larger than {MAX_BYTES >> 20} MB")
        order = {b"IM": "<", b"MI": ">"}.get(data[_HEADER_BYTES - 2 : _HEADER_BYTES])
        if order is None:
            raise ValueError("its header is another")
        (version,) = struct.unpack_from(order + "H", data, _HEADER_BYTES - 4)
        if version != 0x100:
            raise UsageError(f"{path}: of MATLAB's version 7.3 or newer; save it with -v7")
        return _Reader(order).variables(data[_HEADER_BYTES:], wanted)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, IndexError, OverflowError, struct.error, zlib.error) as error:
        raise UsageError(f"{path}: not a MATLAB file, or damaged ({error})") from None

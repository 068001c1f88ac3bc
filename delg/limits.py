"""How much memory and work a file from elsewhere may ask for, by its headers, before it is read.

Every reader of a user's file takes its limits from here, and refuses what is beyond them by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import IO, Any

import numpy as np

MIB = 1 << 20
# One array of a feature file, and one of the program's own records.
MAX_ARRAY_BYTES = 256 * MIB
MAX_RECORD_BYTES = 1024 * MIB
# All variables of a weight file; ResNet-101 has 0.2 GB of them.
MAX_WEIGHTS_BYTES = 4096 * MIB
# The file of one photo that lies elsewhere.
MAX_PHOTO_BYTES = 512 * MIB
# A IIIF manifest or collection, and all those that one source leads to.
MAX_MANIFEST_BYTES = 64 * MIB
MAX_MANIFESTS = 100_000
# Header of one array, in characters.
_MAX_HEADER = 10_000
# An archive of a model: bytes unpacked, members, bytes of one header, reads of single blocks.
MAX_ARCHIVE_BYTES = 8192 * MIB
MAX_MEMBERS = 10_000
_MAX_TAR_READ = 4 * MIB
_MAX_BLOCK_READS = 16 * MAX_MEMBERS
_TAR_BLOCK = 512
# Pixels that all scans of a progressive JPEG may go over; encoders write ten scans or so.
_MAX_SCANNED_PIXELS = 2_000_000_000
_FEW_SCANS = 20
# Memory of decoders per pixel: what Pillow keeps by mode, and what a format takes on top.
_BYTES_BY_MODE = {"1": 1, "L": 1, "P": 1, "I;16": 6, "I;16B": 6, "I": 20, "F": 20}
_BYTES_BY_FORMAT = {"WEBP": 8, "TIFF": 4, "GIF": 4, "HEIF": 8, "AVIF": 8}


class LimitError(ValueError):
    """A file asks for more than the limits, or for nonsense; the message says what."""


def decoding_bytes(image: Any) -> int:
    """Bytes that decoding takes besides the RGB pixels, by the header of an open Pillow image."""
    per_pixel: float = _BYTES_BY_MODE.get(image.mode, 4) + _BYTES_BY_FORMAT.get(image.format, 0)
    if image.info.get("progressive"):
        # Two bytes per coefficient of every component until the last scan is in.
        layers = [(h, v) for _, h, v, _ in image.layer]
        widest = max(h for h, _ in layers) * max(v for _, v in layers)
        per_pixel += 2 * sum(h * v for h, v in layers) / max(widest, 1)
    return int(image.width * image.height * per_pixel)


def check_scans(image: Any, data: bytes) -> None:
    """Refuse a JPEG whose scans go over its pixels too often.

    Raises:
        LimitError: they do.
    """
    if not image.info.get("progressive"):
        return
    scans = data.count(b"\xff\xda")
    if scans > _FEW_SCANS and scans * image.width * image.height > _MAX_SCANNED_PIXELS:
        raise LimitError(
            f"oversized: {scans:,} scans of {image.width}×{image.height} pixels take too long"
        )


def read_array(file: IO[bytes], kinds: str, max_bytes: int = MAX_ARRAY_BYTES) -> np.ndarray:
    """One array in NumPy's format; no more is read than its header says and the limit allows.

    Args:
        file: at the array's beginning.
        kinds: letters of the NumPy kinds that are taken; Python objects never are.
        max_bytes: of its values.

    Raises:
        LimitError: it is of another kind or shape, too large or cut short.
        ValueError, OSError, EOFError and others: it is damaged.
    """
    readers: dict[tuple[int, int], Callable[..., Any]] = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    version = np.lib.format.read_magic(file)
    if version not in readers:
        raise LimitError(f"is of NumPy's format {version}")
    shape, fortran, dtype = readers[version](file, max_header_size=_MAX_HEADER)
    if dtype.kind not in kinds or dtype.hasobject:
        raise LimitError(f"holds {dtype}, not {'numbers' if kinds == 'fiu' else 'plain values'}")
    if not all(isinstance(side, int) and side >= 0 for side in shape):
        raise LimitError(f"has the impossible shape {shape}")
    # Empty ones may still promise sides beyond what an array can have.
    size = math.prod(shape) * dtype.itemsize
    if size > max_bytes or any(side > max_bytes for side in shape):
        raise LimitError(f"would take {size:,} bytes, the limit is {max_bytes:,}")
    data = file.read(size)
    if len(data) != size:
        raise LimitError(f"is cut short: {len(data):,} of {size:,} bytes")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


class TarStream:
    """The stream of a tar archive, which refuses what only hostile headers make ``tarfile`` ask.

    Args:
        stream: uncompressed bytes.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._block_reads = 0

    def read(self, size: int = -1) -> bytes:
        """The next bytes.

        Raises:
            LimitError: a negative number, or more than any header has.
        """
        if not 0 <= size <= _MAX_TAR_READ:
            raise LimitError(f"a header asks for {size:,} bytes")
        self._block_reads += size <= _TAR_BLOCK
        if self._block_reads > _MAX_BLOCK_READS:
            raise LimitError("its headers do not end")
        data: bytes = self._stream.read(size)
        return data

    def seek(self, position: int) -> int:
        """Go to a place.

        Raises:
            LimitError: far back, or beyond what an archive may hold.
        """
        if not self.tell() - 2 * _MAX_TAR_READ <= position <= 2 * MAX_ARCHIVE_BYTES:
            raise LimitError(f"a header points to byte {position:,}")
        return int(self._stream.seek(position))

    def tell(self) -> int:
        """The present place."""
        return int(self._stream.tell())

"""JPEG files that lack their end marker only, as some cameras and web servers write them."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

_START, _END = b"\xff\xd8", b"\xff\xd9"
# Read as picture data, it changes any pixel that the file does not give.
_FILLER = np.random.default_rng(0).integers(0, 255, 4096).astype(np.uint8).tobytes()


def with_end_marker(data: bytes) -> bytes | None:
    """The bytes of a JPEG with its end marker; None if it is no JPEG, has one, or lacks more.

    A file lacks nothing else if what follows its last byte does not change a pixel.
    """
    data = data.rstrip(b"\xff")
    if not data.startswith(_START) or data.endswith(_END):
        return None
    try:
        ended, filled = (_pixels(data + after + _END) for after in (b"", _FILLER))
    except Exception:  # Decoders raise anything on damaged bytes.
        return None
    return data + _END if ended == filled else None


def _pixels(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        return image.tobytes()

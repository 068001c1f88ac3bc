"""Uploads that are no usable photo, of every kind that decoding is tested with."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image


def encoded(pixels: np.ndarray, kind: str = "JPEG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG of a few dozen bytes whose header claims that size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    )


def _cut(kind: str) -> bytes:
    intact = encoded(np.random.default_rng(0).integers(0, 255, (60, 80, 3)).astype(np.uint8), kind)
    return intact[: len(intact) // 2]


# Name -> bytes, status of the answer, a part of the reason.
BAD: dict[str, tuple[bytes, int, str]] = {
    "text": (b"not a photo at all\n" * 50, 422, "not an image"),
    "html": (b"<script>alert(1)</script>", 422, "not an image"),
    "zeros": (bytes(1000), 422, "not an image"),
    "other format": (encoded(np.zeros((20, 20, 3), np.uint8), "PPM"), 422, "not an image"),
    "small": (encoded(np.zeros((5, 5, 3), np.uint8), "PNG"), 422, "too small"),
    "bomb": (png_header(30000, 30000), 413, "oversized"),
    "largest header": (png_header(2**31 - 1, 2**31 - 1), 413, "oversized"),
    "no pixels": (png_header(40, 40), 422, "damaged"),
    "heic of nothing": (b"\x00\x00\x00\x18ftypheic" + bytes(500), 422, ""),
    **{f"cut {kind}": (_cut(kind), 422, "") for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF")},
}

"""Photos of the index as JPEGs for browsers, with a memory cache of the small ones."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from delg.images.decode import read_bytes
from delg.images.decode_process import DecodePool
from delg.remote_path import is_url
from delg.settings import ImageSettings
from index.storage.catalog_tables import ImageRow
from index.visualize.draw_matches import Pixels, encode_image, resize

THUMBNAIL_SIDE, PHOTO_SIDE = 360, 1600
_QUALITY = {THUMBNAIL_SIDE: 82, PHOTO_SIDE: 88}


@dataclass(frozen=True)
class Jpeg:
    """A JPEG file.

    Attributes:
        data: its bytes.
        tag: changes when the photo's file does, for the ETag header.
    """

    data: bytes
    tag: str


def encode_within(pixels: Pixels, side: int) -> bytes:
    """A JPEG of at most ``side`` pixels a side: ``THUMBNAIL_SIDE`` or ``PHOTO_SIDE``."""
    scale = min(1.0, side / max(pixels.shape[:2]))
    height, width = (max(1, round(length * scale)) for length in pixels.shape[:2])
    return encode_image(resize(pixels, width, height), "JPEG", _QUALITY[side])


class ThumbnailCache:
    """Encodes photos as JPEGs, and caches the small ones.

    Args:
        max_bytes: of cached JPEGs.
        decoder: decodes costly photos within a limit of time.
    """

    def __init__(self, max_bytes: int, decoder: DecodePool) -> None:
        self._max_bytes, self._bytes = max_bytes, 0
        self._decoder = decoder
        self._cache: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def tag(self, image: ImageRow, side: int) -> str:
        """Changes when the file or the side does; empty if there is no file. Servers of photos are
        not asked: of those it is the file that was indexed."""
        if is_url(image.path):
            state = image.sha256
        else:
            try:
                stat = Path(image.path).stat()
            except (OSError, ValueError):
                return ""
            state = f"{stat.st_mtime_ns}\0{stat.st_size}"
        key = f"{image.path}\0{state}\0{side}"
        return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()[:32]

    def get(self, image: ImageRow, side: int, limits: ImageSettings) -> Jpeg:
        """The photo, of at most ``side`` pixels a side.

        Raises:
            ImageError: it is missing, or cannot be read.
        """
        tag = self.tag(image, side)
        with self._lock:
            if tag in self._cache:
                self._cache.move_to_end(tag)
                return Jpeg(self._cache[tag], tag)
        # Small JPEGs do not need all pixels of large photos.
        pixels = self._decoder.decode(read_bytes(image.path), limits, at_least=side)
        data = encode_within(pixels, side)
        if side == THUMBNAIL_SIDE and tag:
            self._store(tag, data)
        return Jpeg(data, tag)

    def _store(self, tag: str, data: bytes) -> None:
        with self._lock:
            if tag in self._cache:
                return
            self._cache[tag] = data
            self._bytes += len(data)
            while self._bytes > self._max_bytes:
                self._bytes -= len(self._cache.popitem(last=False)[1])

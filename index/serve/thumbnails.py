"""Photos of the index as JPEGs that browsers show: small ones are kept in memory for a while."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from delg.images.decode import decode_bytes, read_bytes
from delg.settings import ImageSettings
from index.visualize.draw_matches import encode, resize

THUMBNAIL_SIDE, PHOTO_SIDE = 360, 1600
_QUALITY = {THUMBNAIL_SIDE: 82, PHOTO_SIDE: 88}


@dataclass(frozen=True)
class Jpeg:
    """A picture and what tells it from a later one of the same photo."""

    data: bytes
    tag: str


class Pictures:
    """Makes pictures, ``at_once`` at a time, and remembers up to ``most`` bytes of small ones."""

    def __init__(self, most: int, at_once: int) -> None:
        self._most, self._held = most, 0
        # A page asks for dozens at once, and decoded photos are large.
        self._room = threading.Semaphore(at_once)
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def tag(self, path: str, side: int) -> str:
        """Changes when the file does; empty if there is none."""
        try:
            stat = Path(path).stat()
        except (OSError, ValueError):
            return ""
        facts = f"{path}\0{stat.st_mtime_ns}\0{stat.st_size}\0{side}"
        return hashlib.sha256(facts.encode("utf-8", "replace")).hexdigest()[:32]

    def get(self, path: str, side: int, limits: ImageSettings) -> Jpeg:
        """The photo, of at most ``side`` pixels a side.

        Raises:
            ImageError: it has gone, or cannot be read.
        """
        tag = self.tag(path, side)
        with self._lock:
            if tag in self._kept:
                self._kept.move_to_end(tag)
                return Jpeg(self._kept[tag], tag)
        with self._room:
            # Small pictures need not all pixels of large photos.
            pixels = decode_bytes(read_bytes(path), limits, at_least=side)
            scale = min(1.0, side / max(pixels.shape[:2]))
            height, width = (max(1, round(length * scale)) for length in pixels.shape[:2])
            data = encode(resize(pixels, width, height), "JPEG", _QUALITY[side])
        if side == THUMBNAIL_SIDE and tag:
            self._keep(tag, data)
        return Jpeg(data, tag)

    def _keep(self, tag: str, data: bytes) -> None:
        with self._lock:
            if tag in self._kept:
                return
            self._kept[tag] = data
            self._held += len(data)
            while self._held > self._most:
                self._held -= len(self._kept.popitem(last=False)[1])

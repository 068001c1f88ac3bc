"""Photos as pixels: decoded once into a file that is mapped into memory, or at every use."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from delg.errors import DelgError
from delg.files import write_text
from delg.images.decode import ImageError, decode
from delg.training.items import Item, Record
from delg.training.tfrecords import read_image
from delg.types import Failure

Pixels = NDArray[np.uint8]
Report = Callable[[int, int, int], None]
# A line of pixels whose brightness varies less than this belongs to a plain border.
_PLAIN = 4.0
_LARGEST_BORDER = 0.4
# Photos that are decoded ahead of the disk.
_CHUNK = 256


def trim_borders(pixels: Pixels) -> Pixels:
    """The photo without plain black or white bars, such as letterboxing leaves."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
    spans = []
    for axis in (1, 0):
        level, spread = grey.mean(axis=axis), grey.std(axis=axis)
        plain = (spread < _PLAIN) & ((level < 16) | (level > 239))
        limit = int(_LARGEST_BORDER * len(plain))
        first = next((i for i in range(limit) if not plain[i]), limit)
        last = next((i for i in range(limit) if not plain[-1 - i]), limit)
        spans.append(slice(first, len(plain) - last))
    return pixels[spans[0], spans[1]]


def resize_to_fit(pixels: Pixels, side: int) -> Pixels:
    """The photo with its longest side at most ``side``."""
    height, width = pixels.shape[:2]
    ratio = side / max(height, width)
    if ratio >= 1:
        return pixels
    size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def read_pixels(item: Item, side: int, trim: bool) -> Pixels:
    """Decode one photo.

    Raises:
        ImageError: it cannot be used.
    """
    source = read_image(item.source) if isinstance(item.source, Record) else item.source
    pixels = decode(source)
    return np.ascontiguousarray(resize_to_fit(trim_borders(pixels) if trim else pixels, side))


class PhotoStore(Protocol):
    """Pixels by number, in the order of the items that it was made from.

    Attributes:
        items: the photos that can be read.
        failures: those that cannot, and why.
    """

    items: list[Item]
    failures: list[Failure]

    def __getitem__(self, number: int) -> Pixels:
        """uint8 (H, W, 3), RGB; the longest side has its limit.

        Raises:
            ImageError: the photo has turned out to be broken.
        """


def readable(store: PhotoStore, numbers: Iterable[int]) -> Iterator[tuple[int, Pixels]]:
    """Those of the photos that can be read, with their numbers."""
    for number in numbers:
        try:
            pixels = store[number]
        except ImageError:
            continue
        yield number, pixels


class SubsetStore:
    """Some photos of another store, in its order."""

    def __init__(self, store: PhotoStore, numbers: Sequence[int]) -> None:
        self._store, self._numbers = store, list(numbers)
        self.items = [store.items[number] for number in self._numbers]
        self.failures = store.failures

    def __getitem__(self, number: int) -> Pixels:
        return self._store[self._numbers[number]]


class DiskStore:
    """Decodes a photo every time it is used; a broken one is counted once."""

    def __init__(self, items: Sequence[Item], side: int, trim: bool) -> None:
        self.items = list(items)
        self.failures: list[Failure] = []
        self._side, self._trim = side, trim
        self._broken: set[int] = set()

    def __getitem__(self, number: int) -> Pixels:
        try:
            return read_pixels(self.items[number], self._side, self._trim)
        except ImageError as error:
            if number not in self._broken:
                self._broken.add(number)
                self.failures.append(Failure(self.items[number].id, str(error)))
            raise


class CachedStore:
    """Photos decoded once into ``pixels.bin``; ``index.json`` says where each lies.

    A cache of other photos or of other settings is made anew. The index is written last, so a cache
    that was interrupted does not count.
    """

    def __init__(
        self,
        items: Sequence[Item],
        side: int,
        trim: bool,
        folder: Path,
        threads: int = 2,
        report: Report | None = None,
    ) -> None:
        key = [side, trim, [(item.id, _stamp(item)) for item in items]]
        digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()
        index = folder / "index.json"
        table = json.loads(index.read_text()) if index.exists() else {}
        if table.get("digest") != digest:
            _fill(items, side, trim, folder, digest, threads, report)
            table = json.loads(index.read_text())
        self._places = table["places"]
        self.items = [item for item, place in zip(items, self._places, strict=True) if place]
        self._places = [place for place in self._places if place]
        self.failures = [Failure(*failure) for failure in table["failures"]]
        self._pixels = np.memmap(folder / "pixels.bin", np.uint8, "r")

    def __getitem__(self, number: int) -> Pixels:
        offset, height, width = self._places[number]
        flat = self._pixels[offset : offset + height * width * 3]
        return np.array(flat).reshape(height, width, 3)


def _stamp(item: Item) -> list[int | str]:
    """What changes when the photo does."""
    if isinstance(item.source, Record):
        return [str(item.source.file), item.source.offset]
    try:
        stat = item.source.stat()
    except OSError:
        return ["absent"]
    return [stat.st_size or 0, stat.st_mtime_ns]


def _fill(
    items: Sequence[Item],
    side: int,
    trim: bool,
    folder: Path,
    digest: str,
    threads: int,
    report: Report | None,
) -> None:
    def read(item: Item) -> Pixels | str:
        try:
            return read_pixels(item, side, trim)
        except ImageError as error:
            return str(error)

    places: list[tuple[int, int, int] | None] = []
    failures: list[tuple[str, str]] = []
    offset = 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "index.json").unlink(missing_ok=True)
        with (folder / "pixels.bin").open("wb") as file, ThreadPoolExecutor(threads) as pool:
            # In bounded chunks: the decoders must not run ahead of the disk.
            for start in range(0, len(items), _CHUNK):
                chunk = items[start : start + _CHUNK]
                for item, pixels in zip(chunk, pool.map(read, chunk), strict=True):
                    if isinstance(pixels, str):
                        failures.append((item.id, pixels))
                        places.append(None)
                    else:
                        file.write(pixels.tobytes())
                        places.append((offset, *pixels.shape[:2]))
                        offset += pixels.size
                if report:
                    report(len(places), len(items), len(failures))
        if not offset:
            raise DelgError(f"none of the {len(items)} photos could be read, first: {failures[0]}")
        table = {"digest": digest, "places": places, "failures": failures}
        write_text(folder / "index.json", json.dumps(table))
    except OSError as error:
        raise DelgError(
            f"{folder}: the cache cannot be written: {os.strerror(error.errno or 0)}"
        ) from None

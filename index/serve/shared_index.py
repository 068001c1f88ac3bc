"""One index shared by all requests: a state to read, and one writer at a time."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from delg.errors import DelgError
from delg.extraction.extractor import Extractor
from index.image_index import ImageIndex
from index.storage.catalog import FILE as CATALOG_FILE
from index.storage.store import BusyError

log = logging.getLogger(__name__)
# Changes of the catalog's file and of its log, as the file system tells them.
_Stamp = tuple[tuple[int, int, int], ...]
_WARM_SIZES = ((768, 1024), (1024, 768))


class _State:
    """One opened state of the index and how many requests are reading it."""

    def __init__(self, images: ImageIndex, stamp: _Stamp) -> None:
        self.images, self.stamp = images, stamp
        self.readers = 0
        self.replaced = False


class SharedIndex:
    """The index of a server. Its model is loaded once; its states follow the disk.

    Args:
        path: of the index.
        overrides: of its settings, by section and key, with their origin for errors.
        extractor: the index's model, where it is loaded already.

    Raises:
        DelgError: there is no index, or it is damaged.
    """

    def __init__(
        self,
        path: Path,
        overrides: Any = None,
        origin: str = "settings",
        extractor: Extractor | None = None,
    ) -> None:
        self.path = path
        self._overrides, self._origin = overrides or {}, origin
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        self._writing = threading.Lock()
        self._extractor = extractor
        stamp = self._stamp()
        self._state = _State(self._open(), stamp)
        self._tried = stamp

    def _stamp(self) -> _Stamp:
        found = []
        for name in (CATALOG_FILE, CATALOG_FILE + "-wal"):
            with contextlib.suppress(OSError):
                stat = (self.path / name).stat()
                # A log is made empty by whoever opens the catalog.
                if stat.st_size:
                    found.append((stat.st_ino, stat.st_size, stat.st_mtime_ns))
        return tuple(found)

    def _open(self) -> ImageIndex:
        images = ImageIndex.open(self.path)
        if self._overrides:
            images.configure(self._overrides, self._origin)
        if images.takes_photos:
            if self._extractor is not None and self._extractor.fingerprint == images.fingerprint:
                images.use(self._extractor)
            else:
                self._extractor = images.extractor
        return images

    @contextmanager
    def reading(self) -> Iterator[ImageIndex]:
        """The newest state, which stays as it is until the end of the block."""
        self._follow()
        with self._lock:
            state = self._state
            state.readers += 1
        try:
            yield state.images
        finally:
            with self._lock:
                state.readers -= 1
                done = state.replaced and not state.readers
            if done:
                state.images.close()

    def _follow(self) -> None:
        """Open the newest state if there is one; whoever comes meanwhile reads the old one."""
        if self._stamp() in (self._state.stamp, self._tried):
            return
        if not self._opening.acquire(blocking=False):
            return
        try:
            self._tried = stamp = self._stamp()
            try:
                new = _State(self._open(), stamp)
            except DelgError as error:
                log.warning("the index changed and cannot be opened again: %s", error)
                return
            with self._lock:
                old, self._state = self._state, new
                old.replaced = True
                done = not old.readers
            if done:
                old.images.close()
        finally:
            self._opening.release()

    @contextmanager
    def writing(self) -> Iterator[ImageIndex]:
        """An index to change; other requests go on reading the state they have.

        Raises:
            BusyError: another request is writing.
        """
        if not self._writing.acquire(timeout=1):
            raise BusyError(f"{self.path}: another request is writing; try again")
        try:
            images = self._open()
            try:
                yield images
            finally:
                images.close()
        finally:
            self._writing.release()

    @property
    def version(self) -> _Stamp:
        """Equal for equal states."""
        return self._state.stamp

    def warm(self) -> None:
        """Ask a first question, so that the first visitor does not wait for it."""
        with self.reading() as images:
            if not images.takes_photos:
                return
            for height, width in _WARM_SIZES:
                noise = np.random.default_rng(0).integers(0, 256, (height, width, 3))
                images.query(noise.astype(np.uint8), k=1, orientations="1")

    def close(self) -> None:
        """Let go of the files."""
        self._state.images.close()

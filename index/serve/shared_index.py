"""One index shared by all requests: a snapshot to read, and one writer at a time."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from delg.errors import DelgError
from delg.extraction.extractor import Extractor
from index.image_index import ImageIndex
from index.sharding.shards import FILE as SHARDS_FILE
from index.sharding.shards import shard_folders
from index.storage.catalog_state import FILE as CATALOG_FILE
from index.storage.lock import BusyError

log = logging.getLogger(__name__)
# Inode, size and time of the catalog's file and of its log: differs after every change.
_Stamp = tuple[tuple[int, int, int], ...]
# Seconds between two looks for segments that are missing.
_LOOK_SECONDS = 2.0
_WARM_SIZES = ((768, 1024), (1024, 768))


class _Snapshot:
    """An opened state of the index, and how many requests are reading it."""

    def __init__(self, images: ImageIndex, stamp: _Stamp) -> None:
        self.images, self.stamp = images, stamp
        self.lacks_segments = bool(images.unreadable_segments())
        self.readers = 0
        self.replaced = False


class SharedIndex:
    """The index of a server. The model is loaded once; snapshots follow changes on disk.

    Args:
        path: folder of the index.
        overrides: of its settings, by section and key.
        origin: where the overrides come from, for error messages.
        extractor: the index's model, if it is loaded already.
        model, ray: see :meth:`index.image_index.ImageIndex.open`.

    Raises:
        DelgError: there is no index, or it is damaged.
    """

    def __init__(
        self,
        path: Path,
        overrides: Any = None,
        origin: str = "settings",
        extractor: Extractor | None = None,
        model: str | None = None,
        ray: str | None = None,
    ) -> None:
        self.path, self._model, self._ray = path, model, ray
        self._folders = [path]
        self._overrides, self._origin = overrides or {}, origin
        self._lock = threading.Lock()
        self._refresh_lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._extractor = extractor
        self._missing: list[str] = []
        stamp, images = self._stamp(), self._open()
        # Of a sharded index, the shards are known only now.
        stamp = stamp if len(self._folders) == 1 else self._stamp()
        self._snapshot = _Snapshot(images, stamp)
        self._tried, self._next_look = stamp, 0.0
        self._say_what_is_missing(self._snapshot)

    def _stamp(self) -> _Stamp:
        stamps = []
        names = (CATALOG_FILE, CATALOG_FILE + "-wal", SHARDS_FILE)
        for path in (folder / name for folder in self._folders for name in names):
            with contextlib.suppress(OSError):
                stat = path.stat()
                # An empty log says nothing: opening the catalog creates one.
                if stat.st_size:
                    stamps.append((stat.st_ino, stat.st_size, stat.st_mtime_ns))
        return tuple(stamps)

    def _open(self) -> ImageIndex:
        images = ImageIndex.open(self.path, self._model, self._ray)
        self._folders = [self.path, *shard_folders(self.path)]
        if self._overrides:
            images.configure(self._overrides, self._origin)
        if images.accepts_images:
            if self._extractor is not None and images.can_use(self._extractor):
                images.use(self._extractor)
            else:
                self._extractor = images.extractor
        return images

    @contextmanager
    def reading(self) -> Iterator[ImageIndex]:
        """The newest snapshot, which does not change until the end of the block."""
        self._refresh()
        with self._lock:
            snapshot = self._snapshot
            snapshot.readers += 1
        try:
            yield snapshot.images
        finally:
            with self._lock:
                snapshot.readers -= 1
                done = snapshot.replaced and not snapshot.readers
            if done:
                snapshot.images.close()

    def _refresh(self) -> None:
        """Open a new snapshot if the index has changed; meanwhile others read the old one."""
        is_known = self._stamp() in (self._snapshot.stamp, self._tried)
        if is_known and not (self._snapshot.lacks_segments and self._may_look_again()):
            return
        if not self._refresh_lock.acquire(blocking=False):
            return
        try:
            self._tried = stamp = self._stamp()
            try:
                new = _Snapshot(self._open(), stamp)
            except DelgError as error:
                log.warning("the index changed and cannot be opened again: %s", error)
                return
            self._say_what_is_missing(new)
            with self._lock:
                old, self._snapshot = self._snapshot, new
                old.replaced = True
                done = not old.readers
            if done:
                old.images.close()
        finally:
            self._refresh_lock.release()

    def _may_look_again(self) -> bool:
        """Whether it is time to look for segments that were missing: a copy of an index may arrive
        after its catalog did."""
        now = time.monotonic()
        # Ray brings back its workers by itself.
        if now < self._next_look or self._ray is not None:
            return False
        self._next_look = now + _LOOK_SECONDS
        return True

    def _say_what_is_missing(self, snapshot: _Snapshot) -> None:
        problems = snapshot.images.unreadable_segments()
        if problems and problems != self._missing:
            log.warning(
                "%s: %d files of features are missing or unreadable, and their photos are not "
                "found until they are there, such as: %s", self.path, len(problems), problems[0],
            )  # fmt: skip
        if self._missing and not problems:
            log.warning("%s: all files of features are there now", self.path)
        self._missing = problems

    @contextmanager
    def writing(self) -> Iterator[ImageIndex]:
        """An index to change; other requests go on reading their snapshots.

        Raises:
            BusyError: another request is writing.
        """
        if not self._write_lock.acquire(timeout=1):
            raise BusyError(f"{self.path}: another request is writing; try again")
        try:
            images = self._open()
            try:
                yield images
            finally:
                images.close()
        finally:
            self._write_lock.release()

    @property
    def version(self) -> _Stamp:
        """Equal for equal states of the index."""
        return self._snapshot.stamp

    def warm(self) -> None:
        """Run first queries, so that the first visitor does not wait for caches and compilation."""
        with self.reading() as images:
            if not images.accepts_images:
                return
            for height, width in _WARM_SIZES:
                noise = np.random.default_rng(0).integers(0, 256, (height, width, 3))
                images.query(noise.astype(np.uint8), k=1, orientations="1")

    def close(self) -> None:
        """Close the files."""
        self._snapshot.images.close()

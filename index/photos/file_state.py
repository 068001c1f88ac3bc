"""What is known of a photo's file without reading it, and whether it is as the catalog has it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace

from delg.images.scan import Photo
from delg.remote_path import RemotePath, is_url
from index.storage.catalog_tables import ImageRow

# Requests that wait for an answer at once.
_REQUESTS = 16
_PHOTOS_AT_ONCE = 1000


@dataclass(frozen=True)
class FileState:
    """The state of a file.

    Attributes:
        size: bytes; -1 where a server does not say.
        mtime_ns: modification time; 0 where a server does not say.
        etag: of a file behind a URL, its tag; empty otherwise.
    """

    size: int
    mtime_ns: int
    etag: str = ""

    @classmethod
    def of(cls, photo: Photo) -> FileState:
        """By the listing, or by a look at the file.

        Raises:
            OSError: it cannot be looked at.
        """
        stat = photo.stat or photo.path.stat()
        size = -1 if stat.st_size is None else stat.st_size
        return cls(size, stat.st_mtime_ns, getattr(stat, "etag", ""))

    def is_that_of(self, row: ImageRow) -> bool:
        """Whether the file is the one that was read, as far as can be told without reading it."""
        if self.size not in (row.size, -1):
            return False
        if self.etag and row.etag:
            return self.etag == row.etag
        is_timeless = self.mtime_ns == 0 and is_url(row.path)
        return self.mtime_ns == row.mtime_ns and not is_timeless

    def of_size(self, size: int) -> FileState:
        """The same, with that size if none is known."""
        return replace(self, size=size) if self.size < 0 else self


def stat_photos(photos: Iterable[Photo]) -> Iterator[Photo]:
    """The photos in their order, with what servers say of those that no listing told about.

    Many servers are asked at once; what cannot be looked at stays as it was.
    """
    batch: list[Photo] = []
    with ThreadPoolExecutor(_REQUESTS) as pool:
        for photo in photos:
            batch.append(photo)
            if len(batch) == _PHOTOS_AT_ONCE:
                yield from _stat_batch(batch, pool)
                batch = []
        yield from _stat_batch(batch, pool)


def _stat_batch(photos: list[Photo], pool: ThreadPoolExecutor) -> Iterable[Photo]:
    if not any(map(_is_unknown, photos)):
        return photos
    return pool.map(_with_stat, photos)


def _is_unknown(photo: Photo) -> bool:
    known = photo.stat is not None and photo.stat.st_size is not None
    return isinstance(photo.path, RemotePath) and not known


def _with_stat(photo: Photo) -> Photo:
    if _is_unknown(photo):
        assert isinstance(photo.path, RemotePath)
        with suppress(OSError):
            return replace(photo, stat=photo.path.stat())
    return photo

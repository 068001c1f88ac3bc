"""The segments that this process holds open: of all indexes together no more than it may have
files, the least recently used are closed first.

A mapped file keeps its handle, and a system lets a process have 1,024 or even 256 of them.
"""

from __future__ import annotations

import errno
import mmap
import os
import sys
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from weakref import WeakSet

from delg.errors import DelgError
from delg.forks import shared_lock
from index.storage.product_quantizer import ProductQuantizer
from index.storage.segments import Segment, SegmentError

# Share of the files that the process may have which segments take; the rest is for connections,
# photos and catalogs.
_SHARE = 0.5
# Where the system names no limit, and what is held under any limit.
_WITHOUT_LIMIT, _MIN_OPEN = 4096, 8
_TOO_MANY = (errno.EMFILE, errno.ENFILE)


class SegmentFile(NamedTuple):
    """A segment's file as it was when its index was opened: another file may take its place."""

    path: Path
    device: int
    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def find(cls, path: Path) -> SegmentFile:
        """The file at a path.

        Raises:
            SegmentError: it is missing or cannot be looked at.
        """
        try:
            return cls.of(path, path.stat())
        except FileNotFoundError:
            raise SegmentError(f"{path}: the segment is missing") from None
        except OSError as error:
            raise SegmentError(f"{path}: not a readable segment ({error.strerror})") from None

    @classmethod
    def of(cls, path: Path, stat: os.stat_result) -> SegmentFile:
        """The file of that status."""
        return cls(path, stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)


@dataclass
class _Open:
    """A file that is open, its segment once that is read, and who uses it."""

    data: mmap.mmap
    segment: Segment | None = None
    users: set[int] = field(default_factory=set)


def max_open_segments() -> int:
    """Segments that this process may hold open, by the limit on its files."""
    if sys.platform == "win32":  # It limits handles by memory alone.
        return _WITHOUT_LIMIT
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return _WITHOUT_LIMIT
    return max(_MIN_OPEN, int(limit * _SHARE))


class OpenSegments:
    """Files of segments that are open, shared by whoever uses them."""

    def __init__(self) -> None:
        self._files: OrderedDict[SegmentFile, _Open] = OrderedDict()
        self._lock = shared_lock()
        # Users that are gone. A user may go while this thread holds the lock.
        self._gone: deque[int] = deque()
        self._quantizers: WeakSet[ProductQuantizer] = WeakSet()
        self._quantizers_lock = shared_lock()

    def __len__(self) -> int:
        return len(self._files)

    def share(self, file: SegmentFile, user: int) -> bool:
        """Whether a file is open, and from now on for this user too."""
        with self._lock:
            self._sweep()
            opened = self._files.get(file)
            if opened is not None:
                opened.users.add(user)
            return opened is not None

    def keep(self, file: SegmentFile, user: int) -> None:
        """Open a file for a user if there is room, so that it stays readable when it is deleted.

        Raises:
            SegmentError: it is gone or cannot be read.
        """
        if self.share(file, user):
            return
        with self._lock:
            if len(self._files) < max_open_segments():
                data = _map_file(file)
                if data is not None:
                    self._files[file] = _Open(data, users={user})

    def get(
        self, file: SegmentFile, user: int, read: Callable[[Path, mmap.mmap], Segment]
    ) -> Segment:
        """The segment in a file, which is opened if it is not.

        Raises:
            SegmentError: it is missing or damaged.
        """
        with self._lock:
            self._sweep()
            opened = self._files.get(file)
            if opened is None:
                opened = self._files[file] = _Open(self._make_room_and_map(file))
            opened.users.add(user)
            self._files.move_to_end(file)
            if opened.segment is None:
                opened.segment = read(file.path, opened.data)
            return opened.segment

    def _make_room_and_map(self, file: SegmentFile) -> mmap.mmap:
        while len(self._files) >= max_open_segments():
            self._files.popitem(last=False)
        while (data := _map_file(file)) is None:
            if not self._files:
                raise DelgError(
                    f"{file.path}: this process has too many files open; allow it more (ulimit -n)"
                )
            self._files.popitem(last=False)
        return data

    def release(self, user: int) -> None:
        """Close what nobody but that user needs; at the next use, if that is going on."""
        self._gone.append(user)
        if self._lock.acquire(blocking=False):
            try:
                self._sweep()
            finally:
                self._lock.release()

    def _sweep(self) -> None:
        while self._gone:
            user = self._gone.popleft()
            for file, opened in list(self._files.items()):
                opened.users.discard(user)
                if not opened.users:
                    del self._files[file]

    def shared(self, quantizer: ProductQuantizer) -> ProductQuantizer:
        """Equal codes as one object, so that a query is projected once for many segments."""
        with self._quantizers_lock:
            for known in self._quantizers:
                if known.is_same(quantizer):
                    return known
            self._quantizers.add(quantizer)
        return quantizer


def _map_file(file: SegmentFile) -> mmap.mmap | None:
    """The file's bytes; None if this process may not open any more files.

    Raises:
        SegmentError: it cannot be read, or is no longer what it was.
    """
    try:
        with file.path.open("rb") as stream:
            is_same = SegmentFile.of(file.path, os.fstat(stream.fileno())) == file
            data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        is_same = False
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in _TOO_MANY:
            return None
        raise SegmentError(f"{file.path}: not a readable segment ({error})") from None
    if not is_same:
        raise SegmentError(
            f"{file.path}: the segment is gone or another, as a compaction elsewhere replaces "
            "segments; open the index anew"
        )
    return data


OPEN = OpenSegments()

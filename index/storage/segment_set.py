"""The segments of an index, held open from the start and read when they are first needed.

Opening an index of a million photos looks at thousands of files. Each is mapped whole, which costs
next to nothing and keeps it readable however a compaction elsewhere replaces it; what is inside is
only read for the photos that are asked for.
"""

from __future__ import annotations

import errno
import mmap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from threading import Lock

from index.storage.catalog import SegmentRow
from index.storage.product_quantizer import ProductQuantizer
from index.storage.segments import Segment, SegmentError, segment_path

# How every HDF5 file begins.
_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def _hold(path: Path, size: int) -> mmap.mmap | None:
    """The file's bytes; None if this process may not hold any more files.

    Raises:
        SegmentError: the file is missing or cannot be a segment of that many bytes.
    """
    try:
        with path.open("rb") as file:
            # Read and not mapped: the first touch of a map brings in much more than it needs.
            start = file.read(len(_SIGNATURE))
            held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise SegmentError(f"{path}: the segment is missing") from None
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            return None
        raise SegmentError(f"{path}: not a readable segment ({error})") from None
    if len(held) < size or start != _SIGNATURE:
        raise SegmentError(f"{path}: not a readable segment (damaged or cut short)")
    return held


class SegmentSet(Mapping[int, Segment]):
    """Segment number -> segment, of those that are there.

    Args:
        folder: of the index.
        rows: the segments that the catalog names.
        known: an earlier state, whose open segments are used again.

    Attributes:
        lost: segment number -> what is wrong with it.
    """

    def __init__(self, folder: Path, rows: Iterable[SegmentRow], known: SegmentSet | None = None):
        self.unreadable: dict[int, str] = {}
        self._folder, self._lock = folder, Lock()
        self._held: dict[int, mmap.mmap | None] = {}
        self._read: dict[int, Segment] = {}
        for row in rows:
            if known is not None and row.number in known._held:
                self._held[row.number] = known._held[row.number]
                if row.number in known._read:
                    self._read[row.number] = known._read[row.number]
                continue
            try:
                self._held[row.number] = _hold(segment_path(folder, row.number), row.bytes)
            except SegmentError as error:
                self.unreadable[row.number] = str(error)

    def __getitem__(self, number: int) -> Segment:
        """The segment of that number.

        Raises:
            KeyError: it is not one of them.
            SegmentError: it turns out to be damaged.
        """
        if number not in self._read:
            held = self._held[number]
            with self._lock:
                segment = Segment(segment_path(self._folder, number), held)
                segment.quantizer = self._shared(segment.quantizer)
                self._read[number] = segment
        return self._read[number]

    def _shared(self, quantizer: ProductQuantizer | None) -> ProductQuantizer | None:
        """The same codes as one object, so that photos of many segments are matched together."""
        known = (one.quantizer for one in self._read.values())
        if quantizer is None:
            return None
        return next((one for one in known if one is not None and one.is_same(quantizer)), quantizer)

    def __iter__(self) -> Iterator[int]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)

    def read_all(self) -> None:
        """Read every segment now; those that are damaged are lost."""
        for number in list(self._held):
            try:
                self[number]
            except SegmentError as error:
                del self._held[number]
                self.unreadable[number] = str(error)

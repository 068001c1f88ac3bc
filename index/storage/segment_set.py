"""The segments of an index, mapped from the start and read when they are first needed.

Opening an index of a million photos looks at thousands of files. Mapping a file costs next to
nothing and keeps it readable however a compaction elsewhere replaces it; its content is only read
when a photo in it is needed.
"""

from __future__ import annotations

import errno
import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from threading import Lock

from index.storage.catalog_tables import SegmentRow
from index.storage.product_quantizer import ProductQuantizer
from index.storage.segments import Segment, SegmentError, segment_path

# The first bytes of every HDF5 file.
_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def _map_file(path: Path, min_size: int) -> mmap.mmap | None:
    """The file's bytes; None if this process may not map any more files.

    Raises:
        SegmentError: the file is missing or cannot be a segment of that many bytes.
    """
    try:
        with path.open("rb") as file:
            # Read and not mapped: the first touch of a map brings in much more than it needs.
            start = file.read(len(_SIGNATURE))
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise SegmentError(f"{path}: the segment is missing") from None
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            return None
        raise SegmentError(f"{path}: not a readable segment ({error})") from None
    if len(data) < min_size or start != _SIGNATURE:
        raise SegmentError(f"{path}: not a readable segment (damaged or cut short)")
    return data


class SegmentSet(Mapping[int, Segment]):
    """Segment number -> segment, of those that can be read.

    Args:
        folder: of the index.
        rows: the segments that the catalog names.
        previous: an earlier state, whose open segments are used again.
        has_inverse_scales: see :class:`index.storage.segments.Segment`.

    Attributes:
        unreadable: segment number -> what is wrong with it.
    """

    def __init__(
        self,
        folder: Path,
        rows: Iterable[SegmentRow],
        previous: SegmentSet | None = None,
        has_inverse_scales: Callable[[], bool] = lambda: False,
    ) -> None:
        self.unreadable: dict[int, str] = {}
        self._folder, self._lock = folder, Lock()
        self._has_inverse_scales = has_inverse_scales
        self._mapped: dict[int, mmap.mmap | None] = {}
        self._read: dict[int, Segment] = {}
        for row in rows:
            if previous is not None and row.number in previous._mapped:
                self._mapped[row.number] = previous._mapped[row.number]
                if row.number in previous._read:
                    self._read[row.number] = previous._read[row.number]
                continue
            try:
                self._mapped[row.number] = _map_file(segment_path(folder, row.number), row.bytes)
            except SegmentError as error:
                self.unreadable[row.number] = str(error)

    def __getitem__(self, number: int) -> Segment:
        """The segment of that number.

        Raises:
            KeyError: there is none, or it cannot be read.
            SegmentError: it turns out to be damaged.
        """
        if number not in self._read:
            data = self._mapped[number]
            with self._lock:
                path = segment_path(self._folder, number)
                segment = Segment(path, data, self._has_inverse_scales)
                if segment.quantizer is not None:
                    segment.quantizer = self.shared(segment.quantizer)
                self._read[number] = segment
        return self._read[number]

    def shared(self, quantizer: ProductQuantizer) -> ProductQuantizer:
        """Equal codes as one object, so that a query is projected once for many segments."""
        quantizers = (segment.quantizer for segment in self._read.values())
        return next((q for q in quantizers if q is not None and q.is_same(quantizer)), quantizer)

    def __iter__(self) -> Iterator[int]:
        return iter(self._mapped)

    def __len__(self) -> int:
        return len(self._mapped)

    def read_all(self) -> None:
        """Read every segment now, so that damaged ones are known to be unreadable."""
        for number in list(self._mapped):
            try:
                self[number]
            except SegmentError as error:
                del self._mapped[number]
                self.unreadable[number] = str(error)

    @property
    def quantizers(self) -> list[ProductQuantizer]:
        """Of the compact segments, each once, oldest first."""
        quantizers = (segment.quantizer for segment in self.values())
        return list(dict.fromkeys(q for q in quantizers if q is not None))

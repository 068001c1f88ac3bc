"""The segments of an index, opened from the start as far as files go, and read when they are first
needed.

Opening an index of a million photos looks at thousands of files. Mapping a file costs next to
nothing and keeps it readable however a compaction elsewhere replaces it; its content is only read
when a photo in it is needed. What is beyond the limit on files is opened when it is needed.
"""

from __future__ import annotations

import itertools
import mmap
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from index.storage.catalog_tables import SegmentRow
from index.storage.open_segments import OPEN, SegmentFile
from index.storage.product_quantizer import ProductQuantizer
from index.storage.segments import Segment, SegmentError, segment_path

# The first bytes of every HDF5 file.
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_USERS = itertools.count()


def _look_at(path: Path, min_size: int) -> SegmentFile:
    """The file at a path.

    Raises:
        SegmentError: it is missing or cannot be a segment of that many bytes.
    """
    file = SegmentFile.find(path)
    try:
        with path.open("rb") as stream:
            # Read and not mapped: the first touch of a map brings in much more than it needs.
            start = stream.read(len(_SIGNATURE))
    except OSError as error:
        raise SegmentError(f"{path}: not a readable segment ({error})") from None
    if file.size < min_size or start != _SIGNATURE:
        raise SegmentError(f"{path}: not a readable segment (damaged or cut short)")
    return file


class SegmentSet(Mapping[int, Segment]):
    """Segment number -> segment, of those that can be read.

    Args:
        folder: of the index.
        rows: the segments that the catalog names.
        previous: an earlier state; what it has open is not looked up again.
        damaged: segment number -> what is wrong with it, as far as that is known already.
        has_inverse_scales: see :class:`index.storage.segments.Segment`.

    Attributes:
        unreadable: segment number -> what is wrong with it.
    """

    def __init__(
        self,
        folder: Path,
        rows: Iterable[SegmentRow],
        previous: SegmentSet | None = None,
        damaged: Mapping[int, str] | None = None,
        has_inverse_scales: Callable[[], bool] = lambda: False,
    ) -> None:
        self.unreadable: dict[int, str] = {}
        self._folder = folder
        self._has_inverse_scales = has_inverse_scales
        self._files: dict[int, SegmentFile] = {}
        # Those whose content has been read once.
        self._readable: set[int] = set()
        self._user = next(_USERS)
        weakref.finalize(self, OPEN.release, self._user).atexit = False
        for row in rows:
            number = row.number
            try:
                if damaged and number in damaged:
                    raise SegmentError(damaged[number])
                file = previous._files.get(number) if previous else None
                if file is None or not OPEN.share(file, self._user):
                    file = _look_at(segment_path(folder, number), row.bytes)
                    OPEN.keep(file, self._user)
            except SegmentError as error:
                self.unreadable[number] = str(error)
                continue
            self._files[number] = file
            if previous and number in previous._readable and file == previous._files.get(number):
                self._readable.add(number)

    def __getitem__(self, number: int) -> Segment:
        """The segment of that number.

        Raises:
            SegmentError: there is none, it turns out to be damaged, or a compaction elsewhere has
                replaced it.
        """
        if number not in self._files:
            what = f"{self._folder}: there is no segment {number!r}"
            raise SegmentError(self.unreadable.get(number, what))
        segment = OPEN.get(self._files[number], self._user, self._read)
        self._readable.add(number)
        return segment

    def _read(self, path: Path, data: mmap.mmap) -> Segment:
        segment = Segment(path, data, self._has_inverse_scales)
        if segment.quantizer is not None:
            segment.quantizer = OPEN.shared(segment.quantizer)
        return segment

    def __contains__(self, number: object) -> bool:
        return number in self._files

    def __iter__(self) -> Iterator[int]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def read_all(self) -> None:
        """Read every segment that has not been read, so that damaged ones are known to be
        unreadable."""
        for number in self._files.keys() - self._readable:
            try:
                self[number]
            except SegmentError as error:
                del self._files[number]
                self.unreadable[number] = str(error)

    @property
    def quantizers(self) -> list[ProductQuantizer]:
        """Of the compact segments, each once, oldest first."""
        quantizers = (segment.quantizer for segment in self.values())
        return list(dict.fromkeys(q for q in quantizers if q is not None))

"""Where the catalog says that features lie: segments, and the places in them by row number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from index.storage.catalog_rows import CatalogError, UnknownRowError, parse_segment
from index.storage.catalog_state import CatalogState
from index.storage.catalog_tables import WRITTEN_IDS, SegmentRow

# Where rows lie closer than this on average, reading all between them is faster than each by key.
_RANGE_SCAN_GAP = 4
_KEYS_AT_ONCE = 500


class CatalogPlaces(CatalogState):
    """The catalog with its segments and row numbers."""

    def segments(self) -> list[SegmentRow]:
        """All segments, oldest first."""
        query = "SELECT number, images, bytes, sha256 FROM segments ORDER BY number"
        return [parse_segment(row) for row in self.read_rows(query)]

    def segment(self, number: int) -> SegmentRow | None:
        """The segment of that number, if there is one."""
        query = "SELECT number, images, bytes, sha256 FROM segments WHERE number = ?"
        row = self.read_row(query, (number,))
        return parse_segment(row) if row else None

    def next_segment(self) -> int:
        """The number after the highest ever given."""
        row = self.read_row("SELECT seq FROM sqlite_sequence WHERE name = 'segments'")
        return (row[0] if row else 0) + 1

    def searchable(self) -> NDArray[np.int64]:
        """int64 (N, 3): row, segment and position of the images with features, by row."""
        query = "SELECT row, segment, position FROM images WHERE state = 'ok' ORDER BY row"
        return self._whole_numbers(self.read_rows(query), 3)

    def ids(self, rows: NDArray[np.int64]) -> list[str]:
        """The ids of the images under these row numbers, in their order.

        Raises:
            UnknownRowError: there is none under one of them.
        """
        return [columns[0] for columns in self._by_row("id", rows)]

    def places(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64 (len(rows), 2): segment and position of the images under these row numbers.

        Raises:
            UnknownRowError: there is none under one of them.
        """
        return self._whole_numbers(self._by_row("segment, position", rows), 2)

    def place(self, row: int) -> tuple[int, int]:
        """Segment and position of the image under that row number.

        Raises:
            UnknownRowError: there is none.
        """
        values = self.read_row("SELECT segment, position FROM images WHERE row = ?", (row,))
        if values is None:
            raise UnknownRowError(self.path, row)
        if not all(isinstance(value, int) for value in values):
            raise CatalogError(f"{self.path}: the place of image row {row} is damaged")
        return values[0], values[1]

    def row_range(self) -> tuple[int, int]:
        """The lowest and the highest row number; 0 and 0 of an empty index."""
        row = self.read_row("SELECT min(row), max(row) FROM images")
        return (row[0] or 0, row[1] or 0) if row else (0, 0)

    def next_row(self) -> int:
        """The row number after the highest ever given."""
        row = self.read_row("SELECT seq FROM sqlite_sequence WHERE name = 'images'")
        return (row[0] if row else 0) + 1

    def written_ids(self) -> dict[int, str]:
        """Row number -> the id that its segment knows it by, of images that were renamed."""
        table = self.read_row("SELECT 1 FROM sqlite_master WHERE name = ?", (WRITTEN_IDS,))
        return dict(self.read_rows(f"SELECT row, id FROM {WRITTEN_IDS}")) if table else {}

    def _by_row(self, columns: str, rows: NDArray[np.int64]) -> Iterator[tuple]:
        """Columns of the images under these row numbers, in their order."""
        values = self._values_by_row(columns, rows)
        for row in rows.tolist():
            if row not in values:
                raise UnknownRowError(self.path, row)
            yield values[row]

    def _values_by_row(self, columns: str, rows: NDArray[np.int64]) -> dict[int, tuple]:
        """Row number -> columns; many rows close together by range, few by key."""
        query = f"SELECT row, {columns} FROM images WHERE row "
        values: dict[int, tuple] = {}
        if len(rows) and np.ptp(rows) < _RANGE_SCAN_GAP * len(rows):
            ends = int(rows.min()), int(rows.max())
            values.update(
                (row[0], row[1:]) for row in self.read_rows(query + "BETWEEN ? AND ?", ends)
            )
            return values
        for start in range(0, len(rows), _KEYS_AT_ONCE):
            keys = [int(row) for row in rows[start : start + _KEYS_AT_ONCE]]
            marks = f"IN ({', '.join('?' * len(keys))})"
            values.update((row[0], row[1:]) for row in self.read_rows(query + marks, keys))
        return values

    def _whole_numbers(self, places: Iterable[Sequence], columns: int) -> NDArray[np.int64]:
        """int64 (N, columns); SQLite takes any value in any column."""
        try:
            values = np.fromiter((value for place in places for value in place), np.int64)
        except (TypeError, ValueError, OverflowError) as error:
            raise CatalogError(f"{self.path}: the place of an image is damaged ({error})") from None
        return values.reshape(-1, columns)

"""The catalog: one SQLite file that says what is in the index.

Readers hold a read transaction for as long as they live, so they see one state however much
another process adds meanwhile (write-ahead logging keeps the old pages for them).
"""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import threading
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from delg.errors import DelgError, UsageError
from delg.files import atomic_write
from delg.forks import keep_forever
from delg.paths import exists, name_forms
from delg.plain_values import parse_json
from index.storage.catalog_connection import connect, file_stamp
from index.storage.catalog_tables import (
    ETAG,
    IMAGE_COLUMNS,
    SCHEMA,
    WRITTEN_IDS,
    ImageRow,
    SegmentRow,
    has_etags,
)
from index.storage.index_record import Entries
from index.storage.trash import CHANGES, TRASH, Change

T = TypeVar("T")
FILE = "catalog.sqlite"
FORMAT = 1

# Where rows lie closer than this on average, reading all between them is faster than each by key.
_RANGE_SCAN_GAP = 4
_KEYS_AT_ONCE = 500
# Rows that a thread fetches before another has its turn.
_ROWS_AT_ONCE = 1000
# Conditions whose rows are kept, for one state.
_KNOWN_CONDITIONS = 32
# SQLite's messages where the file itself is damaged, or none of ours.
_DAMAGED = re.compile("malformed|not a database|no such (table|column)|unsupported file format")


class CatalogError(DelgError):
    """The catalog is missing, damaged, or of another format."""


def _image_row(values: Sequence) -> ImageRow:
    columns = dict(zip((*IMAGE_COLUMNS.split(", "), "row", ETAG), values, strict=True))
    columns[ETAG] = columns[ETAG] or ""
    try:
        columns["metadata"] = parse_json(columns["metadata"])
        _check_image(columns)
        return ImageRow(**columns)
    except (ValueError, TypeError) as error:
        shown = str(columns["id"])[:200]
        raise CatalogError(f"the catalog's entry of {shown} is damaged ({error})") from None


def _trashed(text: str) -> ImageRow:
    try:
        columns = parse_json(text)
        _check_image(columns)
        return ImageRow(**columns)
    except (ValueError, TypeError, KeyError) as error:
        raise CatalogError(f"the trash's entry {text[:80]} is damaged ({error})") from None


def _check_image(columns: dict[str, Any]) -> None:
    """SQLite takes any value in any column, and whoever wrote the catalog may be a stranger.

    Raises:
        ValueError: a value is not of its column's type.
    """
    metadata = columns["metadata"]
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("metadata")
    is_ok = columns["state"] == "ok"
    for name, value in columns.items():
        # Features made elsewhere, and earlier versions, do not tell the size.
        optional = name in ("reason", "label", "width", "height")
        optional = optional or (name in ("segment", "position") and not is_ok)
        if name in ("size", "mtime_ns", "width", "height", "segment", "position", "row"):
            fits = isinstance(value, int) and (value >= 0 or name == "mtime_ns")
        else:
            fits = isinstance(value, dict if name == "metadata" else str)
        if not fits and not (optional and value is None):
            raise ValueError(name)


def _segment_row(values: Sequence) -> SegmentRow:
    row = SegmentRow(*values)
    numbers = (row.number, row.images, row.bytes)
    if not all(isinstance(number, int) for number in numbers) or not isinstance(row.sha256, str):
        raise CatalogError(f"the catalog's entry of segment {row.number} is damaged")
    return row


def _odd(values: Sequence) -> object:
    """The value that SQLite cannot take."""
    for value in values:
        try:
            str(value).encode()
        except UnicodeEncodeError:
            return value
    return max((value for value in values if isinstance(value, int)), key=abs, default="")


class Catalog(Entries):
    """One connection to the catalog, either reading one fixed state or writing.

    Args:
        folder: of the index.

    Raises:
        CatalogError: there is no catalog, or it cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        # Threads share the statements of a connection, and one that still reads when another
        # closes it takes the process down.
        self._lock = threading.RLock()
        self._known_rows: dict[tuple, NDArray[np.int64]] = {}
        self._known: dict[Hashable, Any] = {}
        if not exists(self.path):
            raise CatalogError(f"{folder}: no index there (it has no {FILE})")
        self._connect()
        self.refresh()
        if self.meta("format") != str(FORMAT):
            raise CatalogError(
                f"{self.path}: format {self.meta('format')}, this version reads {FORMAT}"
            )

    def _connect(self) -> None:
        try:
            connection = connect(self.path)
        except (sqlite3.Error, OSError) as error:
            raise self._failed(error) from None
        self._db, self._copied = connection.db, connection.copied

    def reopen(self) -> None:
        """Let go of the connection of the process that this one was forked from."""
        keep_forever(self._db)
        # A thread that is not here may have held it.
        self._lock = threading.RLock()
        self._connect()
        self.refresh()

    @staticmethod
    def create(folder: Path, meta: dict[str, str]) -> None:
        """Create an empty catalog.

        Args:
            folder: of the index; it exists.
            meta: what is known of the index, by key.

        Raises:
            DelgError: it cannot be written.
        """
        with atomic_write(folder / FILE) as temporary:
            temporary.unlink(missing_ok=True)
            values = {"format": str(FORMAT), "generation": "0", **meta}
            try:
                with contextlib.closing(sqlite3.connect(temporary, isolation_level=None)) as db:
                    db.executescript(SCHEMA)
                    db.executemany("INSERT INTO meta VALUES (?, ?)", values.items())
                    db.execute("PRAGMA journal_mode = WAL")
            except sqlite3.Error as error:
                raise DelgError(f"{folder / FILE}: cannot be written: {error}") from None

    def _execute(self, query: str, values: Sequence = ()) -> sqlite3.Cursor:
        try:
            with self._lock:
                return self._db.execute(query, values)
        except sqlite3.Error as error:
            raise self._failed(error) from None

    def _rows(self, query: str, values: Sequence = ()) -> Iterator[tuple]:
        try:
            with self._lock:
                cursor = self._db.execute(query, values)
                rows = cursor.fetchmany(_ROWS_AT_ONCE)
            while rows:
                yield from rows
                with self._lock:
                    rows = cursor.fetchmany(_ROWS_AT_ONCE)
        except sqlite3.Error as error:
            raise self._failed(error) from None
        except (OverflowError, UnicodeEncodeError):
            raise UsageError(
                f"{self.path}: {_odd(values)!r} is not text in UTF-8 or too large"
            ) from None

    def _row(self, query: str, values: Sequence = ()) -> tuple | None:
        return next(self._rows(query, values), None)

    def _failed(self, error: Exception) -> CatalogError:
        if isinstance(error, sqlite3.ProgrammingError) and "closed" in str(error):
            return CatalogError(f"{self.path}: closed while it was read")
        if isinstance(error, sqlite3.DatabaseError) and _DAMAGED.search(str(error)):
            return CatalogError(
                f"{self.path}: not a readable catalog ({error}); restore it, or build a new index"
            )
        return CatalogError(
            f"{self.path}: cannot be read or written now ({error}); what it holds is kept: "
            "make room on the disk or mend the permissions, and try again"
        )

    def close(self) -> None:
        """Let go of the state that was being read; threads that still read get an error."""
        with self._lock:
            self._db.close()

    def refresh(self) -> None:
        """Move on to the newest committed state."""
        self._known_rows, self._known = {}, {}
        with self._lock:
            if self._copied is not None and self._copied != file_stamp(self.path):
                self._db.close()
                self._connect()
            if self._db.in_transaction:
                self._execute("ROLLBACK")
            self._begin()

    def _begin(self) -> None:
        """Read the newest state from now on."""
        self._execute("BEGIN")
        self._execute("SELECT count(*) FROM meta").fetchone()
        try:
            etag = ETAG if has_etags(self._db) else "NULL"
        except sqlite3.Error as error:
            raise self._failed(error) from None
        self._columns = f"{IMAGE_COLUMNS}, row, {etag}"
        self._counts: dict[str, int] = {}

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it happens or nothing; afterwards the new state is read."""
        self._known_rows, self._known = {}, {}
        with self._lock:
            self._execute("ROLLBACK")
            try:
                self._execute("BEGIN IMMEDIATE")
                yield self._db
                self._execute("COMMIT")
            except BaseException as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error) and not isinstance(
                    error, sqlite3.IntegrityError
                ):
                    raise self._failed(error) from None
                raise
            finally:
                self._begin()

    def meta(self, key: str) -> str:
        """What is known of the index under that key; empty if nothing is.

        Raises:
            CatalogError: it is no text.
        """
        row = self._row("SELECT value FROM meta WHERE key = ?", (key,))
        value = row[0] if row else ""
        if not isinstance(value, str):
            raise CatalogError(f"{self.path}: {key} is damaged ({value!r:.40})")
        return value

    def set_meta(self, key: str, value: str) -> None:
        """Record what is known of the index under that key."""
        with self.write() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    @property
    def generation(self) -> int:
        """Counts changes of what can be searched; equal numbers mean the same rows."""
        return self.meta_number("generation")

    def segments(self) -> list[SegmentRow]:
        """All segments, oldest first."""
        query = "SELECT number, images, bytes, sha256 FROM segments ORDER BY number"
        return [_segment_row(row) for row in self._rows(query)]

    def segment(self, number: int) -> SegmentRow | None:
        """The segment of that number, if there is one."""
        query = "SELECT number, images, bytes, sha256 FROM segments WHERE number = ?"
        row = self._row(query, (number,))
        return _segment_row(row) if row else None

    def next_segment(self) -> int:
        """The number after the highest ever given."""
        row = self._row("SELECT seq FROM sqlite_sequence WHERE name = 'segments'")
        return (row[0] if row else 0) + 1

    def searchable(self) -> NDArray[np.int64]:
        """int64 (N, 3): row, segment and position of the images with features, by row."""
        query = "SELECT row, segment, position FROM images WHERE state = 'ok' ORDER BY row"
        return self._whole_numbers(self._rows(query), 3)

    def ids(self, rows: NDArray[np.int64]) -> list[str]:
        """The ids of the images under these row numbers, in their order."""
        columns = self._by_row("id", rows)
        return [columns[int(row)][0] for row in rows]

    def places(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64 (len(rows), 2): segment and position of the images under these row numbers."""
        columns = self._by_row("segment, position", rows)
        return self._whole_numbers((columns[int(row)] for row in rows), 2)

    def place(self, row: int) -> tuple[int, int]:
        """Segment and position of the image under that row number.

        Raises:
            KeyError: there is none.
        """
        values = self._row("SELECT segment, position FROM images WHERE row = ?", (row,))
        if values is None:
            raise KeyError(row)
        if not all(isinstance(value, int) for value in values):
            raise CatalogError(f"{self.path}: the place of image row {row} is damaged")
        return values[0], values[1]

    def _whole_numbers(self, places: Iterable[Sequence], columns: int) -> NDArray[np.int64]:
        """int64 (N, columns); SQLite takes any value in any column."""
        try:
            values = np.fromiter((value for place in places for value in place), np.int64)
        except (TypeError, ValueError, OverflowError) as error:
            raise CatalogError(f"{self.path}: the place of an image is damaged ({error})") from None
        return values.reshape(-1, columns)

    def _by_row(self, columns: str, rows: NDArray[np.int64]) -> dict[int, tuple]:
        """Row number -> columns; many rows close together by range, few by key."""
        query = f"SELECT row, {columns} FROM images WHERE row "
        values: dict[int, tuple] = {}
        if len(rows) and np.ptp(rows) < _RANGE_SCAN_GAP * len(rows):
            ends = int(rows.min()), int(rows.max())
            values.update((row[0], row[1:]) for row in self._rows(query + "BETWEEN ? AND ?", ends))
            return values
        for start in range(0, len(rows), _KEYS_AT_ONCE):
            keys = [int(row) for row in rows[start : start + _KEYS_AT_ONCE]]
            marks = f"IN ({', '.join('?' * len(keys))})"
            values.update((row[0], row[1:]) for row in self._rows(query + marks, keys))
        return values

    def count(self, state: str) -> int:
        """Images in that state."""
        if state not in self._counts:
            # By the index over segments, of which failed images have none.
            failed = "SELECT count(*) FROM images WHERE segment IS NULL"
            all_images = "SELECT count(*) FROM images"
            query = failed if state == "failed" else f"SELECT ({all_images}) - ({failed})"
            row = self._row(query)
            self._counts[state] = row[0] if row else 0
        return self._counts[state]

    def known_of_all(self, state: str) -> Iterator[tuple[int, str, str | None, str, int]]:
        """Row number, id, label, metadata in JSON, and width times height (0: not known) of all
        images in a state, by row number."""
        # Failed images are those without a segment, which the catalog finds by an index.
        where = "segment IS NULL" if state == "failed" else "state = 'ok'"
        query = (
            "SELECT row, id, label, metadata, coalesce(width * height, 0) FROM images "
            f"WHERE {where} ORDER BY row"
        )
        for row in self._rows(query):
            _, image_id, label, metadata, pixels = row
            texts = (image_id, metadata, "" if label is None else label)
            if not all(isinstance(text, str) for text in texts) or type(pixels) is not int:
                raise CatalogError(f"the catalog's entry of {str(image_id)[:200]} is damaged")
            yield row

    def remember(self, key: Hashable, compute: Callable[[], T]) -> T:
        """A value that takes long to compute, kept until another state is read."""
        known = self._known
        if key not in known:
            known[key] = compute()
        value: T = known[key]
        return value

    def by_rows(self, rows: Sequence[int]) -> list[ImageRow]:
        """The images with these row numbers, in their order; those that are gone are left out."""
        images: dict[int, ImageRow] = {}
        for start in range(0, len(rows), _KEYS_AT_ONCE):
            keys = [int(row) for row in rows[start : start + _KEYS_AT_ONCE]]
            marks = ", ".join("?" * len(keys))
            images |= {image.row: image for image in self.select(f"row IN ({marks})", keys)}
        return [images[row] for row in rows if row in images]

    def row_range(self) -> tuple[int, int]:
        """The lowest and the highest row number; 0 and 0 of an empty index."""
        row = self._row("SELECT min(row), max(row) FROM images")
        return (row[0] or 0, row[1] or 0) if row else (0, 0)

    def next_row(self) -> int:
        """The row number after the highest ever given."""
        row = self._row("SELECT seq FROM sqlite_sequence WHERE name = 'images'")
        return (row[0] if row else 0) + 1

    def all_meta(self) -> dict[str, str]:
        """All that is known of the index, by key."""
        return dict(self._rows("SELECT key, value FROM meta"))

    def by_id(self, image_id: str) -> ImageRow | None:
        """The image with that id, in whichever Unicode form either is written."""
        query = f"SELECT {self._columns} FROM images WHERE id = ?"
        rows = (self._row(query, (form,)) for form in name_forms(image_id))
        return next((_image_row(row) for row in rows if row), None)

    def ids_of_sizes(self, sizes: Collection[int]) -> list[str]:
        """Ids of the images whose files have one of these sizes, in bytes."""
        rows = self._rows("SELECT size, id FROM images ORDER BY id") if sizes else iter(())
        return [image_id for size, image_id in rows if size in sizes]

    def _has_table(self, name: str) -> bool:
        return self._row("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)) is not None

    def _names_authors(self) -> bool:
        rows = self._rows(f"SELECT name FROM pragma_table_info('{CHANGES}') WHERE name = 'by'")
        return next(iter(rows), None) is not None

    def trash(self, limit: int = -1, offset: int = 0) -> list[tuple[ImageRow, str]]:
        """The removed images and when each was removed, the last one first."""
        if not self._has_table(TRASH):
            return []
        query = (
            f"SELECT image, removed FROM {TRASH} ORDER BY removed DESC, row DESC LIMIT ? OFFSET ?"
        )
        return [(_trashed(row[0]), str(row[1])) for row in self._rows(query, (limit, offset))]

    def count_trash(self) -> int:
        """Number of removed images that can be restored."""
        row = self._row(f"SELECT count(*) FROM {TRASH}") if self._has_table(TRASH) else None
        return row[0] if row else 0

    def trashed(self, image_id: str) -> ImageRow | None:
        """The image of that id that was removed last, if it is in the trash."""
        if not self._has_table(TRASH):
            return None
        query = f"SELECT image FROM {TRASH} WHERE id = ? ORDER BY row DESC"
        rows = (self._row(query, (form,)) for form in name_forms(image_id))
        return next((_trashed(row[0]) for row in rows if row), None)

    def trash_segments(self) -> set[int]:
        """Numbers of the segments with features of removed images."""
        if not self._has_table(TRASH):
            return set()
        query = f"SELECT DISTINCT segment FROM {TRASH} WHERE segment IS NOT NULL"
        return {row[0] for row in self._rows(query)}

    def changes(self, limit: int = -1, offset: int = 0) -> list[Change]:
        """What people changed, the last change first."""
        if not self._has_table(CHANGES):
            return []
        return self._changes("ORDER BY number DESC LIMIT ? OFFSET ?", (limit, offset))

    def last_changes(self, ids: Collection[str]) -> dict[str, Change]:
        """The last change of each of these images, of those that the log has any of."""
        if not self._has_table(CHANGES):
            return {}
        of_them = f"SELECT max(number) FROM {CHANGES} WHERE id IN (SELECT value FROM json_each(?))"
        changes = self._changes(
            f"WHERE number IN ({of_them} GROUP BY id)", (json.dumps(list(ids)),)
        )
        return {change.id: change for change in changes}

    def _changes(self, which: str, values: Sequence[object]) -> list[Change]:
        by = "by" if self._names_authors() else "''"
        query = f"SELECT at, action, id, before, after, {by}, number FROM {CHANGES} {which}"
        try:
            return [
                Change(
                    str(at),
                    str(action),
                    str(image),
                    parse_json(before),
                    parse_json(after),
                    str(by or ""),
                    number,
                )
                for at, action, image, before, after, by, number in self._rows(query, values)
            ]
        except (ValueError, TypeError) as error:
            raise CatalogError(f"{self.path}: the log of changes is damaged ({error})") from None

    def written_ids(self) -> dict[int, str]:
        """Row number -> the id that its segment knows it by, of images that were renamed."""
        table = self._row("SELECT 1 FROM sqlite_master WHERE name = ?", (WRITTEN_IDS,))
        return dict(self._rows(f"SELECT row, id FROM {WRITTEN_IDS}")) if table else {}

    def by_ids(self, image_ids: Sequence[str]) -> list[ImageRow]:
        """The images with these ids, in their order.

        Raises:
            UsageError: an id is not in the index.
        """
        images = [(image_id, self.by_id(image_id)) for image_id in image_ids]
        unknown = [image_id for image_id, image in images if image is None]
        if unknown:
            raise UsageError(f"{self.path.parent}: has no image {', '.join(unknown[:5])}")
        return [image for _, image in images if image is not None]

    def by_row(self, row: int) -> ImageRow:
        """The image with that row number.

        Raises:
            KeyError: there is none.
        """
        values = self._row(f"SELECT {self._columns} FROM images WHERE row = ?", (row,))
        if values is None:
            raise KeyError(row)
        return _image_row(values)

    def images(self, state: str | None = None) -> Iterator[ImageRow]:
        """All images, or those in one state, by id."""
        where, values = ("WHERE state = ?", (state,)) if state else ("", ())
        query = f"SELECT {self._columns} FROM images {where} ORDER BY id"
        for row in self._rows(query, values):
            yield _image_row(row)

    def in_segments(self, numbers: Collection[int]) -> list[ImageRow]:
        """The images whose features lie in these segments, by row number."""
        marks = ", ".join("?" * len(numbers))
        images = self.select(f"segment IN ({marks})", list(numbers))
        return sorted(images, key=lambda image: image.row)

    def select(
        self,
        where: str,
        values: Sequence = (),
        limit: int = -1,
        offset: int = 0,
        order: str = "id",
    ) -> list[ImageRow]:
        """The images that fulfil an SQL condition over the table ``images``, by id.

        Args:
            where: the condition; ``values`` are for its question marks.
            limit: at most this many, or all with -1, after the first ``offset``.
            order: SQL terms to order by instead.
        """
        query = (
            f"SELECT {self._columns} FROM images WHERE {where} ORDER BY {order} LIMIT ? OFFSET ?"
        )
        return [_image_row(row) for row in self._rows(query, (*values, limit, offset))]

    def rows(self, where: str, values: Sequence[str] = ()) -> NDArray[np.int64]:
        """The row numbers, ascending, of the images that fulfil an SQL condition over the table
        ``images``; kept until the state changes."""
        key = where, *values
        known = self._known_rows
        if key not in known:
            query = f"SELECT row FROM images WHERE {where} ORDER BY row"
            rows = np.fromiter((row[0] for row in self._rows(query, values)), np.int64)
            if len(known) >= _KNOWN_CONDITIONS:
                known.pop(next(iter(known)), None)
            known[key] = rows
            return rows
        return known[key]

    def count_values(
        self, what: str, values: Sequence = (), limit: int = -1
    ) -> list[tuple[str, int]]:
        """Count rows by their first column, the most frequent first.

        Args:
            what: "EXPRESSION AS value FROM …", a part of an SQL query; nulls do not count.
            values: for its question marks.
            limit: at most this many are returned, or all with -1.
        """
        query = (
            f"SELECT value, count(*) AS number FROM (SELECT {what}) WHERE value IS NOT NULL "
            "GROUP BY value ORDER BY number DESC, value LIMIT ?"
        )
        return list(self._rows(query, (*values, limit)))

    def integrity(self) -> str:
        """The verdict of SQLite itself: "ok", or what is damaged."""
        try:
            with self._lock:
                return self._db.execute("PRAGMA integrity_check").fetchone()[0]
        except sqlite3.Error as error:
            return str(error)

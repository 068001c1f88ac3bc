"""The tables of the catalog: their schema, their rows as values, and the statements that change
them, for use inside :meth:`index.storage.catalog.Catalog.write`."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from delg.paths import name_forms

SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE segments (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    images INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    sha256 TEXT NOT NULL
);
CREATE TABLE images (
    row INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    path TEXT NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('ok', 'failed')),
    reason TEXT,
    width INTEGER,
    height INTEGER,
    label TEXT,
    metadata TEXT NOT NULL DEFAULT '{}',
    segment INTEGER REFERENCES segments (number),
    position INTEGER,
    CHECK ((state = 'ok') = (segment IS NOT NULL AND position IS NOT NULL)),
    UNIQUE (segment, position)
);
"""
# Ids that segments know renamed images by; absent until the first is renamed.
WRITTEN_IDS = "written_ids"
# The column of the tags of files behind URLs; absent until the first is added.
ETAG = "etag"
# Of an image, without its row number and tag.
IMAGE_COLUMNS = (
    "id, path, size, mtime_ns, sha256, state, reason, width, height, label, metadata, "
    "segment, position"
)


@dataclass(frozen=True)
class ImageRow:
    """One image as the catalog knows it.

    Attributes:
        id, path: its key, and where its file lies; the path is empty for imported features.
        size, mtime_ns, sha256: of the file: bytes, modification time, hexadecimal digest.
        state: "ok", or "failed" with a ``reason``.
        width, height: pixels of the upright photo.
        label, metadata: see :class:`index.labels.Label`.
        segment, position: where its features lie; None for failed images.
        row: number inside the index; never reused, so a replaced photo gets a new one.
        etag: tag of a file behind a URL, which changes with its content; empty for others.
    """

    id: str
    path: str
    size: int
    mtime_ns: int
    sha256: str
    state: str = "ok"
    reason: str | None = None
    width: int | None = None
    height: int | None = None
    label: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    segment: int | None = None
    position: int | None = None
    row: int = 0
    etag: str = ""

    @property
    def content(self) -> str:
        """What tells its content: the SHA-256 of its file, or, without a file, its id."""
        return self.sha256 or f"id:{self.id}"

    @property
    def pixels(self) -> int:
        """Number of its pixels; 0 where that is not known."""
        return (self.width or 0) * (self.height or 0)

    def values(self) -> tuple[object, ...]:
        """In the order of ``IMAGE_COLUMNS``."""
        return (
            self.id, self.path, self.size, self.mtime_ns, self.sha256, self.state, self.reason,
            self.width, self.height, self.label, _json(self.metadata), self.segment, self.position,
        )  # fmt: skip


@dataclass(frozen=True)
class SegmentRow:
    """One segment file.

    Attributes:
        number: never reused.
        images: photos written into it; removed ones count until a compaction.
        bytes, sha256: of the file.
    """

    number: int
    images: int
    bytes: int
    sha256: str


def _json(metadata: dict[str, str]) -> str:
    return json.dumps(metadata, ensure_ascii=False)


def insert_segment(db: sqlite3.Connection, segment: SegmentRow) -> None:
    """Record a segment file."""
    db.execute(
        "INSERT INTO segments VALUES (?, ?, ?, ?)",
        (segment.number, segment.images, segment.bytes, segment.sha256),
    )


def delete_segments(db: sqlite3.Connection, numbers: Iterable[int]) -> None:
    """Forget segment files that no image refers to any more."""
    db.executemany("DELETE FROM segments WHERE number = ?", [(number,) for number in numbers])


def delete_empty_segments(db: sqlite3.Connection, numbers: Iterable[int]) -> None:
    """Forget those of the segments that no image refers to."""
    db.executemany(
        "DELETE FROM segments WHERE number = ?1 "
        "AND NOT EXISTS (SELECT 1 FROM images WHERE segment = ?1)",
        [(number,) for number in numbers],
    )


def put_images(
    db: sqlite3.Connection, images: Iterable[ImageRow], rows: Mapping[str, int] | None = None
) -> None:
    """Insert images, replacing those of the same id under new row numbers.

    Args:
        rows: by id, row numbers that are free; without one, an image gets the next.
    """
    marks, rows = ", ".join("?" * len(IMAGE_COLUMNS.split(","))), rows or {}
    for image in images:
        for image_id in name_forms(image.id):
            db.execute("DELETE FROM images WHERE id = ?", (image_id,))
        db.execute(
            f"INSERT INTO images ({IMAGE_COLUMNS}, row) VALUES ({marks}, ?)",
            (*image.values(), rows.get(image.id)),
        )
        if image.etag:
            _put_etag(db, image.etag, "id = ?", image.id)
    count_change(db)


def has_etags(db: sqlite3.Connection) -> bool:
    """Whether there is a column of tags."""
    query = "SELECT 1 FROM pragma_table_info('images') WHERE name = ?"
    return db.execute(query, (ETAG,)).fetchone() is not None


def _put_etag(db: sqlite3.Connection, etag: str, where: str, key: object) -> None:
    if not has_etags(db):
        db.execute(f"ALTER TABLE images ADD COLUMN {ETAG} TEXT")
    db.execute(f"UPDATE images SET {ETAG} = ? WHERE {where}", (etag, key))


def update_images(db: sqlite3.Connection, images: Iterable[ImageRow]) -> None:
    """Record new paths, modification times, labels and metadata; what can be searched stays."""
    images = list(images)
    db.executemany(
        "UPDATE images SET path = ?, mtime_ns = ?, label = ?, metadata = ? WHERE row = ?",
        [
            (image.path, image.mtime_ns, image.label, _json(image.metadata), image.row)
            for image in images
        ],
    )
    if has_etags(db) or any(image.etag for image in images):
        for image in images:
            _put_etag(db, image.etag, "row = ?", image.row)


def rename_images(db: sqlite3.Connection, renamed: Iterable[tuple[int, str]]) -> None:
    """Give images, by row number, other ids; what can be searched stays.

    Segments go on naming them by the ids they were written under, which are kept in a table of
    their own.
    """
    renamed = list(renamed)
    db.execute(f"CREATE TABLE IF NOT EXISTS {WRITTEN_IDS} (row INTEGER PRIMARY KEY, id TEXT)")
    rows = [(row,) for row, _ in renamed]
    db.executemany(
        f"INSERT OR IGNORE INTO {WRITTEN_IDS} SELECT row, id FROM images WHERE row = ?", rows
    )
    # Ids may be exchanged, so all are given up before any is taken.
    db.executemany("UPDATE images SET id = char(0) || row WHERE row = ?", rows)
    db.executemany("UPDATE images SET id = ?2 WHERE row = ?1", renamed)


def move_images(db: sqlite3.Connection, moves: Iterable[tuple[int, int, int]]) -> None:
    """Record where features lie now: segment, position and row number of each image."""
    moves = list(moves)
    db.executemany("UPDATE images SET segment = ?, position = ? WHERE row = ?", moves)
    # Their segments are written anew, under the present ids.
    if db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (WRITTEN_IDS,)).fetchone():
        rows = [(row,) for _, _, row in moves]
        db.executemany(f"DELETE FROM {WRITTEN_IDS} WHERE row = ?", rows)


def delete_images(db: sqlite3.Connection, ids: Iterable[str]) -> None:
    """Delete images by id; their features stay in the segments until a compaction."""
    db.executemany("DELETE FROM images WHERE id = ?", [(image_id,) for image_id in ids])
    count_change(db)


def count_change(db: sqlite3.Connection) -> None:
    """Record that what can be found, or how, has changed."""
    db.execute("UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE key = 'generation'")

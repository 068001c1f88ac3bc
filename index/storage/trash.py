"""Removed images until a compaction, and the log of changes that people made.

Both are tables of the catalog, absent until the first change. A removed image leaves the table of
images, so that nothing finds it, with its row number and its place in a segment, so that it can
come back as it was.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from delg.clock import utc_now
from index.storage.catalog_tables import IMAGE_COLUMNS, ImageRow, count_change, update_images

TRASH, CHANGES = "trash", "changes"
# Changes that are kept, the newest.
MAX_CHANGES = 100_000
Action = Literal["add", "edit", "remove", "restore"]
_TRASH_SCHEMA = (
    f"CREATE TABLE IF NOT EXISTS {TRASH} (row INTEGER PRIMARY KEY, id TEXT NOT NULL,"
    " segment INTEGER, removed TEXT NOT NULL, image TEXT NOT NULL)"
)
_CHANGES_SCHEMA = (
    f"CREATE TABLE IF NOT EXISTS {CHANGES} (number INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT,"
    " action TEXT, id TEXT, before TEXT, after TEXT, by TEXT)"
)


@dataclass(frozen=True)
class Change:
    """A change that somebody made.

    Attributes:
        at: when, in UTC (ISO 8601).
        action: "add", "edit", "remove" or "restore".
        id: of the image.
        before, after: its ``label`` and ``metadata``; empty where it was not there.
        by: who made it: a user of the machine, or the address of a client; empty where it is not
            known.
        number: in the log, from 1; of two changes of an image the later one has the higher.
    """

    at: str
    action: str
    id: str
    before: dict[str, object]
    after: dict[str, object]
    by: str = ""
    number: int = 0


def trash_images(db: sqlite3.Connection, images: Sequence[ImageRow]) -> None:
    """Move images to the trash."""
    db.execute(_TRASH_SCHEMA)
    time = utc_now()
    db.executemany(
        f"INSERT OR REPLACE INTO {TRASH} VALUES (?, ?, ?, ?, ?)",
        [
            (image.row, image.id, image.segment, time, json.dumps(vars(image), ensure_ascii=False))
            for image in images
        ],
    )
    db.executemany("DELETE FROM images WHERE row = ?", [(image.row,) for image in images])
    count_change(db)


def restore_images(db: sqlite3.Connection, images: Sequence[ImageRow]) -> None:
    """Move images back from the trash, under their row numbers."""
    marks = ", ".join("?" * (1 + len(IMAGE_COLUMNS.split(","))))
    db.executemany(
        f"INSERT INTO images (row, {IMAGE_COLUMNS}) VALUES ({marks})",
        [(image.row, *image.values()) for image in images],
    )
    update_images(db, images)
    db.executemany(f"DELETE FROM {TRASH} WHERE row = ?", [(image.row,) for image in images])
    count_change(db)


def log_changes(
    db: sqlite3.Connection,
    action: Action,
    changes: Iterable[tuple[str, ImageRow | None, ImageRow | None]],
    by: str = "",
) -> None:
    """Log changes: the id of each image, how it was before and after, and who made them."""
    db.execute(_CHANGES_SCHEMA)
    if not names_authors(db):
        db.execute(f"ALTER TABLE {CHANGES} ADD COLUMN by TEXT")
    # The last change of an image is looked up.
    db.execute(f"CREATE INDEX IF NOT EXISTS {CHANGES}_by_id ON {CHANGES} (id, number)")
    time = utc_now()
    db.executemany(
        f"INSERT INTO {CHANGES} (at, action, id, before, after, by) VALUES (?, ?, ?, ?, ?, ?)",
        [
            (time, action, image, _json(before), _json(after), by)
            for image, before, after in changes
        ],
    )
    db.execute(
        f"DELETE FROM {CHANGES} WHERE number <= (SELECT max(number) FROM {CHANGES}) - ?",
        (MAX_CHANGES,),
    )


def names_authors(db: sqlite3.Connection) -> bool:
    """Whether the log says who made the changes; that of earlier versions does not."""
    columns = db.execute(f"SELECT name FROM pragma_table_info('{CHANGES}')")
    return "by" in {row[0] for row in columns}


def _json(image: ImageRow | None) -> str:
    known = {} if image is None else {"label": image.label, "metadata": image.metadata}
    return json.dumps(known, ensure_ascii=False)

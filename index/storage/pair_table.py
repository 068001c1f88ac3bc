"""The verified pairs of an index: which of its photos were compared, and which match.

They lie in a SQLite file in the folder of the index (:mod:`index.storage.side_database`). A photo
and its pairs are recorded in one transaction, so that a comparison that is killed goes on where it
was. Rows of the catalog are never reused; the content is recorded as well, for a catalog that was
restored from a copy.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from delg.errors import DelgError
from delg.paths import exists
from index.storage.side_database import transaction

FILE = "groups.sqlite"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS compared (row INTEGER PRIMARY KEY, content TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS pairs (
    low INTEGER NOT NULL,
    high INTEGER NOT NULL,
    log_odds REAL NOT NULL,
    PRIMARY KEY (low, high)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS pairs_by_high ON pairs (high);
"""
_HOW = "how"
_ADVICE = "; if it is damaged, delete it, and photos are compared again"


@dataclass(frozen=True)
class VerifiedPair:
    """Two photos of an index that are verified to show the same thing.

    Attributes:
        low, high: their row numbers.
        log_odds: natural log-odds that they do.
    """

    low: int
    high: int
    log_odds: float


class PairTable:
    """The verified pairs of an index.

    Args:
        folder: of the index.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE

    def _transaction(
        self, mode: Literal["ro", "rw", "rwc"]
    ) -> AbstractContextManager[sqlite3.Connection]:
        return transaction(self.path, _SCHEMA, mode, _ADVICE)

    def start(self, how: str) -> None:
        """Forget everything, if it was compared in another way.

        Args:
            how: a digest of what decides on a pair.
        """
        with self._transaction("rwc") as db:
            if db.execute("SELECT 1 FROM meta WHERE key = ? AND value = ?", (_HOW, how)).fetchone():
                return
            for table in ("compared", "pairs", "meta"):
                db.execute(f"DELETE FROM {table}")
            db.execute("INSERT INTO meta VALUES (?, ?)", (_HOW, how))

    def is_of(self, how: str) -> bool:
        """Whether photos were compared in this way; see :meth:`start`."""
        if not exists(self.path):
            return False
        with self._transaction("ro") as db:
            row = db.execute("SELECT 1 FROM meta WHERE key = ? AND value = ?", (_HOW, how))
            return row.fetchone() is not None

    def clear(self) -> None:
        """Forget everything."""
        if exists(self.path):
            self.start("")

    def compared(self) -> dict[int, str]:
        """Row number of each photo that was compared -> its content."""
        with self._transaction("ro") as db:
            rows = db.execute("SELECT row, content FROM compared").fetchall()
        return {int(row): str(text) for row, text in rows}

    def pairs(self) -> list[VerifiedPair]:
        """All pairs, by row numbers.

        Raises:
            DelgError: the file is damaged.
        """
        with self._transaction("ro") as db:
            rows = db.execute("SELECT low, high, log_odds FROM pairs ORDER BY low, high").fetchall()
        try:
            pairs = [VerifiedPair(int(low), int(high), float(value)) for low, high, value in rows]
        except (TypeError, ValueError):
            pairs = [VerifiedPair(0, 0, math.nan)]
        if any(math.isnan(pair.log_odds) for pair in pairs):
            raise DelgError(f"{self.path}: holds no pairs{_ADVICE}")
        return pairs

    def forget(self, rows: Iterable[int]) -> None:
        """Forget photos and their pairs."""
        keys = [(row,) for row in rows]
        with self._transaction("rw") as db:
            for statement in (
                "DELETE FROM compared WHERE row = ?",
                "DELETE FROM pairs WHERE low = ?",
                "DELETE FROM pairs WHERE high = ?",
            ):
                db.executemany(statement, keys)

    def put(self, photos: Mapping[int, str], pairs: Iterable[VerifiedPair]) -> None:
        """Record photos that were compared, by row number with their content, and their pairs."""
        with self._transaction("rw") as db:
            db.executemany("INSERT OR REPLACE INTO compared VALUES (?, ?)", photos.items())
            db.executemany(
                "INSERT OR REPLACE INTO pairs VALUES (?, ?, ?)",
                [(pair.low, pair.high, pair.log_odds) for pair in pairs],
            )

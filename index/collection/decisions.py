"""Decisions of people on duplicates and pairs that were listed, so that nobody decides twice.

They lie in a SQLite file in the folder of the index (:mod:`index.storage.side_database`). Photos
are known by their content, the SHA-256 of their file, so that decisions outlive new names.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal, cast, get_args

from delg.clock import utc_now
from delg.errors import DelgError
from delg.paths import exists
from index.storage.side_database import transaction

FILE = "decisions.sqlite"
PairVerdict = Literal["accepted", "rejected"]
PAIR_VERDICTS: tuple[PairVerdict, ...] = get_args(PairVerdict)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS ignored (members TEXT PRIMARY KEY, at TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pairs (
    low TEXT NOT NULL,
    high TEXT NOT NULL,
    verdict TEXT NOT NULL CHECK (verdict IN ('accepted', 'rejected')),
    at TEXT NOT NULL,
    PRIMARY KEY (low, high)
) WITHOUT ROWID;
"""
# Id and content of a photo. Copies of one file are told apart by their ids.
Photo = tuple[str, str]


class Decisions:
    """The decisions on the photos of an index.

    Args:
        folder: of the index.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE

    def ignore(self, photos: Iterable[Photo]) -> None:
        """Remember that these photos are no duplicates to deal with."""
        members = json.dumps(sorted(set(photos)))
        with self._transaction("rwc") as db:
            db.execute("INSERT OR REPLACE INTO ignored VALUES (?, ?)", (members, utc_now()))

    def ignored(self) -> list[frozenset[Photo]]:
        """Groups of photos that are ignored.

        Raises:
            DelgError: the file is damaged.
        """
        if not exists(self.path):
            return []
        with self._transaction("ro") as db:
            rows = db.execute("SELECT members FROM ignored").fetchall()
        try:
            return [frozenset((str(a), str(b)) for a, b in json.loads(row[0])) for row in rows]
        except (TypeError, ValueError):
            raise DelgError(f"{self.path}: damaged; restore it, or delete it") from None

    def heed_again(self, image_id: str) -> int:
        """No longer ignore the groups with a photo.

        Returns:
            Their number.
        """
        groups = [group for group in self.ignored() if any(image_id == each for each, _ in group)]
        if groups:
            with self._transaction("rw") as db:
                keys = [(json.dumps(sorted(group)),) for group in groups]
                db.executemany("DELETE FROM ignored WHERE members = ?", keys)
        return len(groups)

    def decide(self, decided: Iterable[tuple[str, str, PairVerdict | None]]) -> None:
        """Remember what was decided on pairs of contents, all of it or nothing; None: forget it."""
        with self._transaction("rwc") as db:
            for a, b, verdict in decided:
                low, high = sorted((a, b))
                if verdict is None:
                    db.execute("DELETE FROM pairs WHERE low = ? AND high = ?", (low, high))
                else:
                    row = (low, high, verdict, utc_now())
                    db.execute("INSERT OR REPLACE INTO pairs VALUES (?, ?, ?, ?)", row)

    def on_pairs(self) -> dict[tuple[str, str], PairVerdict]:
        """What was decided, by the contents of both photos in their order as texts."""
        if not exists(self.path):
            return {}
        with self._transaction("ro") as db:
            rows = db.execute("SELECT low, high, verdict FROM pairs").fetchall()
        return {
            (str(low), str(high)): cast(PairVerdict, verdict)
            for low, high, verdict in rows
            if verdict in PAIR_VERDICTS
        }

    def _transaction(
        self, mode: Literal["ro", "rw", "rwc"]
    ) -> AbstractContextManager[sqlite3.Connection]:
        return transaction(self.path, _SCHEMA, mode)

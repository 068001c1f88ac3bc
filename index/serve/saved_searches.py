"""Saved searches: a query, its photo and its results under an address, until they expire.

One SQLite file, by default inside the index's folder. A search is written with its photos in one
transaction, so that a kill loses nothing that was saved. What is kept is bounded by the number of
searches, by their bytes and by their age.
"""

from __future__ import annotations

import json
import logging
import secrets
import sqlite3
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from delg.errors import DelgError
from delg.paths import exists
from delg.plain_values import parse_json
from index.results import QueryResult
from index.serve.saved_results import as_values, read_result
from index.serve.saved_search import FurtherPhoto, SavedSearch
from index.serve.uploads import NotFoundError
from index.storage.side_database import transaction

log = logging.getLogger(__name__)
FILE = "saved_searches.sqlite"
MAX_TITLE = 200
_FORMAT = 1
_DAY = 24 * 3600
_ID_BYTES = 9
# A result of a thousand hits with all their points has about this many bytes.
_MAX_RESULT_BYTES = 256 << 20
# What is deleted is overwritten, as a photo may be private.
_SCHEMA = f"""
PRAGMA secure_delete = ON;
PRAGMA auto_vacuum = FULL;
PRAGMA user_version = {_FORMAT};
CREATE TABLE IF NOT EXISTS searches (
    id TEXT PRIMARY KEY,
    title TEXT NOT NULL,
    created REAL NOT NULL,
    query TEXT NOT NULL,
    params TEXT NOT NULL,
    hits INTEGER NOT NULL,
    verified INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    photo BLOB,
    result BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS further (
    search TEXT NOT NULL,
    number INTEGER NOT NULL,
    sign TEXT NOT NULL,
    name TEXT NOT NULL,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    photo BLOB NOT NULL,
    PRIMARY KEY (search, number)
);
CREATE TRIGGER IF NOT EXISTS delete_further AFTER DELETE ON searches
BEGIN DELETE FROM further WHERE search = old.id; END;
"""
_COLUMNS = "id, title, created, query, params, hits, verified, bytes"


class FullError(DelgError):
    """There is no room for another search."""


@dataclass(frozen=True)
class Limits:
    """What is kept.

    Attributes:
        searches: their number; 0 saves none.
        bytes: of all together.
        days: age at which they are deleted; None: never.
    """

    searches: int
    bytes: int
    days: float | None


class SavedSearches:
    """The saved searches of a server.

    Args:
        path: of the SQLite file; created with the first search.
        limits: on what is kept.
    """

    def __init__(self, path: Path, limits: Limits) -> None:
        self._path, self.limits = path, limits

    def save(
        self,
        title: str,
        query: str,
        params: dict[str, str],
        photo: bytes,
        result: QueryResult,
        further: Sequence[tuple[FurtherPhoto, bytes]] = (),
    ) -> SavedSearch:
        """Keep a search.

        Args:
            title: empty: the name of the query.
            photo: the bytes of the upload; empty if an indexed image was searched with.
            further: the other uploads, each with its bytes.

        Raises:
            FullError: there is no room.
            DelgError: it cannot be written.
        """
        packed = zlib.compress(json.dumps(as_values(result)).encode())
        title = _as_title(title, query)
        search = SavedSearch(
            # In hex: one that began with a hyphen would be an option to the command.
            secrets.token_hex(_ID_BYTES), title, time.time(), query, params, len(result),
            sum(hit.verified for hit in result),
            len(packed) + len(photo) + sum(len(data) for _, data in further),
            tuple(each for each, _ in further),
        )  # fmt: skip
        with self._writing() as db:
            self._delete_expired(db)
            number, size = db.execute("SELECT count(*), total(bytes) FROM searches").fetchone()
            if number >= self.limits.searches or size + search.bytes > self.limits.bytes:
                raise FullError(
                    f"there is no room for another saved search ({number} take "
                    f"{size / (1 << 20):.0f} MiB): delete some first"
                )
            db.execute(
                "INSERT INTO searches VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    search.id, search.title, search.created, search.query, json.dumps(params),
                    search.hits, search.verified, search.bytes, photo or None, packed,
                ),
            )  # fmt: skip
            db.executemany(
                "INSERT INTO further VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (search.id, number, *vars(each).values(), data)
                    for number, (each, data) in enumerate(further, 1)
                ],
            )
        return search

    def list(self, limit: int, offset: int = 0) -> tuple[list[SavedSearch], int]:
        """Searches, the newest first, and the number of all."""
        with self._reading() as db:
            if db is None:
                return [], 0
            since = (self._oldest(),)
            rows = db.execute(
                f"SELECT {_COLUMNS} FROM searches WHERE created >= ? "
                "ORDER BY created DESC, id LIMIT ? OFFSET ?",
                (*since, limit, offset),
            ).fetchall()
            count = db.execute("SELECT count(*) FROM searches WHERE created >= ?", since)
            return [_search(db, row) for row in rows], count.fetchone()[0]

    def get(self, search_id: str) -> SavedSearch:
        """A search.

        Raises:
            NotFoundError: there is none of that id, or it has expired.
        """
        with self._row(_COLUMNS, search_id) as (db, row):
            return _search(db, row)

    def photo(self, search_id: str, number: int = 0) -> bytes:
        """The bytes of an upload; empty if an indexed image was searched with.

        Args:
            number: 0: the photo that was searched with; from 1: those of ``further``.

        Raises:
            NotFoundError: there is no such search or photo.
        """
        with self._row("photo", search_id) as (db, row):
            if number == 0:
                return row[0] or b""
            photo = "SELECT photo FROM further WHERE search = ? AND number = ?"
            further = _has_further(db) and db.execute(photo, (search_id, number)).fetchone()
        if not further:
            raise NotFoundError("this search has no such photo")
        return bytes(further[0])

    def result(self, search_id: str) -> QueryResult:
        """The results as they were when it was saved."""
        with self._row("result", search_id) as (_, row):
            packed = row[0]
        try:
            unpacker = zlib.decompressobj()
            text = unpacker.decompress(packed, _MAX_RESULT_BYTES).decode()
            return read_result(parse_json(text))
        except (ValueError, TypeError, KeyError, zlib.error) as error:
            raise DelgError(
                f"{self._path}: search {search_id} is damaged ({error}); delete it"
            ) from None

    def rename(self, search_id: str, title: str) -> SavedSearch:
        """Give a search another title; an empty one is the name of its query.

        Raises:
            NotFoundError: there is none of that id.
        """
        search = self.get(search_id)
        title = _as_title(title, search.query)
        with self._writing() as db:
            db.execute("UPDATE searches SET title = ? WHERE id = ?", (title, search_id))
        return replace(search, title=title)

    def delete(self, search_id: str) -> None:
        """Delete a search and its photo.

        Raises:
            NotFoundError: there is none of that id.
        """
        self.get(search_id)
        with self._writing() as db:
            db.execute("DELETE FROM searches WHERE id = ?", (search_id,))

    def expires(self, search: SavedSearch) -> float | None:
        """When it will be deleted, in seconds since 1970; None: never."""
        return None if self.limits.days is None else search.created + self.limits.days * _DAY

    def delete_expired(self) -> None:
        """Delete the searches whose time is up, and their photos."""
        if self.limits.days is None or not exists(self._path):
            return
        try:
            with self._writing() as db:
                self._delete_expired(db)
        except DelgError as error:
            log.warning("expired searches are kept: %s", error)

    def _delete_expired(self, db: sqlite3.Connection) -> None:
        db.execute("DELETE FROM searches WHERE created < ?", (self._oldest(),))

    def _oldest(self) -> float:
        return 0.0 if self.limits.days is None else time.time() - self.limits.days * _DAY

    @contextmanager
    def _row(self, columns: str, search_id: str) -> Iterator[tuple[sqlite3.Connection, tuple]]:
        """Values of a search, and a connection to read more of it."""
        with self._reading() as db:
            query = f"SELECT {columns} FROM searches WHERE id = ? AND created >= ?"
            is_id = search_id.isascii() and "\0" not in search_id
            row = db and is_id and db.execute(query, (search_id, self._oldest())).fetchone()
            if not db or not row:
                raise NotFoundError("there is no such saved search; it may have expired")
            yield db, row

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        """A connection; None if nothing was ever saved."""
        if not exists(self._path):
            yield None
            return
        with transaction(self._path, _SCHEMA, "ro", newest_version=_FORMAT) as db:
            yield db

    def _writing(self) -> AbstractContextManager[sqlite3.Connection]:
        """One transaction."""
        return transaction(self._path, _SCHEMA, "rwc", newest_version=_FORMAT)


def _as_title(title: str, query: str) -> str:
    return " ".join(title.split())[:MAX_TITLE] or query[:MAX_TITLE]


def _search(db: sqlite3.Connection, row: tuple) -> SavedSearch:
    values = dict(zip(_COLUMNS.split(", "), row, strict=True))
    columns = "SELECT sign, name, width, height FROM further WHERE search = ? ORDER BY number"
    rows = db.execute(columns, (values["id"],)) if _has_further(db) else ()
    further = tuple(FurtherPhoto(*each) for each in rows)
    return SavedSearch(**{**values, "params": parse_json(values["params"]), "further": further})


def _has_further(db: sqlite3.Connection) -> bool:
    """Whether several uploads of a search can be in the file; not if an earlier version made it."""
    return bool(db.execute("SELECT 1 FROM sqlite_master WHERE name = 'further'").fetchone())

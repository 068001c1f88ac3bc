"""The catalog's file as it is read and written: one fixed state at a time.

Readers hold a read transaction for as long as they live, so they see one state however much
another process adds meanwhile (write-ahead logging keeps the old pages for them).
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from delg.errors import DelgError, UsageError
from delg.files import atomic_write
from delg.forks import keep_forever
from delg.paths import exists
from index.storage.catalog_connection import connect, file_stamp
from index.storage.catalog_rows import CatalogError
from index.storage.catalog_tables import SCHEMA
from index.storage.index_record import Entries

T = TypeVar("T")
FILE = "catalog.sqlite"
FORMAT = 1

# Rows that a thread fetches before another has its turn.
_ROWS_AT_ONCE = 1000
# SQLite's messages where the file itself is damaged, or none of ours.
_DAMAGED = re.compile("malformed|not a database|no such (table|column)|unsupported file format")


class CatalogState(Entries):
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

    def execute(self, query: str, values: Sequence = ()) -> sqlite3.Cursor:
        """Run a statement of SQL.

        Raises:
            CatalogError: it cannot be run.
        """
        try:
            with self._lock:
                return self._db.execute(query, values)
        except sqlite3.Error as error:
            raise self._failed(error) from None

    def read_rows(self, query: str, values: Sequence = ()) -> Iterator[tuple]:
        """The rows of a query in SQL, read as they are needed.

        Args:
            values: for its question marks.

        Raises:
            CatalogError: they cannot be read.
            UsageError: SQLite cannot take a value.
        """
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

    def read_row(self, query: str, values: Sequence = ()) -> tuple | None:
        """The first of the rows of :meth:`read_rows`; None: there is none."""
        return next(self.read_rows(query, values), None)

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
        with self._lock:
            if self._copied is not None and self._copied != file_stamp(self.path):
                self._db.close()
                self._connect()
            if self._db.in_transaction:
                self.execute("ROLLBACK")
            self._begin()

    def _begin(self) -> None:
        """Read the newest state from now on."""
        self._known = {}
        self.execute("BEGIN")
        self.execute("SELECT count(*) FROM meta").fetchone()

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it happens or nothing; afterwards the new state is read."""
        self._known = {}
        with self._lock:
            self.execute("ROLLBACK")
            try:
                self.execute("BEGIN IMMEDIATE")
                yield self._db
                self.execute("COMMIT")
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

    def remember(self, key: Hashable, compute: Callable[[], T]) -> T:
        """A value that takes long to compute, kept until another state is read."""
        known = self._known
        if key not in known:
            known[key] = compute()
        value: T = known[key]
        return value

    def has_table(self, name: str) -> bool:
        """Whether the catalog has that table; some are made when first needed."""
        return self.read_row("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)) is not None

    def has_column(self, table: str, name: str) -> bool:
        """Whether the table has that column; catalogs of earlier versions lack some."""
        query = "SELECT 1 FROM pragma_table_info(?) WHERE name = ?"
        return self.read_row(query, (table, name)) is not None

    def meta(self, key: str) -> str:
        """What is known of the index under that key; empty if nothing is.

        Raises:
            CatalogError: it is no text.
        """
        row = self.read_row("SELECT value FROM meta WHERE key = ?", (key,))
        value = row[0] if row else ""
        if not isinstance(value, str):
            raise CatalogError(f"{self.path}: {key} is damaged ({value!r:.40})")
        return value

    def set_meta(self, key: str, value: str) -> None:
        """Record what is known of the index under that key."""
        with self.write() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def all_meta(self) -> dict[str, str]:
        """All that is known of the index, by key."""
        return dict(self.read_rows("SELECT key, value FROM meta"))

    @property
    def generation(self) -> int:
        """Counts changes of what can be searched; equal numbers mean the same rows."""
        return self.meta_number("generation")

    def integrity(self) -> str:
        """The verdict of SQLite itself: "ok", or what is damaged."""
        try:
            with self._lock:
                return self._db.execute("PRAGMA integrity_check").fetchone()[0]
        except sqlite3.Error as error:
            return str(error)


def _odd(values: Sequence) -> object:
    """The value that SQLite cannot take."""
    for value in values:
        try:
            str(value).encode()
        except UnicodeEncodeError:
            return value
    return max((value for value in values if isinstance(value, int)), key=abs, default="")

"""Connections to a catalog that may be changed meanwhile, also without permission to write.

SQLite keeps a reader's state by files of a log beside the database. A reader that may not create
them shares those of a writer while there is one; without them it reads a copy in memory, as
nothing would keep its pages from a writer that comes later.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from delg.paths import exists

_LOG, _LOG_INDEX = "-wal", "-shm"
# How often a copy is tried while writers come and go, and seconds between.
_ATTEMPTS, _PAUSE = 20, 0.05
# Inode, size and time of the database and of its log, None where there is none.
Stamp = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True)
class Connection:
    """A connection, and the state of the files that it reads a copy of; None: no copy."""

    db: sqlite3.Connection
    copied: Stamp | None = None


def connect(path: Path) -> Connection:
    """A connection to the database, to write if that is possible.

    Raises:
        sqlite3.Error, OSError: it cannot be read.
    """
    if os.access(path.parent, os.W_OK):
        with contextlib.suppress(sqlite3.OperationalError):
            return Connection(_open_file(path, "rw"))
        # A full disk has no room for the log's files.
    for _ in range(_ATTEMPTS):
        if all(exists(_beside(path, suffix)) for suffix in (_LOG, _LOG_INDEX)):
            with contextlib.suppress(sqlite3.OperationalError):
                return Connection(_open_file(path, "ro"))
        stamp = file_stamp(path)
        copy = _copy(path)
        if file_stamp(path) == stamp:
            return Connection(copy, stamp)
        # A writer came while it was copied.
        copy.close()
        time.sleep(_PAUSE)
    raise sqlite3.OperationalError("it changes too fast to be read without writing")


def file_stamp(path: Path) -> Stamp:
    """Differs after every change of a database that nobody has open."""
    stamps: list[tuple[int, int, int] | None] = []
    for file in (path, _beside(path, _LOG)):
        try:
            stat = file.stat()
            stamps.append((stat.st_ino, stat.st_size, stat.st_mtime_ns))
        except OSError:
            stamps.append(None)
    return tuple(stamps)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _copy(path: Path) -> sqlite3.Connection:
    """A connection to a copy of the present state, which cannot be written to."""
    log = _beside(path, _LOG)
    copy = _open(":memory:")
    with contextlib.ExitStack() as stack:
        if exists(log) and log.stat().st_size:
            # A killed writer left it; to be read, it needs a folder that can be written to.
            folder = Path(stack.enter_context(TemporaryDirectory()))
            for file in (path, log):
                shutil.copyfile(file, folder / file.name)
            source = _open_file(folder / path.name, "rw")
        else:
            source = _open_file(path, "ro&immutable=1")
        with contextlib.closing(source):
            source.backup(copy)
    copy.execute("PRAGMA query_only = ON")
    return copy


def _open_file(path: Path, mode: str) -> sqlite3.Connection:
    db = _open(f"{path.absolute().as_uri()}?mode={mode}")
    try:
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA foreign_keys = ON")
        # Only the first read opens the log.
        db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error:
        db.close()
        raise
    return db


def _open(uri: str) -> sqlite3.Connection:
    db = sqlite3.connect(uri, uri=True, timeout=30, isolation_level=None, check_same_thread=False)
    # A catalog from elsewhere may hold views and triggers; they may not call what has effects.
    db.execute("PRAGMA trusted_schema = OFF")
    return db

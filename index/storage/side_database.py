"""Small SQLite files in the folder of an index, apart from the catalog.

What they hold changes nothing that can be found, so nobody has to open the index anew, and they may
be written while another process adds photos.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from delg.errors import DelgError

_SECONDS = 30.0


@contextmanager
def transaction(
    path: Path,
    schema: str,
    mode: Literal["ro", "rw", "rwc"],
    advice: str = "",
    newest_version: int | None = None,
) -> Iterator[sqlite3.Connection]:
    """One transaction: all of it happens or nothing.

    Args:
        path: of the file.
        schema: SQL that makes the tables that are absent.
        mode: "ro" reads, "rw" changes a file that exists, "rwc" makes it if there is none.
        advice: what to do about a file that cannot be used.
        newest_version: the highest ``user_version`` of files that are understood; None: any.

    Raises:
        DelgError: it cannot be read or written, or a later version wrote it.
    """
    try:
        uri = f"{path.absolute().as_uri()}?mode={mode}"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=_SECONDS)) as db, db:
            db.execute("PRAGMA trusted_schema = OFF")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if newest_version is not None and version > newest_version:
                raise DelgError(f"{path}: written by a later version")
            if mode == "rwc":
                db.executescript(schema)
            if mode != "ro":
                db.execute("BEGIN IMMEDIATE")
            yield db
    except (sqlite3.Error, UnicodeEncodeError) as error:
        raise DelgError(f"{path}: cannot be read or written: {error}{advice}") from None

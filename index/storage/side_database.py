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
    path: Path, schema: str, mode: Literal["ro", "rw", "rwc"], advice: str = ""
) -> Iterator[sqlite3.Connection]:
    """One transaction: all of it happens or nothing.

    Args:
        path: of the file.
        schema: SQL that makes the tables that are absent.
        mode: "ro" reads, "rw" changes a file that exists, "rwc" makes it if there is none.
        advice: what to do about a file that cannot be used.

    Raises:
        DelgError: it cannot be read or written; the message names it.
    """
    try:
        uri = f"{path.absolute().as_uri()}?mode={mode}"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=_SECONDS)) as db, db:
            db.execute("PRAGMA trusted_schema = OFF")
            if mode == "rwc":
                db.executescript(schema)
            yield db
    except (sqlite3.Error, UnicodeEncodeError) as error:
        raise DelgError(f"{path}: cannot be read or written: {error}{advice}") from None

"""Marks: what people said of a query and a photo of the index, "the same thing" or "not the same".

They lie in a small SQLite file in the folder of the index, apart from the catalog: a mark changes
nothing that can be found, so nobody has to open the index anew, and may be written while another
process adds photos. Each is one transaction. A query is known by the SHA-256 of its file, whatever
its name; a photo of the index by its id.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from delg.clock import utc_now
from delg.errors import UsageError
from delg.files import file_sha256
from delg.images.decode import Source, read_bytes
from delg.paths import exists
from delg.remote_path import RemotePath
from delg.types import ImageFeatures
from index.results import QueryResult
from index.storage.catalog_tables import ImageRow
from index.storage.side_database import transaction

FILE = "marks.sqlite"
Verdict = Literal["same", "different"]
_SCHEMA = """
CREATE TABLE IF NOT EXISTS marks (
    query TEXT NOT NULL,
    image TEXT NOT NULL,
    verdict TEXT NOT NULL CHECK (verdict IN ('same', 'different')),
    name TEXT NOT NULL,
    at TEXT NOT NULL,
    PRIMARY KEY (query, image)
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Mark:
    """What was said of one pair.

    Attributes:
        query: key of the query, see :func:`query_key`.
        image: id of the photo of the index.
        verdict: "same" or "different".
        name: of the query, for people.
        at: when, in UTC (ISO 8601).
    """

    query: str
    image: str
    verdict: Verdict
    name: str
    at: str


def query_key(source: Source | ImageFeatures) -> str:
    """The key of a query: SHA-256, in hexadecimal, of its file or of its numbers; empty where it
    cannot be read twice."""
    if isinstance(source, (str, Path)):
        try:
            return file_sha256(source)
        except (OSError, ValueError):
            return ""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return hashlib.sha256(source).hexdigest()
    if isinstance(source, np.ndarray):
        pixels = np.ascontiguousarray(source)
        return hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).hexdigest()
    if isinstance(source, ImageFeatures):
        return hashlib.sha256(source.global_descriptor.tobytes()).hexdigest()
    return ""


def read_query(source: Source) -> tuple[Source, str]:
    """A query's bytes, if it is a file, so that it is read only once; and its key.

    Raises:
        ImageError: the file cannot be read.
    """
    if isinstance(source, (str, os.PathLike, RemotePath)):
        source = read_bytes(source)
    return source, query_key(source)


def apply_marks(result: QueryResult, key: str, marks: Mapping[str, Verdict]) -> QueryResult:
    """The result with what was said of its hits; its answer respects it.

    Args:
        key: of the query.
        marks: by id of the photo.
    """
    hits = tuple(replace(hit, mark=marks[hit.id]) if hit.id in marks else hit for hit in result)
    return replace(result, hits=hits, key=key)


def truth_csv(pairs: Iterable[tuple[str, str]]) -> str:
    """Queries and relevant photos as a CSV file."""
    text = io.StringIO()
    csv.writer(text).writerows([("query", "relevant"), *pairs])
    return text.getvalue()


class Marks:
    """The marks of an index.

    Args:
        folder: of the index.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE

    def put(self, query: str, image: str, verdict: Verdict, name: str = "") -> Mark:
        """Record what was said of a query and a photo; it replaces what was said before.

        Raises:
            DelgError: it cannot be written.
        """
        mark = Mark(query, image, verdict, name, utc_now())
        with self._connection("rwc") as db:
            values = (query, image, verdict, name, mark.at)
            db.execute("INSERT OR REPLACE INTO marks VALUES (?, ?, ?, ?, ?)", values)
        return mark

    def put_pairs(self, pairs: Iterable[tuple[ImageRow, ImageRow, Verdict | None]]) -> None:
        """Record what was said of pairs of photos of the index, all of it or nothing; None: forget
        it.

        Raises:
            UsageError: neither photo of a pair has a file that a mark could be for.
            DelgError: it cannot be written.
        """
        pairs = [(b, a, verdict) if not a.sha256 else (a, b, verdict) for a, b, verdict in pairs]
        for a, _, _ in pairs:
            if not a.sha256:
                raise UsageError(f"{a.id}: has no file that a mark could be for")
        now = utc_now()
        with self._connection("rwc") as db:
            for a, b, verdict in pairs:
                # Either may have been the query of an earlier mark.
                for query, image in ((a, b), (b, a)):
                    key = query.sha256, image.id
                    db.execute("DELETE FROM marks WHERE query = ? AND image = ?", key)
                if verdict is not None:
                    values = a.sha256, b.id, verdict, a.id, now
                    db.execute("INSERT INTO marks VALUES (?, ?, ?, ?, ?)", values)

    def delete(self, query: str, image: str) -> bool:
        """Forget what was said of a pair.

        Returns:
            Whether anything was.
        """
        if not exists(self.path):
            return False
        with self._connection("rw") as db:
            return db.execute(
                "DELETE FROM marks WHERE query = ? AND image = ?", (query, image)
            ).rowcount > 0  # fmt: skip

    def of(self, query: str) -> dict[str, Verdict]:
        """What was said of a query's hits, by id."""
        if not query or not exists(self.path):
            return {}
        with self._connection("ro") as db:
            return dict(db.execute("SELECT image, verdict FROM marks WHERE query = ?", (query,)))

    def __iter__(self) -> Iterator[Mark]:
        """All marks, by query, the first that was marked first."""
        if not exists(self.path):
            return
        with self._connection("ro") as db:
            rows = db.execute(
                "SELECT query, image, verdict, name, at FROM marks AS mark ORDER BY "
                "(SELECT min(at) FROM marks WHERE query = mark.query), query, at, image"
            ).fetchall()
        yield from (Mark(*row) for row in rows)

    def truth(self, names: Mapping[str, str] | None = None) -> list[tuple[str, str]]:
        """Query and relevant photo of each pair that is the same, as ``delg eval queries`` reads
        them; the photo is empty for a query of which only others were marked.

        Args:
            names: key of a query -> the name to give it; others are left out. None: the names they
                were marked by.
        """
        relevant: dict[str, list[str]] = {}
        for mark in self:
            name = mark.name if names is None else names.get(mark.query, "")
            if name:
                images = relevant.setdefault(name, [])
                images += [mark.image] if mark.verdict == "same" else []
        return [(name, image) for name, images in relevant.items() for image in images or [""]]

    def _connection(
        self, mode: Literal["ro", "rw", "rwc"]
    ) -> AbstractContextManager[sqlite3.Connection]:
        return transaction(self.path, _SCHEMA, mode)

"""Saved searches as files: CSV, one HTML page, and a ZIP archive of the hits."""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence

from index.answers.answer_table import escape
from index.results import QueryResult
from index.serve.saved_search import SavedSearch
from index.serve.thumbnails import Pixels
from index.serve.uploads import NotFoundError
from index.visualize.html_report import render_html_report

_COLUMNS = (
    "query", "rank", "id", "label", "probability", "verified", "inliers", "similarity", "path",
)  # fmt: skip


def export_csv(search: SavedSearch, result: QueryResult) -> bytes:
    """The hits, one per line, with their metadata; UTF-8 that spreadsheets recognise."""
    keys = sorted({key for hit in result for key in hit.metadata})
    rows = (
        (
            search.query, hit.rank, hit.id, hit.label or "", f"{hit.probability:.6f}",
            "yes" if hit.verified else "no", hit.inliers, f"{hit.similarity:.6f}", hit.path,
            *(hit.metadata.get(key, "") for key in keys),
        )
        for hit in result
    )  # fmt: skip
    return as_csv_text((*_COLUMNS, *keys), rows)


def as_csv_text(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """A table as a CSV file of which no text is run as a formula."""
    out = io.StringIO()
    writer = csv.writer(out)
    for row in (columns, *rows):
        writer.writerow(escape(value) if isinstance(value, str) else value for value in row)
    return out.getvalue().encode("utf-8-sig", "replace")


def export_html(search: SavedSearch, result: QueryResult, photos: Iterable[Pixels]) -> str:
    """One page with everything in it.

    Args:
        photos: what was searched with, see :attr:`SavedSearch.photos`.
    """
    return render_html_report([(search.query, list(photos), result)], search.title)


class _Chunks(io.RawIOBase):
    """What is written, to be taken away in pieces."""

    def __init__(self) -> None:
        self._parts = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self._parts += data
        return len(data)

    def take(self) -> bytes:
        """What has been written since the last call."""
        data = bytes(self._parts)
        self._parts.clear()
        return data


def export_zip(
    search: SavedSearch, result: QueryResult, jpeg: Callable[[str], bytes]
) -> Iterator[bytes]:
    """An archive of the hits as JPEGs, made while it is sent; and ``hits.csv``.

    Args:
        jpeg: the photo of an image by its id; it raises NotFoundError where there is none.
    """
    chunks = _Chunks()
    with zipfile.ZipFile(chunks, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("hits.csv", export_csv(search, result))
        for hit in result:
            try:
                data = jpeg(hit.id)
            except NotFoundError:
                continue
            archive.writestr(f"{hit.rank:04d} {file_name(hit.id)}.jpg", data)
            yield chunks.take()
    yield chunks.take()


def file_name(text: str) -> str:
    """A name for a file anywhere, of a text of any kind."""
    stem = re.sub(r"\.[A-Za-z]{2,5}$", "", text.rpartition("/")[2])
    return re.sub(r"[^A-Za-z0-9_. -]+", "-", stem).strip(" .-")[:80] or "photo"

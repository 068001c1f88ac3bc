"""Answers as a table: one row per query, for spreadsheets, which grows as queries are answered.

Text that a spreadsheet would take for a formula is preceded by an apostrophe, which
:func:`unescape` takes away again; numbers stay numbers. The file is UTF-8 with a byte order mark,
without which Excel guesses another encoding.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from delg.errors import DelgError, UsageError
from delg.files import write_bytes
from delg.plain_values import csv_reader
from index.results import QueryResult

COLUMNS = (
    "query", "answer", "label", "id", "probability", "verified", "inliers", "similarity", "path",
    "note", "error",
)  # fmt: skip
# Where a cell may begin: at the start, and after what other settings of a spreadsheet take for the
# end of a cell. What would be a formula there, but no plain number.
_FORMULA = (
    r"(?:^|(?<=[;\t\r\n]))%s(?='*[=+\-@\t\r\n＝＋－＠])(?!'*[+-]?\d+(?:[.,]\d+)?(?:[;\t\r\n]|\Z))"
)
_UNESCAPED, _ESCAPED = re.compile(_FORMULA % ""), re.compile(_FORMULA % "'")
_BOM = "\ufeff"

Row = dict[str, str]


def escape(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return _UNESCAPED.sub("'", text)


def unescape(cell: str) -> str:
    """The text that :func:`escape` was given."""
    return _ESCAPED.sub("", cell)


def columns_for(metadata: Iterable[str]) -> tuple[str, ...]:
    """The columns of a table, of which an index's metadata keys are the last."""
    return (*COLUMNS, *(_metadata_column(key) for key in metadata))


def answer_row(query: str, result: QueryResult) -> Row:
    """The answer to a query: of its best group, and of the best hit in that."""
    answer = result.answer()
    row = {"query": escape(query), "answer": answer.verdict, "note": "; ".join(result.notes)}
    row["probability"] = f"{answer.probability:.6f}"
    best = answer.best
    if best is None:
        return row
    hit = best.hits[0]
    metadata = {**hit.metadata, **best.metadata}
    return {
        **row,
        "label": escape(best.label or ""),
        "id": escape(hit.id),
        "verified": "yes" if best.verified else "no",
        "inliers": str(hit.inliers),
        "similarity": f"{hit.similarity:.6f}",
        "path": escape(hit.path),
        **{_metadata_column(key): escape(value) for key, value in metadata.items()},
    }


def failure_row(query: str, reason: str) -> Row:
    """A query that could not be answered."""
    return {"query": escape(query), "error": escape(reason)}


def _metadata_column(key: str) -> str:
    return f"metadata.{key}" if key in COLUMNS or escape(key) != key else key


def as_csv(columns: Sequence[str], rows: Iterable[Mapping[str, str]], header: bool = True) -> str:
    """Rows as CSV text; columns that a row lacks are empty.

    Args:
        header: begin with a byte order mark and the names of the columns.
    """
    text = io.StringIO()
    if header:
        text.write(_BOM)
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return _encodable(text.getvalue())


def read_table(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, Row]]:
    """Number of the last line and values of each row of a CSV file, as :func:`as_csv` writes them
    and spreadsheets save them, with what :func:`escape` added taken away.

    Args:
        columns: that there must be.

    Raises:
        UsageError: it cannot be read, or lacks a column.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv_reader(file, restval="")
            missing = set(columns) - set(reader.fieldnames or ())
            if missing:
                raise UsageError(f"{path}: no column called {' or '.join(sorted(missing))}")
            for row in reader:
                values = {key: unescape(row[key] or "") for key in columns}
                yield reader.line_num, values
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except (csv.Error, ValueError) as error:
        raise UsageError(f"{path}: not a UTF-8 CSV file: {error}") from None


def _encodable(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


class AnswerFile:
    """A CSV file of answers, which goes on where it was left.

    Args:
        path: of the file; rows of failed queries in it are dropped, to be tried again, and so is
            the last one if it was cut short.
        columns: see :func:`columns_for`.

    Attributes:
        answered: queries that the file answers already.

    Raises:
        UsageError: there is a file of something else.
        DelgError: it cannot be written.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path, self._columns = path, tuple(columns)
        kept = [row for row in self._read() if not row["error"]]
        self.answered = {unescape(row["query"]) for row in kept}
        write_bytes(path, as_csv(self._columns, kept).encode())

    def _read(self) -> Iterator[Row]:
        try:
            text = self.path.read_bytes().decode("utf-8-sig", "strict")
        except FileNotFoundError:
            return
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{self.path}: cannot be read as CSV: {error}") from None
        if not text:
            return
        try:
            reader = csv_reader(io.StringIO(text, newline=""))
            rows, header = list(reader), reader.fieldnames
        except (csv.Error, ValueError) as error:
            raise UsageError(f"{self.path}: not a CSV file: {error}") from None
        if tuple(header or ()) != self._columns:
            raise UsageError(
                f"{self.path}: has other columns than answers of this index; name another file, or "
                "delete it"
            )
        ends = text.endswith("\n")
        for number, row in enumerate(rows, 1):
            is_whole = None not in row and None not in row.values()
            if is_whole and (ends or number < len(rows)):
                yield row

    @contextmanager
    def writing(self) -> Iterator[AnswerFile]:
        """Keep the file open for rows."""
        try:
            with self.path.open("a", encoding="utf-8", newline="") as self._file:
                yield self
        except OSError as error:
            raise DelgError(f"{self.path}: cannot be written: {error.strerror}") from None

    def write(self, row: Row) -> None:
        """Append a row; it is in the file at once."""
        self._file.write(as_csv(self._columns, [row], header=False))
        self._file.flush()

"""Strict CSV: only known columns, and errors that name file and line."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from delg.errors import UsageError
from delg.paths import normal_form
from delg.plain_values import limited_lines

# GLDv2's files hold all images of a landmark in one field: more than the default of 128 KB.
csv.field_size_limit(1 << 26)


def read_rows(
    path: Path, columns: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[tuple[int, list[str]]]:
    """Read a CSV file with a header, columns in any order; empty lines are skipped. Names come in
    the Unicode form that ids have.

    Yields:
        The line number and the fields of ``columns``, then of ``optional`` ("" where the file has
        no such column).

    Raises:
        UsageError: the file cannot be read, lacks a column, has an unknown or repeated one, or a
            line with more or fewer fields.
    """
    line = 0
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(limited_lines(file), strict=True)
            header = next(reader, [])
            _check_header(path, header, columns, optional)
            positions = [
                header.index(name) if name in header else -1 for name in (*columns, *optional)
            ]
            for row in reader:
                line = reader.line_num
                if not row:
                    continue
                if len(row) != len(header):
                    raise UsageError(
                        f"{path}, line {line}: has more or fewer fields than the header"
                    )
                yield (
                    line,
                    [normal_form(row[place]) if place >= 0 else "" for place in positions],
                )
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except (csv.Error, ValueError) as error:
        raise UsageError(f"{path}, after line {line}: not a UTF-8 CSV file: {error}") from None


def _check_header(
    path: Path, header: Sequence[str], columns: Sequence[str], optional: Sequence[str]
) -> None:
    missing = [name for name in columns if name not in header]
    if missing:
        raise UsageError(f"{path}: no column called {' or '.join(missing)}")
    unknown = [name for name in header if name not in (*columns, *optional)]
    if unknown:
        raise UsageError(f"{path}: unknown column {unknown[0]!r}")
    if len(set(header)) < len(header):
        raise UsageError(f"{path}: a column appears twice")

"""Plain values in YAML, JSON and lines of text from elsewhere, within limits."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

import yaml

# Bytes of a file that people write; values in it, those that aliases repeat counted each time.
MAX_BYTES = 250_000
_MAX_VALUES = 100_000
# Bytes of a file that programs write, and characters of a line.
MAX_DATA_BYTES = 256_000_000
_MAX_LINE = 4_000_000


class PlainValuesError(ValueError):
    """Text that holds no plain values, or too many; the message says why."""


def read_text(path: str | Path, max_bytes: int = MAX_BYTES) -> str:
    """The text of a file in UTF-8, of which no more is read than a file of its kind has.

    Raises:
        PlainValuesError: it is larger, or not UTF-8.
        OSError: it cannot be read.
    """
    with Path(path).open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise PlainValuesError(f"has more than {max_bytes:,} bytes, which no such file needs")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PlainValuesError(f"not UTF-8 ({error})") from None


def limited_lines(file: TextIO) -> Iterator[str]:
    """The lines of a text file.

    Raises:
        PlainValuesError: one does not end.
    """
    while line := file.readline(_MAX_LINE):
        if len(line) == _MAX_LINE:
            raise PlainValuesError(f"has a line of more than {_MAX_LINE:,} characters")
        yield line


def csv_reader(file: TextIO, **options: Any) -> csv.DictReader[str]:
    """A reader of a CSV file as spreadsheets save it: its values are separated by commas,
    semicolons or tabs, whichever its header has most of.

    Args:
        options: of :class:`csv.DictReader`.

    Raises:
        PlainValuesError: a line does not end.
    """
    lines = limited_lines(file)
    header = next(lines, "")
    delimiter = max(",;\t", key=header.count)
    return csv.DictReader(chain([header], lines), delimiter=delimiter, **options)


def parse_yaml(text: str) -> Any:
    """The values in YAML.

    Raises:
        PlainValuesError: it is no YAML, too deep, or its aliases repeat too much.
    """
    try:
        values = yaml.safe_load(text)
        _count(values, _MAX_VALUES)
    except RecursionError:
        raise PlainValuesError("nested too deeply") from None
    except PlainValuesError:
        raise
    except Exception as error:  # Odd dates, numbers and keys make the parser raise all sorts.
        raise PlainValuesError(f"not valid YAML: {' '.join(str(error).split())}") from None
    return values


def parse_json(text: str | bytes) -> Any:
    """The values in JSON.

    Raises:
        PlainValuesError: it is no JSON, or too deep.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise PlainValuesError("nested too deeply") from None
    except ValueError as error:
        raise PlainValuesError(f"not JSON ({error})") from None


def _count(values: Any, most: int) -> int:
    """The number of values, each counted as often as it is met.

    Raises:
        PlainValuesError: there are more than ``most``.
    """
    count = 1
    parts = values if isinstance(values, (list, tuple, set)) else ()
    if isinstance(values, dict):
        parts = [*values.keys(), *values.values()]
    for part in parts:
        count += _count(part, most - count)
    if count > most:
        raise PlainValuesError("its aliases repeat too much")
    return count

"""Rows of the catalog as values, checked: SQLite takes any value in any column."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from delg.errors import DelgError
from delg.plain_values import parse_json
from index.storage.catalog_tables import ETAG, IMAGE_COLUMNS, ImageRow, SegmentRow


class CatalogError(DelgError):
    """The catalog is missing, damaged, or of another format."""


class UnknownRowError(CatalogError):
    """No image has that row number."""

    def __init__(self, path: Path, row: int) -> None:
        super().__init__(
            f"{path}: has no image row {row}; if global.faiss, words.h5 or regions.faiss beside it "
            "names that, delete these three, which are made anew"
        )


def parse_image(values: Sequence) -> ImageRow:
    """An image by its columns, ``IMAGE_COLUMNS``, its row number and its tag.

    Raises:
        CatalogError: a value is not of its column's type.
    """
    columns = dict(zip((*IMAGE_COLUMNS.split(", "), "row", ETAG), values, strict=True))
    columns[ETAG] = columns[ETAG] or ""
    try:
        columns["metadata"] = parse_json(columns["metadata"])
        _check_image(columns)
        return ImageRow(**columns)
    except (ValueError, TypeError) as error:
        shown = str(columns["id"])[:200]
        raise CatalogError(f"the catalog's entry of {shown} is damaged ({error})") from None


def parse_removed_image(text: str) -> ImageRow:
    """An image as the trash keeps it, in JSON.

    Raises:
        CatalogError: it is none.
    """
    try:
        columns = parse_json(text)
        _check_image(columns)
        return ImageRow(**columns)
    except (ValueError, TypeError, KeyError) as error:
        raise CatalogError(f"the trash's entry {text[:80]} is damaged ({error})") from None


def _check_image(columns: dict[str, Any]) -> None:
    """Whoever wrote the catalog may be a stranger.

    Raises:
        ValueError: a value is not of its column's type.
    """
    metadata = columns["metadata"]
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("metadata")
    is_ok = columns["state"] == "ok"
    for name, value in columns.items():
        # Features made elsewhere, and earlier versions, do not tell the size.
        optional = name in ("reason", "label", "width", "height")
        optional = optional or (name in ("segment", "position") and not is_ok)
        if name in ("size", "mtime_ns", "width", "height", "segment", "position", "row"):
            fits = isinstance(value, int) and (value >= 0 or name == "mtime_ns")
        else:
            fits = isinstance(value, dict if name == "metadata" else str)
        if not fits and not (optional and value is None):
            raise ValueError(name)


def parse_segment(values: Sequence) -> SegmentRow:
    """A segment by its columns.

    Raises:
        CatalogError: a value is not of its column's type.
    """
    row = SegmentRow(*values)
    numbers = (row.number, row.images, row.bytes)
    if not all(isinstance(number, int) for number in numbers) or not isinstance(row.sha256, str):
        raise CatalogError(f"the catalog's entry of segment {row.number} is damaged")
    return row

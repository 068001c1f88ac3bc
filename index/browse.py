"""Look through the images of an index: those that a filter lets pass, and what to filter by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from index.storage.catalog import Catalog
from index.storage.catalog_tables import ImageRow


@dataclass(frozen=True)
class Filter:
    """Which images are wanted; what is left empty does not matter.

    Attributes:
        state: "ok", or "failed" for those that could not be used.
        text: a part of the id, whatever its case.
        label: the label, exactly.
        key, value: of the metadata; a part of the value, whatever its case; without a value, any.
    """

    state: Literal["ok", "failed"] = "ok"
    text: str = ""
    label: str = ""
    key: str = ""
    value: str = ""

    def condition(self) -> tuple[str, list[str]]:
        """As SQL over the table ``images``, and the values of its question marks."""
        parts, values = ["state = ?"], [str(self.state)]
        if self.text:
            parts.append("instr(lower(id), lower(?))")
            values.append(self.text)
        if self.label:
            parts.append("label = ?")
            values.append(self.label)
        if self.key:
            parts.append(
                "EXISTS (SELECT 1 FROM json_each(metadata) "
                "WHERE key = ? AND instr(lower(value), lower(?)))"
            )
            values += [self.key, self.value]
        return " AND ".join(parts), values


@dataclass(frozen=True)
class Selection:
    """Some of the images that a filter lets pass, by id, and how many pass it in all."""

    images: Sequence[ImageRow]
    total: int


def browse(catalog: Catalog, wanted: Filter, limit: int, offset: int) -> Selection:
    """The images that pass, from ``offset`` on, at most ``limit``."""
    where, values = wanted.condition()
    counted = catalog.count_values(f"1 AS value FROM images WHERE {where}", values)
    return Selection(catalog.select(where, values, limit, offset), counted[0][1] if counted else 0)


def labels(catalog: Catalog, most: int) -> list[tuple[str, int]]:
    """Labels and how many images have them, the most frequent first."""
    return catalog.count_values("label AS value FROM images WHERE state = 'ok'", limit=most)


def metadata_keys(catalog: Catalog, most: int) -> list[tuple[str, int]]:
    """Keys of the metadata and how many images have them, the most frequent first."""
    what = "each.key AS value FROM images, json_each(metadata) AS each WHERE state = 'ok'"
    return catalog.count_values(what, limit=most)


def reasons(catalog: Catalog, most: int) -> list[tuple[str, int]]:
    """Why photos could not be used, and how many for each reason."""
    return catalog.count_values("reason AS value FROM images WHERE state = 'failed'", limit=most)

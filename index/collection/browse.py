"""A look into an index: images that pass a filter, what to filter by, and numbers."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from delg.paths import name_forms
from index.selection import LABEL, Selection
from index.storage.adaptation import ADAPTATION_DIGEST
from index.storage.catalog import Catalog
from index.storage.catalog_tables import ImageRow
from index.storage.store import CODEBOOK_DIGEST, Store
from index.storage.vocabulary import VOCABULARY_DIGEST


@dataclass(frozen=True)
class Filter:
    """A condition on images; what is left empty does not matter.

    Attributes:
        state: "ok", or "failed" for those that could not be used.
        text: a part of the id, whatever its case.
        label: the label, exactly.
        key, value: of the metadata; a part of the value, whatever its case; without a value, any.
        where: further conditions, see :mod:`index.selection`; none of them fits a failed image.
        rows: row numbers of the images; None: any.
    """

    state: Literal["ok", "failed"] = "ok"
    text: str = ""
    label: str = ""
    key: str = ""
    value: str = ""
    where: tuple[tuple[str, str], ...] = ()
    rows: tuple[int, ...] | None = None

    def as_sql(self) -> tuple[str, list[str]]:
        """A condition over the table ``images``, and the values of its question marks."""
        # Failed images are those without a segment, which the catalog finds by an index.
        parts = ["state = 'ok'" if self.state == "ok" else "segment IS NULL"]
        values: list[str] = []
        if self.text:
            forms = name_forms(self.text)
            # Ids alone are read much faster than whole rows.
            contains = _any_of("instr(lower(id), lower(?))", forms)
            parts.append(f"row IN (SELECT row FROM images WHERE {contains})")
            values += forms
        if self.label:
            forms = name_forms(self.label)
            parts.append(_any_of("label = ?", forms))
            values += forms
        if self.key:
            forms = name_forms(self.value)
            if self.value.isascii() and self.value.isprintable() and not set(self.value) & {*'"\\'}:
                # As it is written in JSON too; most images are ruled out without reading that.
                parts.append("instr(lower(metadata), lower(?))")
                values.append(self.value)
            parts.append(
                "EXISTS (SELECT 1 FROM json_each(metadata) WHERE key = ? AND "
                f"{_any_of('instr(lower(value), lower(?))', forms)})"
            )
            values += [self.key, *forms]
        if self.where:
            condition, marks = Selection(self.where).as_sql()
            parts.append(condition)
            values += marks
        if self.rows is not None:
            parts.append("row IN (SELECT value FROM json_each(?))")
            values.append(json.dumps(self.rows))
        return " AND ".join(parts), values


def _any_of(condition: str, forms: Sequence[str]) -> str:
    return f"({' OR '.join([condition] * len(forms))})"


@dataclass(frozen=True)
class ImagePage:
    """Some of the images that pass a filter.

    Attributes:
        images: by id.
        total: number of images that pass.
    """

    images: Sequence[ImageRow]
    total: int


Sort = Literal["id", "newest", "largest", "label"]
_ORDERS: dict[Sort, str] = {
    "id": "id",
    "newest": "row DESC",
    "largest": "width * height DESC, id",
    "label": "label IS NULL, label, id",
}


def browse(
    catalog: Catalog, condition: Filter, limit: int, offset: int, sort: Sort = "id"
) -> ImagePage:
    """The images that pass, from ``offset`` on, at most ``limit``.

    Args:
        sort: by id; by when they were added, the newest first; by pixels, the most first; by label.
    """
    where, values = condition.as_sql()
    images = catalog.select(where, values, limit, offset, _ORDERS[sort])
    if condition == Filter(condition.state):
        return ImagePage(images, catalog.count(condition.state))
    if 0 < len(images) < limit or not (images or offset):
        return ImagePage(images, offset + len(images))
    return ImagePage(images, len(catalog.rows(where, values)))


def spread_images(catalog: Catalog, count: int) -> list[ImageRow]:
    """Some images with a photo, at even distances over the order in which they were added."""
    first, last = catalog.row_range()
    wanted = [first + (last - first) * i // max(1, count - 1) for i in range(count)]
    usable = "state = 'ok' AND path != ''"
    where = f"row = (SELECT min(row) FROM images WHERE {usable} AND row >= ?)"
    images = (catalog.select(where, (row,), 1) for row in wanted)
    return list({image.row: image for found in images for image in found}.values())


def most_frequent(catalog: Catalog, limit: int) -> dict[str, list[tuple[str, int]]]:
    """The most frequent ``labels``, ``metadata`` keys and ``reasons`` of failures, at most
    ``limit`` of each, with the number of images."""
    sources = {
        "labels": "label AS value FROM images WHERE state = 'ok'",
        "metadata": (
            "each.key AS value FROM images, json_each(metadata) AS each WHERE state = 'ok'"
        ),
        "reasons": "reason AS value FROM images WHERE state = 'failed'",
    }
    return {name: catalog.count_values(what, limit=limit) for name, what in sources.items()}


@dataclass(frozen=True)
class Facets:
    """What a selection of images can be narrowed down by.

    Attributes:
        images: number of images that are selected.
        counts: by key, "label" first: the most frequent values and the number of images of each,
            among those that fulfil the conditions of all *other* keys.
    """

    images: int
    counts: dict[str, list[tuple[str, int]]]


def count_facets(catalog: Catalog, selection: Selection, limit: int) -> Facets:
    """Count the values of label and metadata, at most ``limit`` of each key."""
    where, values = selection.as_sql()
    by_key: dict[str, list[tuple[str, int]]] = {LABEL: []}
    for key, value, number in catalog.count_metadata(where, values):
        by_key.setdefault(key, []).append((value, number))
    by_key[LABEL] = _count_labels(catalog, selection.except_for(LABEL))
    for key in {key for key, _ in selection.where} - {LABEL}:
        others, marks = selection.except_for(key).as_sql()
        by_key[key] = [(v, n) for _, v, n in catalog.count_metadata(others, marks, key)]
    counts = {key: _most(counts, limit) for key, counts in by_key.items()}
    return Facets(len(catalog.rows(where, values)), counts)


def _count_labels(catalog: Catalog, selection: Selection) -> list[tuple[str, int]]:
    where, values = selection.as_sql()
    return catalog.count_values(f"label AS value FROM images WHERE {where}", values)


def _most(counts: list[tuple[str, int]], limit: int) -> list[tuple[str, int]]:
    return sorted(counts, key=lambda item: (-item[1], item[0]))[:limit]


def describe(store: Store) -> dict[str, Any]:
    """What an index holds, as plain values."""
    catalog = store.catalog
    segments = catalog.segments()
    images = catalog.count("ok")
    return {
        "index": str(store.folder),
        "model": catalog.meta("model_name"),
        "fingerprint": catalog.meta("fingerprint"),
        "images": images,
        "failed": catalog.count("failed"),
        "segments": len(segments),
        "unreadable_segments": len(store.unreadable),
        "dead": sum(segment.images for segment in segments) - images,
        "bytes": (size := _bytes_in(store.folder)),
        "bytes_per_image": round(size / images) if images else None,
        "shortlist": store.ann_index.kind,
        # Parts of photos that are stored as photos of their own.
        "regions": 0 if (regions := store.region_index()) is None else len(regions),
        # Of the model's, by its digest; empty where local features have no codes of one.
        "codebook": catalog.meta(CODEBOOK_DIGEST),
        # Likewise; empty where no visual words are kept.
        "vocabulary": catalog.meta(VOCABULARY_DIGEST),
        # Of the adaptation, by its digest; empty where there is none.
        "adaptation": catalog.meta(ADAPTATION_DIGEST),
        "settings": store.settings.model_dump(mode="json"),
    }


def _bytes_in(folder: Path) -> int:
    """Bytes of the files in a folder, of which a writer may just remove some."""
    size = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(OSError):
            size += file.stat().st_size if file.is_file() else 0
    return size

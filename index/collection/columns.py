"""What is known of all photos, by columns in memory: pages filter, sort and count with it in
milliseconds among hundreds of thousands, where a look at each row of the catalog takes seconds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from delg.plain_values import parse_json
from index.collection.label_index import LabelIndex
from index.selection import LABEL, Selection
from index.storage.catalog import Catalog
from index.storage.catalog_rows import CatalogError

Sort = Literal["id", "newest", "largest", "label"]
State = Literal["ok", "failed"]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class CollectionTable:
    """The photos of one catalog in one state, as they are sent between machines.

    Attributes:
        rows: int64 (N,), row numbers, ascending.
        ids: of the photos.
        labels: None where there is none.
        metadata: JSON of each.
        pixels: int64 (N,), width times height; 0: not known.
    """

    rows: NDArray[np.int64]
    ids: list[str]
    labels: list[str | None]
    metadata: list[str]
    pixels: NDArray[np.int64]

    @classmethod
    def read(cls, catalog: Catalog, state: State) -> CollectionTable:
        """That of a catalog."""
        photos = list(catalog.known_of_all(state))
        rows, ids, labels, metadata, pixels = zip(*photos, strict=True) if photos else [()] * 5
        return cls(
            np.array(rows, np.int64), list(ids), list(labels), list(metadata),
            np.array(pixels, np.int64),
        )  # fmt: skip

    @classmethod
    def join(cls, tables: Sequence[CollectionTable]) -> CollectionTable:
        """That of several catalogs whose row numbers differ."""
        rows = np.concatenate([table.rows for table in tables])
        order = np.argsort(rows)
        ids, labels, metadata = (
            [each for table in tables for each in getattr(table, name)]
            for name in ("ids", "labels", "metadata")
        )
        return cls(
            rows[order], [ids[i] for i in order], [labels[i] for i in order],
            [metadata[i] for i in order], np.concatenate([t.pixels for t in tables])[order],
        )  # fmt: skip


@dataclass(frozen=True)
class Filter:
    """A condition on images; what is left empty does not matter.

    Attributes:
        state: "ok", or "failed" for those that could not be used.
        text: a part of the id, whatever its case.
        label: the label, exactly.
        key, value: of the metadata; a part of the value, whatever its case; without a value, any.
        where: further conditions, see :mod:`index.selection`.
    """

    state: State = "ok"
    text: str = ""
    label: str = ""
    key: str = ""
    value: str = ""
    where: tuple[tuple[str, str], ...] = ()


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


class Columns:
    """The photos of an index in one state, by columns.

    Args:
        table: as the catalog has it.

    Attributes:
        rows: int64 (N,), row numbers, ascending.
        labels: all labels.
        metadata: the values of each key that are not empty.
    """

    def __init__(self, table: CollectionTable) -> None:
        self.rows, self._pixels = table.rows, table.pixels
        rows = self.rows.tolist()
        self._ids = LabelIndex(zip(table.ids, rows, strict=True))
        self.labels = LabelIndex(
            (label, row) for label, row in zip(table.labels, rows, strict=True) if label
        )
        values: dict[str, list[tuple[str, int]]] = {}
        for key, value, row in _entries(table):
            values.setdefault(key, []).append((value, row))
        self.metadata = {key: LabelIndex(pairs) for key, pairs in values.items()}

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, condition: Filter, sort: Sort = "id") -> NDArray[np.int64]:
        """Row numbers of the photos that pass a filter, in an order.

        Args:
            sort: by id; by when they were added, the newest first; by pixels, the most first; by
                label, and photos without one last.
        """
        mask = self._where(condition.where)
        if condition.text:
            mask &= self._mask(self._ids.rows_containing(condition.text))
        if condition.label:
            mask &= self._mask(self.labels.rows_of_any_form(condition.label))
        if condition.key:
            column = self.metadata.get(condition.key)
            mask &= self._mask(column.rows_containing(condition.value)) if column else False
        order = self._orders[sort]
        return self.rows[order[mask[order]]]

    def facets(self, selection: Selection, limit: int) -> Facets:
        """Count the values of label and metadata, at most ``limit`` of each key."""
        selected = self._where(selection.where)
        counts: dict[str, list[tuple[str, int]]] = {}
        for key in (LABEL, *(key for key in self.metadata if key != LABEL)):
            others = selection.except_for(key).where
            mask = selected if others == selection.where else self._where(others)
            counts[key] = self._count(key, mask, limit)
        shown = {key: most for key, most in counts.items() if most or key == LABEL}
        return Facets(int(selected.sum()), shown)

    def most_frequent(self, limit: int) -> dict[str, list[tuple[str, int]]]:
        """The ``labels`` and ``metadata`` keys of most photos, and how many."""
        keys = [(key, column.photos) for key, column in self.metadata.items()]
        return {
            "labels": self.labels.most_frequent(limit=limit),
            "metadata": sorted(keys, key=lambda item: (-item[1], item[0]))[:limit],
        }

    def among(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of the row numbers that are there, ascending."""
        return np.intersect1d(rows, self.rows)

    def labels_among(self, rows: NDArray[np.int64], limit: int) -> list[tuple[str, int]]:
        """The labels of most of these photos, and how many have each."""
        return self._count(LABEL, self._mask(self.among(rows)), limit)

    def spread(self, count: int) -> list[int]:
        """Some row numbers, at even distances over the order in which photos were added."""
        places = np.linspace(0, max(0, len(self) - 1), count).astype(np.int64)
        return [int(row) for row in self.rows[np.unique(places)]] if len(self) else []

    def _count(self, key: str, mask: Mask, limit: int) -> list[tuple[str, int]]:
        column = self._column(key)
        if column is None:
            return []
        if mask.all():
            return column.most_frequent(limit=limit)
        codes = self._codes[key][mask]
        counts = np.bincount(codes[codes >= 0], minlength=len(column))
        return column.most_frequent(counts, limit)

    def _column(self, key: str) -> LabelIndex | None:
        return self.labels if key == LABEL else self.metadata.get(key)

    def _where(self, where: Iterable[tuple[str, str]]) -> Mask:
        """The photos that fulfil conditions as :mod:`index.selection` has them."""
        by_key: dict[str, Mask] = {}
        for key, value in where:
            fits = self._fits(key, value)
            by_key[key] = by_key[key] | fits if key in by_key else fits
        mask = np.ones(len(self), bool)
        for fits in by_key.values():
            mask &= fits
        return mask

    def _fits(self, key: str, value: str) -> Mask:
        column = self._column(key)
        if column is None:
            return np.full(len(self), not value)
        return self._mask(column.rows_of_any_form(value)) if value else self._codes[key] < 0

    def _mask(self, rows: NDArray[np.int64]) -> Mask:
        mask = np.zeros(len(self), bool)
        mask[np.searchsorted(self.rows, rows)] = True
        return mask

    @cached_property
    def _codes(self) -> dict[str, NDArray[np.int32]]:
        columns = {**self.metadata, LABEL: self.labels}
        return {key: column.codes(self.rows) for key, column in columns.items()}

    @cached_property
    def _orders(self) -> dict[Sort, NDArray[np.intp]]:
        """Positions of all photos, in each order."""
        by_id = self._ids.codes(self.rows)
        labels = self._codes[LABEL]
        last = np.where(labels < 0, np.iinfo(np.int32).max, labels)
        return {
            "id": np.argsort(by_id),
            "newest": np.arange(len(self))[::-1],
            "largest": np.lexsort((by_id, -self._pixels)),
            "label": np.lexsort((by_id, last)),
        }


def _entries(table: CollectionTable) -> Iterator[tuple[str, str, int]]:
    """Key, value and row number of all metadata that are not empty."""
    # Photos of one folder or manifest often have the same.
    parsed: dict[str, list[tuple[str, str]]] = {"{}": []}
    for text, row in zip(table.metadata, table.rows.tolist(), strict=True):
        pairs = parsed.get(text)
        if pairs is None:
            pairs = _parse(text)
            if len(parsed) < 10_000:
                parsed[text] = pairs
        for key, value in pairs:
            yield key, value, row


def _parse(text: str) -> list[tuple[str, str]]:
    try:
        metadata = parse_json(text)
        if not isinstance(metadata, dict) or not all(
            isinstance(value, str) for value in metadata.values() if value
        ):
            raise ValueError("no texts by name")
    except (ValueError, TypeError):
        raise CatalogError(f"the catalog's metadata {str(text)[:80]!r} are damaged") from None
    return [(key, value) for key, value in metadata.items() if value]

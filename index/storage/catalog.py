"""The catalog: one SQLite file that says what is in the index."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from delg.errors import UsageError
from delg.paths import name_forms
from index.storage.catalog_history import CatalogHistory
from index.storage.catalog_places import CatalogPlaces
from index.storage.catalog_rows import CatalogError, UnknownRowError, parse_image
from index.storage.catalog_tables import ETAG, IMAGE_COLUMNS, ImageRow

_KEYS_AT_ONCE = 500
# Conditions whose rows are kept, for one state.
_KNOWN_CONDITIONS = 32


class Catalog(CatalogPlaces, CatalogHistory):
    """The images of an index, in one fixed state.

    Args:
        folder: of the index.

    Raises:
        CatalogError: there is no catalog, or it cannot be read.
    """

    @property
    def _columns(self) -> str:
        """Of an image, for :func:`index.storage.catalog_rows.parse_image`."""
        return self.remember("columns", self._find_columns)

    def _find_columns(self) -> str:
        return f"{IMAGE_COLUMNS}, row, {ETAG if self.has_column('images', ETAG) else 'NULL'}"

    def count(self, state: str) -> int:
        """Images in that state."""
        return self.remember(("count", state), lambda: self._count(state))

    def _count(self, state: str) -> int:
        # By the index over segments, of which failed images have none.
        failed = "SELECT count(*) FROM images WHERE segment IS NULL"
        all_images = "SELECT count(*) FROM images"
        row = self.read_row(failed if state == "failed" else f"SELECT ({all_images}) - ({failed})")
        return row[0] if row else 0

    def images(self, state: str | None = None) -> Iterator[ImageRow]:
        """All images, or those in one state, by id."""
        where, values = ("WHERE state = ?", (state,)) if state else ("", ())
        query = f"SELECT {self._columns} FROM images {where} ORDER BY id"
        for row in self.read_rows(query, values):
            yield parse_image(row)

    def by_id(self, image_id: str) -> ImageRow | None:
        """The image with that id, in whichever Unicode form either is written."""
        query = f"SELECT {self._columns} FROM images WHERE id = ?"
        rows = (self.read_row(query, (form,)) for form in name_forms(image_id))
        return next((parse_image(row) for row in rows if row), None)

    def by_ids(self, image_ids: Sequence[str]) -> list[ImageRow]:
        """The images with these ids, in their order.

        Raises:
            UsageError: an id is not in the index.
        """
        images = [(image_id, self.by_id(image_id)) for image_id in image_ids]
        unknown = [image_id for image_id, image in images if image is None]
        if unknown:
            raise UsageError(f"{self.path.parent}: has no image {', '.join(unknown[:5])}")
        return [image for _, image in images if image is not None]

    def by_row(self, row: int) -> ImageRow:
        """The image with that row number.

        Raises:
            UnknownRowError: there is none.
        """
        values = self.read_row(f"SELECT {self._columns} FROM images WHERE row = ?", (row,))
        if values is None:
            raise UnknownRowError(self.path, row)
        return parse_image(values)

    def by_rows(self, rows: Sequence[int]) -> list[ImageRow]:
        """The images with these row numbers, in their order; those that are gone are left out."""
        images: dict[int, ImageRow] = {}
        for start in range(0, len(rows), _KEYS_AT_ONCE):
            keys = [int(row) for row in rows[start : start + _KEYS_AT_ONCE]]
            marks = ", ".join("?" * len(keys))
            images |= {image.row: image for image in self.select(f"row IN ({marks})", keys)}
        return [images[row] for row in rows if row in images]

    def ids_of_sizes(self, sizes: Collection[int]) -> list[str]:
        """Ids of the images whose files have one of these sizes, in bytes."""
        rows = self.read_rows("SELECT size, id FROM images ORDER BY id") if sizes else iter(())
        return [image_id for size, image_id in rows if size in sizes]

    def in_segments(self, numbers: Collection[int]) -> list[ImageRow]:
        """The images whose features lie in these segments, by row number."""
        marks = ", ".join("?" * len(numbers))
        images = self.select(f"segment IN ({marks})", list(numbers))
        return sorted(images, key=lambda image: image.row)

    def select(
        self,
        where: str,
        values: Sequence = (),
        limit: int = -1,
        offset: int = 0,
        order: str = "id",
    ) -> list[ImageRow]:
        """The images that fulfil an SQL condition over the table ``images``, by id.

        Args:
            where: the condition; ``values`` are for its question marks.
            limit: at most this many, or all with -1, after the first ``offset``.
            order: SQL terms to order by instead.
        """
        query = (
            f"SELECT {self._columns} FROM images WHERE {where} ORDER BY {order} LIMIT ? OFFSET ?"
        )
        return [parse_image(row) for row in self.read_rows(query, (*values, limit, offset))]

    def rows(self, where: str, values: Sequence[str] = ()) -> NDArray[np.int64]:
        """The row numbers, ascending, of the images that fulfil an SQL condition over the table
        ``images``; kept until the state changes."""
        key = where, *values
        known: dict[tuple, NDArray[np.int64]] = self.remember("rows", dict)
        if key not in known:
            query = f"SELECT row FROM images WHERE {where} ORDER BY row"
            rows = np.fromiter((row[0] for row in self.read_rows(query, values)), np.int64)
            if len(known) >= _KNOWN_CONDITIONS:
                known.pop(next(iter(known)), None)
            known[key] = rows
            return rows
        return known[key]

    def count_values(
        self, what: str, values: Sequence = (), limit: int = -1
    ) -> list[tuple[str, int]]:
        """Count rows by their first column, the most frequent first.

        Args:
            what: "EXPRESSION AS value FROM …", a part of an SQL query; nulls do not count.
            values: for its question marks.
            limit: at most this many are returned, or all with -1.
        """
        query = (
            f"SELECT value, count(*) AS number FROM (SELECT {what}) WHERE value IS NOT NULL "
            "GROUP BY value ORDER BY number DESC, value LIMIT ?"
        )
        return list(self.read_rows(query, (*values, limit)))

    def known_of_all(self, state: str) -> Iterator[tuple[int, str, str | None, str, int]]:
        """Row number, id, label, metadata in JSON, and width times height (0: not known) of all
        images in a state, by row number."""
        # Failed images are those without a segment, which the catalog finds by an index.
        where = "segment IS NULL" if state == "failed" else "state = 'ok'"
        query = (
            "SELECT row, id, label, metadata, coalesce(width * height, 0) FROM images "
            f"WHERE {where} ORDER BY row"
        )
        for row in self.read_rows(query):
            _, image_id, label, metadata, pixels = row
            texts = (image_id, metadata, "" if label is None else label)
            if not all(isinstance(text, str) for text in texts) or type(pixels) is not int:
                raise CatalogError(f"the catalog's entry of {str(image_id)[:200]} is damaged")
            yield row

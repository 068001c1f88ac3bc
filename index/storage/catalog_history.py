"""What the catalog says of the trash and of the log of changes (:mod:`index.storage.trash`)."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence

from delg.paths import name_forms
from delg.plain_values import parse_json
from index.storage.catalog_rows import CatalogError, parse_removed_image
from index.storage.catalog_state import CatalogState
from index.storage.catalog_tables import ImageRow
from index.storage.trash import CHANGES, TRASH, Change


class CatalogHistory(CatalogState):
    """The catalog with what people removed and changed."""

    def trash(self, limit: int = -1, offset: int = 0) -> list[tuple[ImageRow, str]]:
        """The removed images and when each was removed, the last one first."""
        if not self.has_table(TRASH):
            return []
        query = (
            f"SELECT image, removed FROM {TRASH} ORDER BY removed DESC, row DESC LIMIT ? OFFSET ?"
        )
        return [
            (parse_removed_image(row[0]), str(row[1]))
            for row in self.read_rows(query, (limit, offset))
        ]

    def count_trash(self) -> int:
        """Number of removed images that can be restored."""
        row = self.read_row(f"SELECT count(*) FROM {TRASH}") if self.has_table(TRASH) else None
        return row[0] if row else 0

    def trashed(self, image_id: str) -> ImageRow | None:
        """The image of that id that was removed last, if it is in the trash."""
        if not self.has_table(TRASH):
            return None
        query = f"SELECT image FROM {TRASH} WHERE id = ? ORDER BY row DESC"
        rows = (self.read_row(query, (form,)) for form in name_forms(image_id))
        return next((parse_removed_image(row[0]) for row in rows if row), None)

    def trash_segments(self) -> set[int]:
        """Numbers of the segments with features of removed images."""
        if not self.has_table(TRASH):
            return set()
        query = f"SELECT DISTINCT segment FROM {TRASH} WHERE segment IS NOT NULL"
        return {row[0] for row in self.read_rows(query)}

    def changes(self, limit: int = -1, offset: int = 0) -> list[Change]:
        """What people changed, the last change first."""
        if not self.has_table(CHANGES):
            return []
        return self._changes("ORDER BY number DESC LIMIT ? OFFSET ?", (limit, offset))

    def last_changes(self, ids: Collection[str]) -> dict[str, Change]:
        """The last change of each of these images, of those that the log has any of."""
        if not self.has_table(CHANGES):
            return {}
        of_them = f"SELECT max(number) FROM {CHANGES} WHERE id IN (SELECT value FROM json_each(?))"
        changes = self._changes(
            f"WHERE number IN ({of_them} GROUP BY id)", (json.dumps(list(ids)),)
        )
        return {change.id: change for change in changes}

    def _changes(self, which: str, values: Sequence[object]) -> list[Change]:
        by = "by" if self.has_column(CHANGES, "by") else "''"
        query = f"SELECT at, action, id, before, after, {by}, number FROM {CHANGES} {which}"
        try:
            return [
                Change(
                    str(at),
                    str(action),
                    str(image),
                    parse_json(before),
                    parse_json(after),
                    str(by or ""),
                    number,
                )
                for at, action, image, before, after, by, number in self.read_rows(query, values)
            ]
        except (ValueError, TypeError) as error:
            raise CatalogError(f"{self.path}: the log of changes is damaged ({error})") from None

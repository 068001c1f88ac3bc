"""Groups of the same instance as files: a table for people, and labels for ``--labels``."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping

from index.answers.answer_table import Row, as_csv, escape
from index.collection.groups import InstanceGroup
from index.storage.catalog_tables import ImageRow

COLUMNS = (
    "group", "id", "representative", "strength", "group_strength", "label", "width", "height",
    "path",
)  # fmt: skip


def groups_csv(groups: Iterable[InstanceGroup], images: Mapping[str, ImageRow]) -> str:
    """A row per photo; groups are numbered from 1.

    Args:
        images: by id, of all photos in the groups.
    """
    return as_csv(COLUMNS, _rows(groups, images))


def _rows(groups: Iterable[InstanceGroup], images: Mapping[str, ImageRow]) -> Iterator[Row]:
    for number, group in enumerate(groups, 1):
        for member in group.members:
            image = images[member.id]
            yield {
                "group": str(number),
                "id": escape(member.id),
                "representative": "yes" if member.id == group.representative else "no",
                "strength": f"{member.strength:.6f}",
                "group_strength": f"{group.strength:.6f}",
                "label": escape(image.label or ""),
                "width": str(image.width or ""),
                "height": str(image.height or ""),
                "path": escape(image.path),
            }


def labels_csv(groups: Iterable[InstanceGroup]) -> str:
    """A label file: the label of each photo is the id of its group's representative."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("id", "label"))
    for group in groups:
        writer.writerows((member.id, group.representative) for member in group.members)
    return text.getvalue()

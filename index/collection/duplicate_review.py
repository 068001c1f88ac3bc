"""Duplicates under review: which photo of a group to keep, and what people decided.

The best photo is the one with the most pixels, then the largest file, then the one added first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from delg.errors import UsageError
from index.answers.answer_table import Row, as_csv, escape, read_table
from index.collection.decisions import Photo
from index.collection.duplicates import Group
from index.storage.catalog_tables import ImageRow

KEEP, REMOVE, IGNORE = "keep", "remove", "ignore"
COLUMNS = ("group", "kind", "id", "decision", "width", "height", "bytes", "label", "path")
Images = Mapping[str, ImageRow]


@dataclass(frozen=True)
class Review:
    """What was decided on duplicates.

    Attributes:
        remove: ids of photos.
        ignore: groups of ids.
    """

    remove: tuple[str, ...]
    ignore: tuple[tuple[str, ...], ...]


def best_of(group: Group, images: Images) -> str:
    """Id of the photo to keep; see the head of this file."""

    def quality(image_id: str) -> tuple[int, int, int]:
        image = images[image_id]
        return image.pixels, image.size, -image.row

    return max(group.ids, key=quality)


def suggest(groups: Iterable[Group], images: Images, keep: Collection[str] = ()) -> list[str]:
    """Ids of the photos to remove: all of a group but the best, or but those to keep.

    Raises:
        UsageError: a photo to keep is in no group.
    """
    groups = list(groups)
    unknown = sorted(set(keep) - {image_id for group in groups for image_id in group.ids})
    if unknown:
        raise UsageError(f"{', '.join(unknown[:5])}: has no duplicates")
    removed = []
    for group in groups:
        kept = set(keep) & set(group.ids) or {best_of(group, images)}
        removed += [image_id for image_id in group.ids if image_id not in kept]
    return removed


def without_ignored(
    groups: Iterable[Group], images: Images, ignored: Iterable[frozenset[Photo]]
) -> list[Group]:
    """The groups of which not all photos were ignored together."""
    ignored = list(ignored)

    def is_ignored(group: Group) -> bool:
        photos = {(image_id, images[image_id].content) for image_id in group.ids}
        return any(photos <= each for each in ignored)

    return [group for group in groups if not is_ignored(group)]


def duplicates_csv(groups: Iterable[Group], images: Images, removed: Collection[str]) -> str:
    """A row per photo; groups are numbered from 1."""
    return as_csv(COLUMNS, _rows(groups, images, set(removed)))


def _rows(groups: Iterable[Group], images: Images, removed: set[str]) -> Iterator[Row]:
    for number, group in enumerate(groups, 1):
        for image_id in group.ids:
            image = images[image_id]
            yield {
                "group": str(number),
                "kind": group.kind,
                "id": escape(image_id),
                "decision": REMOVE if image_id in removed else KEEP,
                "width": str(image.width or ""),
                "height": str(image.height or ""),
                "bytes": str(image.size),
                "label": escape(image.label or ""),
                "path": escape(image.path),
            }


def read_review(path: Path) -> Review:
    """What people decided in a table of :func:`duplicates_csv`.

    Raises:
        UsageError: it cannot be read, has an unknown decision, or a group would lose all photos.
    """
    groups: dict[str, list[tuple[str, str]]] = {}
    for line, row in read_table(path, ("group", "id", "decision")):
        decision = row["decision"].strip().lower()
        if decision not in (KEEP, REMOVE, IGNORE):
            raise UsageError(f"{path}, line {line}: {decision!r} is not keep, remove or ignore")
        groups.setdefault(row["group"], []).append((row["id"], decision))
    for name, rows in groups.items():
        if all(decision == REMOVE for _, decision in rows):
            raise UsageError(f"{path}: of group {name} no photo would be kept; keep one")
    removed = [each for rows in groups.values() for each, decision in rows if decision == REMOVE]
    ignored = (
        tuple(each for each, decision in rows if decision == IGNORE) for rows in groups.values()
    )
    return Review(tuple(removed), tuple(ids for ids in ignored if ids))

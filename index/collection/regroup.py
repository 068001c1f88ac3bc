"""Groups of the same instance, merged and split by people: marks on pairs of their photos."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, product

from delg.errors import UsageError
from index.answers.marks import Marks, Verdict
from index.collection.groups import InstanceGroup
from index.storage.catalog_tables import ImageRow

# Marks of one merge or split.
MAX_PAIRS = 20_000
_Pair = tuple[ImageRow, ImageRow, Verdict | None]


def merge_by_marks(marks: Marks, groups: Sequence[Sequence[ImageRow]]) -> None:
    """Mark groups as one: their first photos are the same, and what was said against it before is
    forgotten.

    Raises:
        UsageError: there is one group alone, or they have too many photos.
    """
    if len(groups) < 2:
        raise UsageError("name photos of at least two groups to merge them")
    marks.put_pairs(_limited([*_forgotten(marks, groups), *_joined(groups)]))


def _joined(groups: Sequence[Sequence[ImageRow]]) -> Iterator[_Pair]:
    first, *others = groups
    for other in others:
        yield first[0], other[0], "same"


def _forgotten(marks: Marks, groups: Sequence[Sequence[ImageRow]]) -> Iterator[_Pair]:
    """Pairs of photos of two groups that were marked."""
    marked = {(mark.query, mark.image) for mark in marks}
    for first, second in combinations(groups, 2):
        for a, b in product(first, second):
            if marked & {(a.sha256, b.id), (b.sha256, a.id)}:
                yield a, b, None


def split_by_marks(marks: Marks, apart: Sequence[ImageRow], others: Sequence[ImageRow]) -> None:
    """Mark photos as something else than others of their group: each as different from each.

    Raises:
        UsageError: either are none, or they are too many.
    """
    if not apart or not others:
        raise UsageError("name some photos of a group, not none and not all of it")
    marks.put_pairs(_limited([(a, b, "different") for a, b in product(apart, others)]))


def _limited(pairs: list[_Pair]) -> list[_Pair]:
    if len(pairs) > MAX_PAIRS:
        raise UsageError(f"that takes {len(pairs):,} marks, more than {MAX_PAIRS:,}; name fewer")
    return pairs


def group_of(groups: Iterable[InstanceGroup], image_id: str) -> InstanceGroup:
    """The group of a photo.

    Raises:
        UsageError: it is in none.
    """
    for group in groups:
        if any(member.id == image_id for member in group.members):
            return group
    raise UsageError(f"{image_id}: is in no group")


def members_to_merge(groups: Iterable[InstanceGroup], ids: Iterable[str]) -> list[list[str]]:
    """Ids of the groups of some photos; a photo without a group is one of its own."""
    of = {member.id: group for group in groups for member in group.members}
    parts: dict[str, list[str]] = {}
    for image_id in ids:
        group = of.get(image_id)
        rest = () if group is None else group.ids
        key = image_id if group is None else group.representative
        parts.setdefault(key, list(dict.fromkeys([image_id, *rest])))
    return list(parts.values())


def members_to_split(
    groups: Iterable[InstanceGroup], ids: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Photos of one group that are something else, and the others of it.

    Raises:
        UsageError: they are in no group, or in several.
    """
    if not ids:
        raise UsageError("name some photos of a group, not none and not all of it")
    group = group_of(groups, ids[0])
    strangers = [image_id for image_id in ids if image_id not in group.ids]
    if strangers:
        raise UsageError(f"{strangers[0]}: is not in the group of {ids[0]}")
    return list(dict.fromkeys(ids)), [each for each in group.ids if each not in ids]

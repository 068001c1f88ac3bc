"""Taking back the last change of an image, by the log of changes.

What takes it back is a change itself, logged and taken back in turn.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Protocol

from delg.errors import UsageError
from index.storage.catalog_tables import ImageRow
from index.storage.trash import Change


class Changeable(Protocol):
    """The methods of :class:`index.ImageIndex` that change what is known of images."""

    def last_changes(self, ids: Collection[str]) -> dict[str, Change]: ...
    def remove(self, ids: Iterable[str], by: str = "") -> int: ...
    def restore(self, ids: Iterable[str], by: str = "") -> list[str]: ...
    def edit(
        self,
        ids: Iterable[str],
        label: str | None = None,
        metadata: Mapping[str, str | None] | None = None,
        by: str = "",
    ) -> list[ImageRow]: ...


def undo(images: Changeable, image_id: str, by: str = "") -> Change:
    """Take back the last change of an image: what was added or restored is removed, what was
    removed is restored, and what was edited gets its label and metadata back.

    Args:
        by: who does, for the log of changes.

    Returns:
        The change that was taken back.

    Raises:
        UsageError: the log has no change of that image, or it cannot be taken back any more.
    """
    change = images.last_changes([image_id]).get(image_id)
    if change is None:
        raise UsageError(f"{image_id}: the log has no change of it to undo")
    if change.action == "edit":
        label, metadata = _difference(change)
        images.edit([image_id], label, metadata, by)
    elif change.action == "remove":
        images.restore([image_id], by)
    else:
        images.remove([image_id], by)
    return change


def _difference(change: Change) -> tuple[str, dict[str, str | None]]:
    """The label and the values that lead back to how an image was before."""
    before: Any = change.before.get("metadata") or {}
    after: Any = change.after.get("metadata") or {}
    gone: dict[str, str | None] = dict.fromkeys(after.keys() - before.keys())
    return str(change.before.get("label") or ""), {**gone, **before}


def can_undo(change: Change, present: Collection[str], in_trash: Collection[str]) -> bool:
    """Whether the last change of an image can be taken back.

    Args:
        present: ids of images in the index.
        in_trash: ids of images that can be restored.
    """
    if change.action == "remove":
        return change.id in in_trash and change.id not in present
    return change.id in present

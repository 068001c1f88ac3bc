"""What people decide on the photos of an index: the trash and the log of changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from index.collection.undo import can_undo
from index.image_index import ImageIndex
from index.photos.uploaded_photos import ConflictError
from index.serve.background import BackgroundTask, Report
from index.serve.shared_index import SharedIndex
from index.serve.uploads import BadRequestError, NotFoundError, is_text
from index.storage.catalog_tables import ImageRow
from index.storage.trash import Change


@dataclass(frozen=True)
class LoggedChange:
    """A change of the log.

    Attributes:
        can_undo: whether it can be taken back.
        is_present: whether its image is in the index.
    """

    change: Change
    can_undo: bool
    is_present: bool


class Curation:
    """The operations on trash and log.

    Args:
        shared: the index.

    Attributes:
        emptying: empties the trash; its result is the number of bytes freed.
    """

    def __init__(self, shared: SharedIndex) -> None:
        self._shared = shared
        self.emptying: BackgroundTask[int] = BackgroundTask("emptying the trash")

    def trash(self, limit: int, offset: int = 0) -> tuple[list[tuple[ImageRow, str]], int]:
        """Removed images that can be restored and when they were removed, the last one first; and
        the number of all."""
        with self._shared.reading() as images:
            return images.trash(limit, offset), images.count_trash()

    def restore(self, ids: Sequence[str], by: str) -> list[str]:
        """Bring images back from the trash, all of them or none.

        Raises:
            BadRequestError: there are no ids.
            NotFoundError: one is not in the trash.
            ConflictError: another image has an id now.
            BusyError: another request or process is writing.
        """
        if not ids:
            raise BadRequestError("ids: name at least one image")
        with self._shared.writing() as images:
            for image_id in ids:
                if not is_text(image_id) or images.trashed(image_id) is None:
                    raise NotFoundError(f"no image {image_id!r} in the trash")
                if images.image(image_id) is not None:
                    raise ConflictError(f"another image is {image_id!r} now; remove it first")
            return images.restore(ids, by)

    def empty_trash(self) -> None:
        """Remove for good what is in the trash, in the background."""

        def work(report: Report) -> int:
            with self._shared.writing() as images:
                return images.compact()

        self.emptying.start(work)

    def changes(self, limit: int, offset: int = 0) -> tuple[list[LoggedChange], bool]:
        """Changes, the last one first; and whether there are earlier ones."""
        with self._shared.reading() as images:
            entries = images.changes(limit + 1, offset)
            page = entries[:limit]
            ids = {change.id for change in page}
            last = images.last_changes(ids)
            present = images.known(ids).keys()
            in_trash = {image_id for image_id in ids if _is_in_trash(images, image_id)}
        logged = [
            LoggedChange(
                change,
                last.get(change.id) == change and can_undo(change, present, in_trash),
                change.id in present,
            )
            for change in page
        ]
        return logged, len(entries) > limit

    def undo(self, image_id: str, by: str) -> Change:
        """Take back the last change of an image.

        Raises:
            NotFoundError: there is none, or it cannot be taken back any more.
            BusyError: another request or process is writing.
        """
        with self._shared.writing() as images:
            change = images.last_changes([image_id]).get(image_id)
            present = images.known([image_id]) if change is not None else {}
            in_trash = [image_id] if change is not None and _is_in_trash(images, image_id) else []
            if change is None or not can_undo(change, present, in_trash):
                raise NotFoundError(f"{image_id!r}: no change of it can be undone")
            return images.undo(image_id, by)

    def close(self) -> None:
        """Give up what runs in the background."""
        self.emptying.stop()


def _is_in_trash(images: ImageIndex, image_id: str) -> bool:
    return images.trashed(image_id) is not None

"""Near-duplicates: searched for in the background, listed, and decided on."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from index.collection.duplicate_review import duplicates_csv, suggest, without_ignored
from index.collection.duplicates import Duplicates, Group, Limits
from index.image_index import ImageIndex
from index.serve.background import BackgroundTask, NotReadyError, Report, TaskState
from index.serve.shared_index import SharedIndex
from index.serve.uploads import BadRequestError, NotFoundError, is_text
from index.storage.catalog_tables import ImageRow


@dataclass(frozen=True)
class DuplicateListing:
    """Groups of duplicates.

    Attributes:
        state: of the search; its value is None until the first one has ended.
        groups: those of the page.
        total: number of all.
        ignored: number of groups that people ignored.
        rows: the photos of the page's groups, by id.
        remove: ids that may go, as suggested.
    """

    state: TaskState[Duplicates]
    groups: Sequence[Group]
    total: int
    ignored: int
    rows: dict[str, ImageRow]
    remove: Collection[str]


class DuplicateFinder:
    """Searches for near-duplicates once, and again when photos were added; what was removed or
    ignored meanwhile is left out.

    Args:
        shared: the index.
        limits: what counts, and how much work the search may be.
    """

    def __init__(self, shared: SharedIndex, limits: Limits | None = None) -> None:
        self._shared, self._limits = shared, limits or Limits()
        self._task: BackgroundTask[Duplicates] = BackgroundTask("the search for duplicates")
        # The groups without what was removed, of one result and one state of the index.
        self._present: tuple[object, list[Group]] = None, []

    def current(self) -> TaskState[Duplicates]:
        """The search over the present state of the index; started if there is none."""
        with self._shared.reading() as images:
            key = images.next_row
        state = self._task.state
        if state.running or key == (state.failed_key if state.error else state.key):
            return state

        def work(report: Report) -> Duplicates:
            with self._shared.reading() as images:
                return images.duplicates(self._limits, report, with_ignored=True)

        return self._task.start(work, key)

    def listing(self, limit: int, offset: int = 0, ignored: bool = False) -> DuplicateListing:
        """Some groups, the largest first.

        Args:
            ignored: those that people ignored, in place of the others.
        """
        state = self.current()
        with self._shared.reading() as images:
            listed, hidden = self._groups(images, state.value)
            groups = hidden if ignored else listed
            page = groups[offset : offset + limit]
            rows = images.known(image_id for group in page for image_id in group.ids)
        removed = set(suggest(page, rows))
        return DuplicateListing(state, page, len(groups), len(hidden), rows, removed)

    def csv(self) -> str:
        """The groups as a table, as ``delg index duplicates --csv`` writes it.

        Raises:
            NotReadyError: the search has not ended.
        """
        state = self.current()
        if state.value is None:
            raise NotReadyError(state.error or "photos are being compared; try again in a moment")
        with self._shared.reading() as images:
            groups, _ = self._groups(images, state.value)
            rows = images.known(image_id for group in groups for image_id in group.ids)
        return duplicates_csv(groups, rows, suggest(groups, rows))

    def remove(self, ids: Sequence[str], by: str) -> list[str]:
        """Remove photos that have duplicates; of each group at least one stays.

        Raises:
            BadRequestError: there are no ids, or a group would lose all photos.
            NotFoundError: one has no duplicates.
            BusyError: another request or process is writing.
        """
        if not ids:
            raise BadRequestError("ids: name at least one image")
        with self._shared.writing() as images:
            for group in {self._group_of(images, image_id) for image_id in ids}:
                if set(group.ids) <= set(ids):
                    raise BadRequestError(f"{group.ids[0]}: keep at least one photo of its group")
            images.remove(ids, by)
        return list(ids)

    def ignore(self, image_id: str) -> Group:
        """No longer list the group of a photo.

        Raises:
            NotFoundError: it has no duplicates.
        """
        with self._shared.reading() as images:
            group = self._group_of(images, image_id)
            images.ignore_duplicates(group.ids)
        return group

    def heed_again(self, image_id: str) -> int:
        """List ignored groups of a photo again; gives their number.

        Raises:
            NotFoundError: there is none.
        """
        with self._shared.reading() as images:
            count = images.decisions.heed_again(image_id)
        if not count:
            raise NotFoundError(f"{image_id!r} is in no ignored group")
        return count

    def _group_of(self, images: ImageIndex, image_id: str) -> Group:
        groups = self._still_present(self._task.state.value, images)
        for group in groups if is_text(image_id) else ():
            if image_id in group.ids:
                return group
        raise NotFoundError(f"{image_id!r} has no duplicates that are listed")

    def _groups(
        self, images: ImageIndex, value: Duplicates | None
    ) -> tuple[list[Group], list[Group]]:
        """Groups that are listed, and those that people ignored."""
        groups = self._still_present(value, images)
        ignored = images.decisions.ignored()
        if not ignored:
            return groups, []
        rows = images.known(image_id for group in groups for image_id in group.ids)
        listed = without_ignored(groups, rows, ignored)
        return listed, [group for group in groups if group not in listed]

    def _still_present(self, value: Duplicates | None, images: ImageIndex) -> list[Group]:
        """The groups without what was removed since."""
        key = id(value), images.generation
        if value is None or self._present[0] == key:
            return self._present[1] if value is not None else []
        known = set(images.ids())
        kept = (
            Group(tuple(each for each in group.ids if each in known), group.kind)
            for group in value.groups
        )
        self._present = key, [group for group in kept if len(group.ids) > 1]
        return self._present[1]

    def stop(self) -> None:
        """Give up the search."""
        self._task.stop()

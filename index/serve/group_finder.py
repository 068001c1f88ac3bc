"""Groups of the same instance: compared in the background, listed, merged and split."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from delg.errors import UsageError
from index.answers.marks import FILE as MARKS_FILE
from index.collection.group_table import groups_csv, labels_csv
from index.collection.groups import InstanceGroup, InstanceGroups
from index.collection.regroup import group_of, members_to_merge, members_to_split
from index.image_index import ImageIndex
from index.serve.background import BackgroundTask, NotReadyError, Report, TaskState
from index.serve.shared_index import SharedIndex
from index.serve.uploads import BadRequestError, NotFoundError, is_text
from index.storage.catalog_tables import ImageRow
from index.storage.pair_table import FILE as PAIRS_FILE

# Seconds that a decision waits for the groups to be made anew.
_REGROUP_SECONDS = 10.0
GroupOrder = Literal["largest", "weakest"]


@dataclass(frozen=True)
class GroupListing:
    """Groups of the same instance.

    Attributes:
        state: of the comparison; its value is None until groups are known.
        comparing: whether photos are compared now.
        groups: those of the page.
        total: number of all.
        rows: by id, the representatives of the page's groups.
    """

    state: TaskState[InstanceGroups]
    comparing: bool
    groups: Sequence[InstanceGroup]
    total: int
    rows: dict[str, ImageRow]


class GroupFinder:
    """The groups of an index, by what was compared of it so far, and by marks.

    Args:
        shared: the index.
    """

    def __init__(self, shared: SharedIndex) -> None:
        self._shared = shared
        self._task: BackgroundTask[InstanceGroups] = BackgroundTask("grouping the photos")
        self._comparing = False

    def current(self) -> TaskState[InstanceGroups]:
        """The groups at present; what was compared is grouped anew where something changed."""
        state, key = self._task.state, self._key()
        if state.running or key == (state.failed_key if state.error else state.key):
            return state
        self._comparing = False
        return self._task.start(lambda report: self._groups(report, compare=False), key)

    def compare(self) -> TaskState[InstanceGroups]:
        """Compare the photos that were not compared yet, in the background."""
        if not self._task.state.running:
            self._comparing = True
        return self._task.start(lambda report: self._groups(report, compare=True), self._key())

    def _groups(self, report: Report, compare: bool) -> InstanceGroups:
        with self._shared.reading() as images:
            return images.groups(
                progress=lambda done, total, _: report(done / max(1, total)), compare=compare
            )

    def _key(self) -> object:
        """Differs where groups may."""
        stamps = []
        for name in (MARKS_FILE, PAIRS_FILE):
            with contextlib.suppress(OSError):
                stat = (self._shared.path / name).stat()
                stamps.append((name, stat.st_size, stat.st_mtime_ns))
        with self._shared.reading() as images:
            return images.generation, *stamps

    def listing(self, limit: int, offset: int = 0, order: GroupOrder = "largest") -> GroupListing:
        """Some groups."""
        state = self.current()
        groups = state.value.groups if state.value is not None else ()
        if order == "weakest":
            groups = tuple(sorted(groups, key=lambda group: group.strength))
        page = groups[offset : offset + limit]
        with self._shared.reading() as images:
            rows = images.known(group.representative for group in page)
        return GroupListing(state, state.running and self._comparing, page, len(groups), rows)

    def group(self, image_id: str) -> tuple[InstanceGroup | None, dict[str, ImageRow]]:
        """The group of a photo and its members by id; None while groups are not known yet.

        Raises:
            NotFoundError: it is in none.
        """
        value = self.current().value
        if value is None:
            return None, {}
        try:
            group = group_of(value.groups if is_text(image_id) else (), image_id)
        except UsageError:
            raise NotFoundError(f"{image_id!r} is in no group") from None
        with self._shared.reading() as images:
            return group, images.known(group.ids)

    def csv(self) -> str:
        """A table as ``delg index groups --csv`` writes it.

        Raises:
            NotReadyError: groups are not known yet.
        """
        groups = self._known().groups
        with self._shared.reading() as images:
            rows = images.known(image_id for group in groups for image_id in group.ids)
        # What was removed meanwhile is left out by the next grouping.
        return groups_csv((group for group in groups if rows.keys() >= set(group.ids)), rows)

    def label_file(self) -> str:
        """A label file as ``delg index groups --labels`` writes it.

        Raises:
            NotReadyError: groups are not known yet.
        """
        return labels_csv(self._known().groups)

    def _known(self) -> InstanceGroups:
        state = self.current()
        if state.value is None:
            raise NotReadyError(state.error or "photos are being grouped; try again in a moment")
        return state.value

    def merge(self, ids: Sequence[str]) -> list[str]:
        """Mark the groups of some photos as one; gives all their ids.

        Raises:
            BadRequestError: they are in one group already, or an id is unknown.
            NotReadyError: groups are not known yet.
        """
        groups = self._known().groups
        with self._shared.reading() as images:
            _check_known(images, ids)
            parts = members_to_merge(groups, ids)
            try:
                images.merge_groups(*parts)
            except UsageError as error:
                raise BadRequestError(str(error)) from None
        self._show_decision()
        return [image_id for part in parts for image_id in part]

    def split(self, ids: Sequence[str]) -> tuple[list[str], list[str]]:
        """Mark photos as something else than the rest of their group; gives both.

        Raises:
            BadRequestError: they are not some photos of one group.
            NotReadyError: groups are not known yet.
        """
        groups = self._known().groups
        with self._shared.reading() as images:
            _check_known(images, ids)
            try:
                apart, others = members_to_split(groups, ids)
                images.split_group(apart, others)
            except UsageError as error:
                raise BadRequestError(str(error)) from None
        self._show_decision()
        return apart, others

    def _show_decision(self) -> None:
        """Group anew, so that who decided sees it; not where photos are compared meanwhile."""
        if not (self._comparing and self._task.state.running):
            self.current()
            self._task.wait(_REGROUP_SECONDS)

    def stop(self) -> None:
        """Give up what runs."""
        self._task.stop()


def _check_known(images: ImageIndex, ids: Sequence[str]) -> None:
    if not all(is_text(each) for each in ids) or images.known(ids).keys() != set(ids):
        raise NotFoundError("an image is not in the index")

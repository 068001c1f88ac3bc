"""Photos are listed once and handed to the shards that their ids belong to."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from delg.extraction.extractor import Extractor
from delg.images.scan import Listing, Photo, scan
from delg.remote_path import Location
from delg.types import Progress
from index.image_index import ImageIndex
from index.labels import Labels
from index.photos.ingest import AddReport, AssignedPhotos
from index.photos.missing import MissingPhotos, join_missing
from index.sharding.parts import Part
from index.sharding.shards import ShardMap

# Called with the number of a shard, and its done, total and failed photos.
ShardProgress = Callable[[int, int, int, int], None]


@dataclass(frozen=True, eq=False)
class AddAssigned:
    """Brings one shard up to date; it can be sent to where the shard is written.

    Attributes:
        sources: where the photos were listed.
        assigned: those of the shard.
        labels, reread, verify_stored: see :meth:`index.ImageIndex.add`.
        load: gives the model; None: the shard finds the one that it records.
    """

    sources: list[str | Location]
    assigned: AssignedPhotos
    labels: Labels | None
    reread: bool
    verify_stored: bool
    load: Callable[[], Extractor] | None

    def __call__(self, images: ImageIndex, progress: Progress) -> AddReport:
        """Do it."""
        if self.load is not None:
            images.share_model(self.load)
        return images.add_assigned(
            self.sources, self.assigned, self.labels, progress, self.reread, self.verify_stored
        )


class Writers(Protocol):
    """Where shards are written."""

    def run(
        self, tasks: Mapping[int, AddAssigned], progress: ShardProgress
    ) -> dict[int, AddReport]:
        """The report of each task, by the number of its shard."""


class LocalWriters:
    """Writes shards one after the other in this process: extraction uses all cores already."""

    def __init__(self, parts: Mapping[int, Part]) -> None:
        self._parts = parts

    def run(
        self, tasks: Mapping[int, AddAssigned], progress: ShardProgress
    ) -> dict[int, AddReport]:
        """See :class:`Writers`."""
        return {number: self._add(number, task, progress) for number, task in tasks.items()}

    def _add(self, number: int, task: AddAssigned, progress: ShardProgress) -> AddReport:
        def report(done: int, total: int, failed: int) -> None:
            progress(number, done, total, failed)

        return self._parts[number].run(lambda images: task(images, report))


def add_to_shards(
    shards: ShardMap,
    writers: Writers,
    listing: Listing,
    sources: list[str | Location],
    first_row: int,
    labels: Labels | None = None,
    progress: Progress | None = None,
    reread: bool = False,
    verify_stored: bool = False,
    load: Callable[[], Extractor] | None = None,
) -> AddReport:
    """Bring all shards up to date with the photos that were listed.

    Args:
        writers: write the shards.
        listing: what lies below the sources.
        sources: folders and files, for the photos that vanished from them.
        first_row: the row number after the highest of any shard. New photos get theirs in the
            order of the listing, as in one index.
        labels, progress, reread, verify_stored: see :func:`index.photos.ingest.add`.
        load: see :class:`AddAssigned`.
    """
    started = time.monotonic()
    assigned = _assign(shards, listing.photos, first_row)
    tasks = {
        number: AddAssigned(sources, photos, labels, reread, verify_stored, load)
        for number, photos in assigned.items()
    }
    whole = _WholeProgress({n: len(each.photos) for n, each in assigned.items()}, progress)
    reports = writers.run(tasks, whole)
    return _join(shards, reports, listing, time.monotonic() - started)


def list_photos(
    sources: Iterable[str | Location | Photo],
    prefix: str = "",
    exclude: Iterable[str] = (),
    default_excludes: bool = True,
) -> tuple[Listing, list[str | Location]]:
    """What lies below the sources, and those of them that are no photos with an id; see
    :func:`delg.images.scan.scan`."""
    sources = list(sources)
    places = [source for source in sources if not isinstance(source, Photo)]
    return scan(sources, prefix, exclude, default_excludes), places


def _assign(shards: ShardMap, photos: Iterable[Photo], first_row: int) -> dict[int, AssignedPhotos]:
    """Number of each shard -> its photos, of which some shards may have none."""
    groups: dict[int, list[Photo]] = {number: [] for number in range(len(shards.shards))}
    rows: dict[int, dict[str, int]] = {number: {} for number in groups}
    for row, photo in enumerate(photos, first_row):
        number = shards.number_of(photo.id)
        groups[number].append(photo)
        rows[number][photo.id] = row
    return {number: AssignedPhotos(groups[number], rows[number]) for number in groups}


class _WholeProgress:
    """The progress of all shards together. Until a shard has looked which photos are new, all of
    them count."""

    def __init__(self, photos: Mapping[int, int], progress: Progress | None) -> None:
        self._progress = progress
        self._shards = {number: (0, count, 0) for number, count in photos.items()}

    def __call__(self, number: int, done: int, total: int, failed: int) -> None:
        self._shards[number] = done, total, failed
        if self._progress is not None:
            sums = [sum(values) for values in zip(*self._shards.values(), strict=True)]
            self._progress(sums[0], max(sums[1], sums[0]), sums[2])


def _join(
    shards: ShardMap, reports: Mapping[int, AddReport], listing: Listing, seconds: float
) -> AddReport:
    """One report of what each shard did."""
    missing = join_missing(
        MissingPhotos(report.vanished, report.unreachable, report.losses)
        for report in reports.values()
    )
    return AddReport(
        added=sum(report.added for report in reports.values()),
        updated=sum(report.updated for report in reports.values()),
        unchanged=sum(report.unchanged for report in reports.values()),
        failed=[*listing.failures, *(f for report in reports.values() for f in report.failed)],
        vanished=missing.gone,
        unreachable=missing.unreachable,
        losses=missing.losses,
        moved={old: new for report in reports.values() for old, new in report.moved.items()},
        passed_over=dict(Counter(listing.passed_over)),
        # Every shard knows only its own images.
        unknown_labels=sorted(
            image_id
            for number, report in reports.items()
            for image_id in report.unknown_labels
            if shards.number_of(image_id) == number
        ),
        seconds=seconds,
    )

"""Ingest: photos on disk become rows and features, only where something is new."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from delg.extraction.extractor import Extractor
from delg.files import file_sha256
from delg.images.decode import ImageError, read_bytes
from delg.images.scan import Photo, scan
from delg.types import Failure, ImageFeatures
from index.labels import Label, Labels
from index.settings import StoreSettings
from index.storage.catalog_tables import ImageRow, update_images
from index.storage.store import Store

# Called as progress(done, total, failed) after every photo.
Progress = Callable[[int, int, int], None]


@dataclass(frozen=True)
class AddReport:
    """What an ``add`` did.

    Attributes:
        added, updated, unchanged: numbers of photos: new; extracted again as their bytes changed;
            left alone.
        failed: photos that cannot be used, with the reason.
        vanished: ids in the index whose file is no longer below the sources.
        unknown_labels: ids in the label file that name no photo in the index.
        seconds: of work.
    """

    added: int
    updated: int
    unchanged: int
    failed: list[Failure]
    vanished: list[str]
    unknown_labels: list[str]
    seconds: float


@dataclass
class _Plan:
    """What has to be done for the photos found."""

    extract: list[tuple[Photo, ImageRow | None]] = field(default_factory=list)
    # Rows whose features stay but whose path, time or label is new.
    touch: list[ImageRow] = field(default_factory=list)
    unchanged: int = 0
    failed: list[Failure] = field(default_factory=list)


def _stat(photo: Photo) -> tuple[int, int]:
    stat = photo.path.stat()
    return stat.st_size, stat.st_mtime_ns


def _same_bytes(photo: Photo, row: ImageRow, size: int) -> bool:
    return size == row.size and file_sha256(photo.path) == row.sha256


def _relabelled(row: ImageRow, labels: Labels | None) -> ImageRow:
    found = labels.get(row.id) if labels else None
    return replace(row, label=found.label, metadata=found.metadata) if found else row


def _plan(store: Store, photos: Iterable[Photo], labels: Labels | None) -> _Plan:
    plan = _Plan()
    for photo in photos:
        row = store.catalog.by_id(photo.id)
        if row is None or row.state == "failed" or row.segment in store.unreadable:
            plan.extract.append((photo, row))
            continue
        try:
            size, mtime_ns = _stat(photo)
            moved = row.path != str(photo.path)
            # Features that were imported have no path.
            if moved and row.path and Path(row.path).exists() and not photo.path.samefile(row.path):
                plan.failed.append(_taken(photo, row))
                continue
            same_time = not moved and (size, mtime_ns) == (row.size, row.mtime_ns)
            if not same_time and not _same_bytes(photo, row, size):
                plan.extract.append((photo, row))
                continue
        except OSError as error:
            plan.failed.append(Failure(str(photo.path), f"cannot be read: {error.strerror}"))
            continue
        plan.unchanged += 1
        new = _relabelled(replace(row, path=str(photo.path), mtime_ns=mtime_ns), labels)
        if new != row:
            plan.touch.append(new)
    return plan


def _taken(photo: Photo, row: ImageRow) -> Failure:
    reason = f"its id {photo.id!r} belongs to {row.path}; add it with a --prefix"
    return Failure(str(photo.path), reason)


class _Batch:
    """Photos waiting to be committed together."""

    def __init__(self) -> None:
        self.images: list[ImageRow] = []
        self.features: list[ImageFeatures] = []
        self._started = time.monotonic()

    def is_due(self, settings: StoreSettings) -> bool:
        """Whether there is something to commit, and enough of it or for long enough."""
        waited = time.monotonic() - self._started
        full = len(self.images) >= settings.segment_images
        return full or (bool(self.images) and waited >= settings.segment_seconds)


def add(
    store: Store,
    extractor: Callable[[], Extractor],
    sources: Iterable[str | Path | Photo],
    labels: Labels | None = None,
    prefix: str = "",
    progress: Progress | None = None,
) -> AddReport:
    """Bring the index up to date with the photos in ``sources``; under the store's lock.

    Photos of the same size and modification time are taken as unchanged; of those that differ,
    the SHA-256 decides. Photos that failed before are tried again. Work is committed in batches.

    Args:
        store: of the index.
        extractor: gives the index's model; called only where there is something to extract.
        sources: folders and files, or photos that have an id already.
        labels: replaces label and metadata of every photo it knows.
        prefix: put before every id.
        progress: see ``Progress``.

    Raises:
        UsageError: a source does not exist.
    """
    started = time.monotonic()
    sources = list(sources)
    photos, failed = scan(sources, prefix)
    plan = _plan(store, photos, labels)
    failed += plan.failed
    _touch(store, plan.touch)
    broken = _extract(store, extractor, plan, labels, progress)
    failed += broken.values()
    done = [row for photo, row in plan.extract if photo.id not in broken]
    updated = sum(row is not None and row.state == "ok" for row in done)
    if not store.ann_index_current:
        store.save_ann_index()
    return AddReport(
        added=len(done) - updated,
        updated=updated,
        unchanged=plan.unchanged,
        failed=failed,
        vanished=_vanished(store, sources, {photo.id for photo in photos}),
        unknown_labels=_unknown(store, labels, prefix),
        seconds=time.monotonic() - started,
    )


def _touch(store: Store, rows: list[ImageRow]) -> None:
    if not rows:
        return
    with store.catalog.write() as db:
        update_images(db, rows)


def _extract(
    store: Store,
    extractor: Callable[[], Extractor],
    plan: _Plan,
    labels: Labels | None,
    progress: Progress | None,
) -> dict[str, Failure]:
    """Extract and commit what the plan asks for; what cannot be used is recorded and returned,
    by id. While a batch is written, the next is extracted."""
    failed: dict[str, Failure] = {}
    batch, written = _Batch(), Future[None]()
    written.set_result(None)
    facts: dict[str, tuple[int, int, str]] = {}

    def read(photo: Photo) -> bytes:
        # The stat comes first: a photo changed while it is read counts as changed next time.
        try:
            size, mtime_ns = _stat(photo)
        except OSError as error:
            facts[photo.id] = (0, 0, "")
            raise ImageError(f"cannot be read: {error.strerror}") from None
        facts[photo.id] = (size, mtime_ns, "")
        data = read_bytes(photo.path)
        facts[photo.id] = (size, mtime_ns, hashlib.sha256(data).hexdigest())
        return data

    photos = [photo for photo, _ in plan.extract]
    results = extractor().extract_many(photos, read) if photos else iter(())
    with ThreadPoolExecutor(1) as writer:
        for number, (photo, result) in enumerate(zip(photos, results, strict=True), 1):
            size, mtime_ns, digest = facts.pop(photo.id)
            known = labels.get(photo.id) if labels else None
            old = plan.extract[number - 1][1]
            label = known or (Label(old.label, old.metadata) if old else Label(None))
            row = ImageRow(
                photo.id, str(photo.path), size, mtime_ns, digest,
                label=label.label, metadata=label.metadata,
            )  # fmt: skip
            if isinstance(result, Failure):
                failed[photo.id] = Failure(str(photo.path), result.reason)
                # What is stored of a photo that could be read before stays.
                if old is None or old.state == "failed":
                    batch.images.append(replace(row, state="failed", reason=result.reason))
            else:
                batch.images.append(replace(row, width=result.width, height=result.height))
                batch.features.append(result)
            if progress:
                progress(number, len(photos), len(failed))
            if batch.is_due(store.settings.store):
                written.result()
                written = writer.submit(store.commit, batch.images, batch.features)
                batch = _Batch()
        written.result()
        if batch.images:
            store.commit(batch.images, batch.features)
    return failed


def _vanished(store: Store, sources: list[str | Path | Photo], present: set[str]) -> list[str]:
    """Ids of images whose file lay below one of the source folders and is gone."""
    places = [Path(source) for source in sources if not isinstance(source, Photo)]
    folders = [place.absolute() for place in places if place.is_dir()]
    return [
        row.id
        for row in store.catalog.images()
        if row.id not in present
        and any(folder in Path(row.path).parents for folder in folders)
        and not Path(row.path).exists()
    ]


def _unknown(store: Store, labels: Labels | None, prefix: str) -> list[str]:
    if labels is None:
        return []
    return sorted(one for one in labels.ids() if store.catalog.by_id(one) is None)

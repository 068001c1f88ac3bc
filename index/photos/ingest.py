"""Photos on disk become rows and features of an index; only what is new or changed is extracted."""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from delg.extraction.extractor import Extractor
from delg.files import file_sha256
from delg.images.decode import ImageError, read_bytes
from delg.images.scan import Listing, Photo, scan
from delg.paths import as_written, presence
from delg.remote_path import LIST_SIGN, Location, RemotePath, as_location
from delg.types import Failure, ImageFeatures, Progress
from index.labels import FolderLabels, Label, Labels
from index.photos.file_state import FileState, stat_photos
from index.photos.missing import MissingPhotos, SourceLoss, find_missing
from index.photos.moved import follow
from index.photos.regional import regional_extraction
from index.settings import StoreSettings
from index.storage.catalog_tables import ImageRow, update_images
from index.storage.merge import merge_small_segments
from index.storage.store import Store

# Photos behind URLs that are waited for, besides those that are decoded.
_WAITING_THREADS = 4


@dataclass(frozen=True)
class AddReport:
    """The result of an ``add``.

    Attributes:
        added, updated, unchanged: numbers of photos: new; extracted again as their bytes changed;
            left as they were.
        failed: photos that cannot be used, with the reason.
        vanished: ids in the index whose file is no longer below the sources.
        unreachable: id -> why its file below the sources cannot be looked at.
        losses: sources that lost most of their photos.
        moved: former -> present id of photos whose bytes were found under another name.
        passed_over: numbers of files below the sources that are no photos, by suffix.
        unknown_labels: ids in the label file that name no photo in the index.
        seconds: of work.
    """

    added: int
    updated: int
    unchanged: int
    failed: list[Failure]
    vanished: list[str]
    unreachable: dict[str, str]
    losses: list[SourceLoss]
    moved: dict[str, str]
    passed_over: dict[str, int]
    unknown_labels: list[str]
    seconds: float


@dataclass(frozen=True)
class AssignedPhotos:
    """The photos of one shard among those below the sources, which are listed only once.

    Attributes:
        photos: by id.
        rows: by id, row numbers that no shard has given.
    """

    photos: list[Photo]
    rows: Mapping[str, int]


@dataclass
class _Plan:
    """What has to be done for the photos below the sources."""

    extract: list[tuple[Photo, ImageRow | None]] = field(default_factory=list)
    # Rows whose features stay but whose path, time or label is new.
    update: list[ImageRow] = field(default_factory=list)
    unchanged: int = 0
    failed: list[Failure] = field(default_factory=list)
    # Former -> present id.
    moved: dict[str, str] = field(default_factory=dict)
    # Row number -> id, where only the Unicode form of the id differs.
    rewritten: dict[int, str] = field(default_factory=dict)


def _same_bytes(photo: Photo, row: ImageRow, state: FileState) -> bool:
    return state.size == row.size and file_sha256(photo.path) == row.sha256


def _relabelled(row: ImageRow, photo: Photo, labels: Labels | None) -> ImageRow:
    """With what the labels say, and for what nobody has said yet, what the photo's source says."""
    label = labels.get(photo.id) if labels else None
    if photo.label and isinstance(labels, FolderLabels):
        label = None  # A manifest knows more than the folders of an address.
    label = label or Label(row.label or photo.label, row.metadata)
    return replace(row, label=label.label, metadata={**photo.metadata, **label.metadata})


def _plan(
    store: Store, photos: Iterable[Photo], labels: Labels | None, reread: bool = False
) -> _Plan:
    plan = _Plan()
    for photo in stat_photos(photos):
        row = store.catalog.by_id(photo.id)
        if row is None or row.state == "failed" or row.segment in store.unreadable:
            plan.extract.append((photo, row))
            continue
        try:
            state = FileState.of(photo)
            if _is_of_another_photo(photo, row):
                plan.failed.append(_id_is_used(photo, row))
                continue
            is_untouched = str(photo.path) == row.path and state.is_that_of(row)
            if (reread or not is_untouched) and not _same_bytes(photo, row, state):
                plan.extract.append((photo, row))
                continue
        except OSError as error:
            plan.failed.append(Failure(str(photo.path), f"cannot be read: {error.strerror}"))
            continue
        plan.unchanged += 1
        if row.id != photo.id:
            plan.rewritten[row.row] = photo.id
        _update(plan, photo, row, labels, state)
    return plan


def _update(
    plan: _Plan, photo: Photo, row: ImageRow, labels: Labels | None, state: FileState
) -> None:
    present = replace(
        row, id=photo.id, path=str(photo.path), mtime_ns=state.mtime_ns, etag=state.etag
    )
    updated = _relabelled(present, photo, labels)
    if updated != row:
        plan.update.append(updated)


def _follow_moved(store: Store, plan: _Plan, labels: Labels | None) -> None:
    """Give moved photos their new ids in the index, and take them out of what is extracted."""
    entries = [
        (photo, row)
        for photo, row in plan.extract
        if row is None or (row.state == "ok" and row.segment not in store.unreadable)
    ]
    moves = follow(store.catalog, entries)
    plan.moved = {row.id: new for new, row in moves.rows.items()}
    renamed = {row.row: new for new, row in moves.rows.items()}
    if renamed or plan.rewritten:
        store.rename({**renamed, **plan.rewritten}, moves.displaced)
    extract, plan.extract = plan.extract, []
    for photo, row in extract:
        moved = moves.rows.get(photo.id)
        if moved is None:
            is_other = row is not None and row.id in moves.renumbered
            plan.extract.append((photo, None if is_other else row))
        elif moved.state == "failed" or moved.segment in store.unreadable:
            plan.extract.append((photo, replace(moved, id=photo.id)))
        else:
            try:
                _update(plan, photo, moved, labels, FileState.of(photo))
            except OSError:
                continue  # It went away again; the next add says so.


def _is_of_another_photo(photo: Photo, row: ImageRow) -> bool:
    """Whether the id is already that of a photo elsewhere, which is still there."""
    # Imported features may have no path.
    if not row.path or row.path == str(photo.path):
        return False
    former = presence(row.path)
    if former.kind == "unreachable":
        # The same bytes are the same photo, wherever the other one is.
        return not _same_bytes(photo, row, FileState.of(photo))
    return former.is_there and not _is_same_file(photo.path, as_location(row.path))


def _is_same_file(path: Location, other: Location) -> bool:
    if isinstance(path, RemotePath) or isinstance(other, RemotePath):
        return path == other
    return path.samefile(other)


def _id_is_used(photo: Photo, row: ImageRow) -> Failure:
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
        seconds = time.monotonic() - self._started
        is_full = len(self.images) >= settings.segment_images
        return is_full or (bool(self.images) and seconds >= settings.segment_seconds)


def add(
    store: Store,
    extractor: Callable[[], Extractor],
    sources: Iterable[str | Location | Photo],
    labels: Labels | None = None,
    prefix: str = "",
    progress: Progress | None = None,
    exclude: Iterable[str] = (),
    reread: bool = False,
    verify_stored: bool = False,
    default_excludes: bool = True,
    assigned: AssignedPhotos | None = None,
) -> AddReport:
    """Bring the index up to date with the photos in ``sources``; under the store's lock.

    Photos of the same size and modification time, or behind URLs of the same tag (ETag), are taken
    as unchanged; of those that differ, the SHA-256 decides. Photos that were moved or renamed are
    known by it too: they keep their features and labels under their new ids. Photos that failed
    before are tried again. Work is committed in batches.

    Args:
        store: of the index.
        extractor: returns the index's model; called only if there is something to extract.
        sources: folders, files and URLs, or photos that have an id already; see
            :func:`delg.images.scan.scan`.
        labels: replaces label and metadata of every photo it knows.
        prefix: put before every id.
        progress: called as ``progress(done, total, failed)`` after every photo.
        exclude, default_excludes: files and folders to leave out; see
            :func:`delg.images.scan.scan`.
        reread: read all photos again, to notice changes that kept size and modification time.
        verify_stored: compare the checksums of what is stored first; photos whose features are
            damaged are extracted again.
        assigned: the photos below the sources that are this index's, where it is a shard.

    Raises:
        UsageError: a source does not exist, or cannot be looked at.
    """
    started = time.monotonic()
    if verify_stored:
        store.verify_segments()
    sources = list(sources)
    if assigned is None:
        photos, failed, passed_over = scan(sources, prefix, exclude, default_excludes)
    else:
        photos, failed, passed_over = Listing(assigned.photos, [], Counter())
    plan = _plan(store, photos, labels, reread)
    _follow_moved(store, plan, labels)
    failed += plan.failed
    if plan.update:
        with store.catalog.write() as db:
            update_images(db, plan.update)
    rows = assigned.rows if assigned is not None else None
    failures = _extract(store, extractor, plan, labels, progress, rows)
    failed += failures.values()
    # What the index knew before of each photo that was extracted.
    previous = [row for photo, row in plan.extract if photo.id not in failures]
    updated = sum(row is not None and row.state == "ok" for row in previous)
    if not store.ann_index_current:
        store.save_ann_index()
    missing = _missing(store, sources, {photo.id for photo in photos})
    return AddReport(
        added=len(previous) - updated,
        updated=updated,
        unchanged=plan.unchanged,
        failed=failed,
        vanished=missing.gone,
        unreachable=missing.unreachable,
        losses=missing.losses,
        moved=plan.moved,
        passed_over=dict(passed_over),
        unknown_labels=_unknown_labels(store, labels),
        seconds=time.monotonic() - started,
    )


def _extract(
    store: Store,
    extractor: Callable[[], Extractor],
    plan: _Plan,
    labels: Labels | None,
    progress: Progress | None,
    rows: Mapping[str, int] | None,
) -> dict[str, Failure]:
    """Extract and commit what the plan asks for; what cannot be used is recorded and returned,
    by id. While a batch is written, the next is extracted."""
    failed: dict[str, Failure] = {}
    batch, commit = _Batch(), Future[None]()
    commit.set_result(None)
    # State of the file and SHA-256 by id, until the photo's features arrive.
    files: dict[str, tuple[FileState, str]] = {}

    def read(photo: Photo) -> bytes:
        # The stat comes first: a photo changed while it is read counts as changed next time.
        try:
            state = FileState.of(photo)
        except OSError as error:
            files[photo.id] = (FileState(0, 0), "")
            raise ImageError(f"cannot be read: {error.strerror}") from None
        files[photo.id] = (state, "")
        data = read_bytes(photo.path, photo.stat)
        files[photo.id] = (state.of_size(len(data)), hashlib.sha256(data).hexdigest())
        return data

    photos = [photo for photo, _ in plan.extract]
    results: Iterator[ImageFeatures | Failure] = iter(())
    if photos:
        model = extractor()
        refine = regional_extraction(model, store.settings)
        results = model.extract_many(photos, read, _threads(photos), refine)
    with ThreadPoolExecutor(1) as writer:
        for number, (photo, result) in enumerate(zip(photos, results, strict=True), 1):
            state, digest = files.pop(photo.id)
            old = plan.extract[number - 1][1]
            row = ImageRow(
                photo.id,
                str(photo.path),
                max(state.size, 0),
                state.mtime_ns,
                digest,
                etag=state.etag,
            )
            if old is not None:
                row = replace(row, label=old.label, metadata=old.metadata)
            row = _relabelled(row, photo, labels)
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
                commit.result()
                commit = writer.submit(_commit, store, batch, rows)
                batch = _Batch()
        commit.result()
        if batch.images:
            _commit(store, batch, rows)
    return failed


def _threads(photos: list[Photo]) -> int | None:
    """Threads that read and decode: more where photos are waited for; None is one per core."""
    is_remote = any(isinstance(photo.path, RemotePath) for photo in photos)
    return 2 * (os.cpu_count() or 1) + _WAITING_THREADS if is_remote else None


def _commit(store: Store, batch: _Batch, rows: Mapping[str, int] | None) -> None:
    store.commit(batch.images, batch.features, rows)
    merge_small_segments(store)


def _missing(
    store: Store, sources: list[str | Location | Photo], present: set[str]
) -> MissingPhotos:
    """The images whose file lay below one of the source folders and is missing there."""
    places = [
        as_written(as_location(source))
        for source in sources
        if not isinstance(source, Photo) and not str(source).startswith(LIST_SIGN)
    ]
    urls = tuple(f"{place}/" for place in places if isinstance(place, RemotePath))
    folders = {
        place.absolute()
        for place in places
        if isinstance(place, Path) and presence(place).kind == "folder"
    }
    below = (
        row
        for row in store.catalog.images()
        if row.path.startswith(urls) or not folders.isdisjoint(Path(row.path).parents)
    )
    return find_missing(below, present)


def _unknown_labels(store: Store, labels: Labels | None) -> list[str]:
    ids = labels.ids() if labels else set()
    return sorted(image_id for image_id in ids if store.catalog.by_id(image_id) is None)

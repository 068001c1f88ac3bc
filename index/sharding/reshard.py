"""Split, join and move indexes without extracting anything again.

Features are copied as they are stored. A new index is made beside its final name, so that it is
complete under that name or not there; the same command continues what was interrupted.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from delg.errors import DelgError, UsageError
from delg.files import make_folder, write_bytes, write_text
from delg.paths import exists
from delg.remote_path import RemotePath, is_url
from delg.types import Progress
from index.image_index import ImageIndex
from index.photos.uploaded_photos import upload_path
from index.settings import IndexSettings
from index.sharding.locations import local_folder, send_shard
from index.sharding.shards import ShardEntry, ShardMap, is_sharded, new_entries, shard_number
from index.storage.catalog_tables import ImageRow
from index.storage.lock import writer_lock
from index.storage.opened_store import HOW_TO_REPAIR
from index.storage.product_quantizer import ProductQuantizer
from index.storage.store import Store

_PARTIAL, _TASK = ".partial", "task.json"
# Of catalogs, and not copied from one to another.
_OWN_KEYS = ("format", "generation", "settings")


@dataclass(frozen=True, eq=False)
class _Source:
    """An index that images are copied from.

    Attributes:
        offset: added to its row numbers, so that those of all sources differ.
    """

    store: Store
    offset: int = 0

    def images(self) -> Iterator[ImageRow]:
        return (replace(row, row=row.row + self.offset) for row in self.store.catalog.images())


def reshard(
    sources: Sequence[Path],
    out: Path,
    shards: int | None,
    replicas: int = 1,
    progress: Progress | None = None,
) -> int:
    """Copy all images of some indexes into a new one.

    Args:
        sources: ordinary or sharded indexes of one model.
        out: folder of the new index.
        shards: of the new index; None: an ordinary one.
        replicas: see :class:`index.sharding.shards.ShardMap`.
        progress: called as ``progress(done, total, failed)``.

    Returns:
        Number of images that can be found.

    Raises:
        UsageError: the indexes are not of one model, two have an image of the same id, or ``out``
            is in use.
        DelgError: a source is damaged, or the new index cannot be written.
    """
    if exists(out):
        raise UsageError(f"{out}: exists; choose another place for the new index")
    opened = _open_sources(sources)
    try:
        work = out.with_name(out.name + _PARTIAL)
        _start(work, opened, shards)
        entries = (ShardEntry(name="", location="."),) if shards is None else new_entries(shards)
        copy = _Copy(opened, work, out, len(entries), progress)
        count = sum(copy.fill(number, entry.location) for number, entry in enumerate(entries))
        if shards is not None:
            meta = opened[0].store.catalog.all_meta()
            ShardMap.of(meta, entries, replicas).write(work)
        (work / _TASK).unlink()
        work.rename(out)
        return count
    finally:
        for source in opened:
            source.store.close()


def _open_sources(paths: Sequence[Path]) -> list[_Source]:
    """The ordinary indexes of all sources, undamaged, of one model and without common ids."""
    folders = [folder for path in paths for folder in _folders_of(path)]
    stores = [Store(folder) for folder in folders]
    origin = ShardMap.of(stores[0].catalog.all_meta(), new_entries(1))
    known: dict[str, Store] = {}
    for store in stores:
        try:
            origin.check_origin(store.catalog.all_meta(), str(store.folder))
        except DelgError as error:
            raise UsageError(f"{stores[0].folder}: {error}") from None
        for image in store.catalog.images():
            first = known.setdefault(image.id, store)
            if first is not store:
                raise UsageError(
                    f"{image.id!r} is in {first.folder} and in {store.folder}; remove one"
                )
        store.verify_segments()
        for problem in store.unreadable.values():
            raise DelgError(f"{problem}; {HOW_TO_REPAIR}")
    return _with_offsets(stores)


def _folders_of(path: Path) -> list[Path]:
    if not is_sharded(path):
        return [path]
    return [local_folder(entry.location, path) for entry in ShardMap.read(path).shards]


def _with_offsets(stores: Sequence[Store]) -> list[_Source]:
    """Shards of one index have row numbers that differ already, and keep them."""
    rows = [[image.row for image in store.catalog.images()] for store in stores]
    total = sum(map(len, rows))
    if len(np.unique(np.concatenate([np.array(r, np.int64) for r in rows]))) == total:
        return [_Source(store) for store in stores]
    ends = np.cumsum([0, *(store.catalog.next_row() for store in stores)])
    return [_Source(store, int(end)) for store, end in zip(stores, ends[:-1], strict=True)]


def _start(work: Path, sources: Sequence[_Source], shards: int | None) -> None:
    """Begin, or go on with the same task."""
    states = [[str(s.store.folder.absolute()), s.store.catalog.generation] for s in sources]
    task = json.dumps([states, shards])
    if exists(work):
        try:
            known = (work / _TASK).read_text("utf-8")
        except OSError:
            known = ""
        if known != task:
            raise UsageError(f"{work}: left by another attempt; remove it first")
    make_folder(work)
    write_text(work / _TASK, task)


class _Copy:
    """Fills the shards of a new index.

    Args:
        work, out: its folder while it is made, and afterwards.
        count: of shards.
    """

    def __init__(
        self,
        sources: Sequence[_Source],
        work: Path,
        out: Path,
        count: int,
        progress: Progress | None,
    ) -> None:
        self._sources, self._work, self._out, self._count = sources, work, out, count
        self._progress, self._done = progress, 0
        self._total = sum(
            source.store.catalog.count(state) for source in sources for state in ("ok", "failed")
        )

    def fill(self, number: int, location: str) -> int:
        """Copy what belongs to a shard; returns the number of its images that can be found."""
        target = self._open(self._work / location)
        try:
            with target.lock():
                present = {image.id for image in target.catalog.images()}
                self._report(len(present))
                for source in self._sources:
                    images = [
                        image
                        for image in source.images()
                        if shard_number(image.id, self._count) == number and image.id not in present
                    ]
                    self._copy(source, images, target, self._out / location)
                target.rebuild_ann_index()
                target.save_ann_index()
            return target.catalog.count("ok")
        finally:
            target.close()

    def _open(self, folder: Path) -> Store:
        if ImageIndex.exists(folder):
            return Store(folder)
        first = self._sources[0].store
        meta = {k: v for k, v in first.catalog.all_meta().items() if k not in _OWN_KEYS}
        settings: IndexSettings = first.settings
        return Store.create(folder, meta, settings, {_TASK})

    def _copy(
        self, source: _Source, images: Sequence[ImageRow], target: Store, final: Path
    ) -> None:
        groups: dict[ProductQuantizer | None, list[ImageRow]] = {}
        for image in sorted(images, key=lambda image: image.row):
            if image.segment is None:
                groups.setdefault(None, []).append(image)
            else:
                quantizer = source.store.segments[image.segment].quantizer
                groups.setdefault(quantizer, []).append(image)
        size = target.settings.store.segment_images
        for codebook, of_codebook in groups.items():
            for start in range(0, len(of_codebook), size):
                batch = of_codebook[start : start + size]
                moved = [self._with_upload(image, source.store, target, final) for image in batch]
                target.copy_in(moved, source.store, codebook)
                self._report(len(batch))

    def _with_upload(self, image: ImageRow, source: Store, target: Store, final: Path) -> ImageRow:
        """The image with its file, if the index keeps that."""
        path = upload_path(source, image.id)
        if image.path != str(path):
            return image
        place = upload_path(target, image.id)
        make_folder(place.parent)
        try:
            write_bytes(place, path.read_bytes())
        except OSError as error:
            raise DelgError(f"{path}: cannot be read: {error.strerror}") from None
        relative = place.relative_to(target.folder.absolute())
        return replace(image, path=str(final.absolute() / relative))

    def _report(self, images: int) -> None:
        self._done += images
        if self._progress is not None:
            self._progress(self._done, self._total, 0)


def move(folder: Path, name: str, to: str) -> str:
    """Move a shard's folder, and say so in ``index.yaml``; searches that are running go on.

    Args:
        folder: of the sharded index.
        name: of the shard.
        to: its new folder, which must not exist, or a URL, where it is only read.

    Returns:
        The new location.

    Raises:
        UsageError: there is no such shard, or ``to`` is in use.
        DelgError: it cannot be read or written; nothing is changed.
    """
    if not is_sharded(folder):
        raise UsageError(f"{folder}: no sharded index; an ordinary one is moved as a folder")
    shards = ShardMap.read(folder)
    entry = next((entry for entry in shards.shards if entry.name == name), None)
    if entry is None:
        names = ", ".join(entry.name for entry in shards.shards[:10])
        raise UsageError(f"{folder}: has no shard {name}; it has {names}")
    if is_url(entry.location):
        raise UsageError(f"{entry.location}: a shard behind a URL is not moved from there")
    source = local_folder(entry.location, folder)
    location = to if is_url(to) else str(Path(to).absolute())
    moved = tuple(
        each.model_copy(update={"location": location}) if each == entry else each
        for each in shards.shards
    )
    changed = shards.model_copy(update={"shards": moved})
    if not is_url(to) and exists(location):
        raise UsageError(f"{location}: exists; choose another place for the shard")
    # Nobody may add to what is removed afterwards.
    with writer_lock(source):
        if is_url(to):
            send_shard(source, RemotePath.parse(to))
        else:
            _copy_folder(source, Path(location))
        changed.write(folder)
        shutil.rmtree(source, ignore_errors=True)
    return location


def _copy_folder(source: Path, target: Path) -> None:
    """Copy an index; under its lock. What is copied is checked before it has its name."""
    work = target.with_name(target.name + _PARTIAL)
    shutil.rmtree(work, ignore_errors=True)
    make_folder(target.parent)
    try:
        shutil.copytree(source, work, ignore=shutil.ignore_patterns("writer.*", "*.tmp*", "*-shm"))
    except OSError as error:
        raise DelgError(f"{work}: cannot be written: {error}") from None
    copy = Store(work)
    copy.verify_segments()
    problems = list(copy.unreadable.values())
    copy.close()
    if problems:
        shutil.rmtree(work, ignore_errors=True)
        raise DelgError(f"{problems[0]}; {HOW_TO_REPAIR}")
    work.rename(target)

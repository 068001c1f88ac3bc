"""A sharded index as one index: opening, changing and searching all its shards."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from delg.errors import DelgError, UsageError
from delg.extraction.extractor import Extractor
from delg.images.scan import Photo
from delg.remote_path import Location, RemotePath
from delg.types import Failure, Progress
from delg.zoo.registry import DEFAULT_MODEL
from index.feature_spec import FeatureSpec
from index.image_index import ImageIndex
from index.index_model import IndexModel
from index.labels import Label, Labels, read_labels
from index.photos.ingest import AddReport
from index.photos.relocate import Relocation
from index.results import MissingShard
from index.search.shard import Request, SearchContext, Shard
from index.settings import IndexSettings
from index.sharding.assign import LocalWriters, Writers, add_to_shards, list_photos
from index.sharding.locations import local_folder
from index.sharding.part_set import PartSet
from index.sharding.parts import PartRecord, as_shards
from index.sharding.sharded_collection import ShardedCollection
from index.sharding.shards import ShardMap, is_sharded, new_entries
from index.storage.catalog_tables import ImageRow
from index.storage.maintenance import CheckReport
from index.storage.store import Store, check_usable
from index.storage.trash import Change

T = TypeVar("T")
# Address of the Ray cluster whose workers answer for the shards; unset: this process does.
RAY_VARIABLE = "DELG_RAY"


class ShardedIndex(ShardedCollection, ImageIndex):
    """Several ordinary indexes that are searched as one; see :class:`index.ImageIndex`.

    What only one index can do raises a ``UsageError``. Photos of shards that cannot be opened are
    not found, and :meth:`missing_shards` and every result say so.

    Args:
        folder: of ``index.yaml``.
        shards: what that says.
        model: see :meth:`open`.
        ray: address of a Ray cluster whose workers answer for the shards; None: this process.
        searched: see :meth:`open`.
    """

    def __init__(
        self,
        folder: Path,
        shards: ShardMap,
        model: str | None = None,
        ray: str | None = None,
        searched: bool = True,
    ) -> None:
        self.path, self._ray = folder, ray
        self._closed, self._process = False, os.getpid()
        self._lost_shards: list[MissingShard] = []
        self._load: Callable[[], Extractor] | None = None
        # Workers elsewhere prepare themselves when they start.
        self._prepared = ray is not None and searched
        self._opened_parts = PartSet.open(folder, shards, model, ray if searched else None)
        self._read_records()
        self._opened_model = IndexModel(self._record, model)

    @classmethod
    def open(
        cls,
        path: str | Path,
        model: str | None = None,
        ray: str | None = None,
        searched: bool = True,
    ) -> ShardedIndex:
        """A sharded index that exists; see :meth:`index.ImageIndex.open`.

        Args:
            ray: address of a Ray cluster ("auto": the one of this machine) whose workers answer
                for the shards; None: what the variable DELG_RAY says, or this process.
            searched: whether queries will be asked; if not, this process opens the shards, and
                workers only write them.

        Raises:
            DelgError: no shard can be opened, or one was made by another model.
        """
        folder = Path(path)
        ray = ray or os.environ.get(RAY_VARIABLE) or None
        images = cls(folder, ShardMap.read(folder), model, ray, searched)
        images.check_model(model)
        return images

    @classmethod
    def create_sharded(
        cls,
        path: str | Path,
        count: int,
        model: str = DEFAULT_MODEL,
        settings: IndexSettings | None = None,
        replicas: int = 1,
    ) -> ShardedIndex:
        """A new, empty index of ``count`` shards below its folder; see
        :meth:`index.ImageIndex.create`. What a killed attempt left is completed."""
        folder, entries = Path(path), new_entries(count)
        if not is_sharded(folder):
            check_usable(folder, {"shards"})
            for entry in entries:
                place = local_folder(entry.location, folder)
                ImageIndex.open_or_create(place, model, settings=settings).close()
            with ImageIndex.open(place) as images:
                ShardMap.of(images.meta(), entries, replicas).write(folder)
        return cls.open(folder, searched=False)

    def _read_records(self) -> None:
        """Read what shards record of themselves, and make sure that they are of one kind."""
        parts = self._parts
        records = parts.run_on_open(PartRecord.of)
        for number, record in records.items():
            try:
                parts.shards.check_origin(record.index.catalog.values, parts.name(number))
            except DelgError as error:
                raise DelgError(f"{self.path}: {error}") from None
        self._next_row = max(record.next_row for record in records.values())
        first = next(iter(records.values())).index
        self._record = replace(first, folder=self.path)
        self._context = SearchContext.of(self._record)

    def close(self) -> None:
        """Let go of the shards; every other method raises a ``UsageError`` afterwards."""
        if not self._closed:
            self._opened_parts.close()
        self._closed = True

    def refresh(self) -> None:
        """Show the newest committed state."""
        self._parts.run_on_open(lambda images: images.refresh())
        self._read_records()
        self._opened_model.record = self._record

    @property
    def _store(self) -> Store:
        return self._refuse("this")

    def _refuse(self, what: str) -> NoReturn:
        raise UsageError(
            f"{self.path}: a sharded index cannot do {what}; do it to an ordinary index and "
            "split that (delg index shard), or join the shards first (delg index merge)"
        )

    @property
    def _model(self) -> IndexModel:
        self._check_open()
        return self._opened_model

    @property
    def shard_count(self) -> int:
        """Number of the shards, missing ones included."""
        return len(self._parts.shards.shards)

    def shard_of(self, image_id: str) -> str:
        """Name of the shard that an image belongs to."""
        return self._parts.name(self._parts.shards.number_of(image_id))

    def missing_shards(self) -> Sequence[MissingShard]:
        """The shards that cannot be opened; their photos cannot be found."""
        return self._parts.missing_shards()

    def _check_known(self, ids: Iterable[str]) -> list[str]:
        """The ids, each once.

        Raises:
            UsageError: an image is in no shard.
            ShardLostError: a shard is missing.
        """
        self._parts.check_complete()
        ids = list(dict.fromkeys(ids))
        unknown = [image_id for image_id in ids if self.image(image_id) is None]
        if unknown:
            raise UsageError(f"{self.path}: has no image {', '.join(unknown[:5])}")
        return ids

    def _shards(self) -> Sequence[Shard]:
        assert self._model
        if not self._prepared:
            # Before the clock of any query runs; workers elsewhere do so when they start.
            self._parts.run_on_open(lambda images: images.prepare())
            self._prepared = True
        return as_shards(list(self._parts.parts.values()), self._context)

    @property
    def _deadline(self) -> float | None:
        return self._parts.shards.deadline_seconds

    def answer_request(self, request: Request[T]) -> T:
        """Shards are asked one by one."""
        self._refuse("this")

    def meta(self) -> dict[str, str]:
        """What the shards record of themselves and their model, by key."""
        return dict(self._record.catalog.values)

    @property
    def next_row(self) -> int:
        """The row number after the highest that an image of any shard ever had."""
        return self._next_row

    @property
    def settings(self) -> IndexSettings:
        """Of all shards."""
        return self._record.settings

    @property
    def feature_spec(self) -> FeatureSpec:
        """What the features of the index have in common."""
        return FeatureSpec.of(self._record)

    def configure(self, overrides: Any, origin: str = "settings", record: bool = False) -> None:
        """Replace some settings in all shards; see :meth:`index.ImageIndex.configure`."""
        if record:
            self._parts.check_complete()
        self._parts.run_on_open(lambda images: images.configure(overrides, origin, record))
        self._read_records()
        self._opened_model.record = self._record

    def add(
        self,
        sources: str | Location | Iterable[str | Location | Photo],
        labels: str | Labels | None = None,
        prefix: str = "",
        progress: Progress | None = None,
        exclude: Iterable[str] = (),
        reread: bool = False,
        verify_stored: bool = False,
        default_excludes: bool = True,
    ) -> AddReport:
        """Bring all shards up to date with folders and files; see :meth:`index.ImageIndex.add`.

        With Ray, each shard is written by a worker of its own, which is replaced and goes on from
        its last commit if it dies. A photo that was renamed may belong to another shard then, and
        is extracted again.
        """
        self._parts.check_complete()
        if isinstance(sources, (str, Path, RemotePath)):
            sources = [sources]
        labels_by_id = read_labels(labels, prefix)
        listing, places = list_photos(sources, prefix, exclude, default_excludes)
        report = add_to_shards(
            self._parts.shards, self._writers(), listing, places, self.next_row, labels_by_id,
            progress, reread, verify_stored, self._loader(),
        )  # fmt: skip
        self.refresh()
        return report

    def _loader(self) -> Callable[[], Extractor] | None:
        """What gives shards their model; None: they find it themselves, elsewhere."""
        if self._ray is not None:
            return self._load
        return lambda: self.extractor

    def share_model(self, load: Callable[[], Extractor]) -> None:
        """Take the model from somebody who has it or can load it, when it is first needed.

        Args:
            load: sent to Ray's workers, so that it must be picklable with Ray.
        """
        self._load = load
        self._model.share(load)

    def _share_model(self) -> None:
        """Load the model once for all shards of this process, when the first needs it."""
        for part in self._parts.parts.values():
            part.run(lambda images: images.share_model(lambda: self.extractor))

    def _writers(self) -> Writers:
        if self._ray is not None:
            from index.sharding.ray_backend import RayWriters

            model = self._model.named_for_others()
            return RayWriters(self._ray, self.path, self._parts.shards, model)
        return LocalWriters(self._parts.parts)

    def use(self, extractor: Extractor) -> None:
        """Share a model that is loaded already."""
        self._model.use(extractor)

    def add_upload(self, image_id: str, data: bytes, label: Label, by: str = "") -> ImageRow:
        """Add a photo whose file its shard keeps."""
        self._refuse_with_ray("adding single photos")
        self._share_model()
        return self._parts.run_on_shard_of(
            image_id, lambda images: images.add_upload(image_id, data, label, by)
        )

    def _refuse_with_ray(self, what: str) -> None:
        if self._ray is not None:
            raise UsageError(
                f"{self.path}: {what} is not possible while Ray's workers have the shards open; "
                f"leave --ray out, or use delg index build --ray (unset {RAY_VARIABLE})"
            )

    def remove(self, ids: Iterable[str], by: str = "") -> int:
        """Remove images; see :meth:`index.ImageIndex.remove`."""
        ids = self._check_known(ids)
        self._parts.run_on_shards_of(ids, lambda images, own: images.remove(own, by))
        return len(ids)

    def restore(self, ids: Iterable[str], by: str = "") -> list[str]:
        """Bring removed images back; see :meth:`index.ImageIndex.restore`."""
        ids = list(dict.fromkeys(ids))
        known = {image.id for image, _ in self.trash()}
        unknown = [image_id for image_id in ids if image_id not in known]
        if unknown:
            raise UsageError(f"{self.path}: not in the trash: {', '.join(unknown[:5])}")
        self._parts.run_on_shards_of(ids, lambda images, own: images.restore(own, by))
        return ids

    def trash(self, limit: int = -1, offset: int = 0) -> list[tuple[ImageRow, str]]:
        """The removed images of all shards; see :meth:`index.ImageIndex.trash`."""
        end = offset + limit if limit >= 0 else None
        parts = self._parts.run_on_all(lambda images: images.trash(-1 if end is None else end))
        return sorted(chain(*parts), key=lambda item: item[1], reverse=True)[offset:end]

    def count_trash(self) -> int:
        """See :meth:`index.ImageIndex.count_trash`."""
        return sum(self._parts.run_on_all(lambda images: images.count_trash()))

    def trashed(self, image_id: str) -> ImageRow | None:
        """See :meth:`index.ImageIndex.trashed`."""
        return self._parts.run_on_shard_of(image_id, lambda images: images.trashed(image_id))

    def changes(self, limit: int = -1, offset: int = 0) -> list[Change]:
        """What people changed in all shards; see :meth:`index.ImageIndex.changes`."""
        end = offset + limit if limit >= 0 else None
        parts = self._parts.run_on_all(lambda images: images.changes(-1 if end is None else end))
        return sorted(chain(*parts), key=lambda change: change.at, reverse=True)[offset:end]

    def last_changes(self, ids: Collection[str]) -> dict[str, Change]:
        """See :meth:`index.ImageIndex.last_changes`."""
        parts = self._parts.run_on_shards_of(ids, lambda images, own: images.last_changes(own))
        return {image_id: change for _, last in parts for image_id, change in last.items()}

    def edit(
        self,
        ids: Iterable[str],
        label: str | None = None,
        metadata: Mapping[str, str | None] | None = None,
        by: str = "",
    ) -> list[ImageRow]:
        """Change what is known of images; see :meth:`index.ImageIndex.edit`."""
        ids = self._check_known(ids)
        parts = self._parts.run_on_shards_of(
            ids, lambda images, own: images.edit(own, label, metadata, by)
        )
        edited = {
            image_id: image
            for own, images in parts
            for image_id, image in zip(own, images, strict=True)
        }
        return [edited[image_id] for image_id in ids]

    def remove_vanished(self, dry_run: bool = False, force: bool = False) -> list[str]:
        """Remove the images whose file is gone; see :meth:`index.ImageIndex.remove_vanished`."""
        missing = self.missing()
        if not dry_run:
            if not force:
                missing.check_losses()
            self.remove(missing.gone)
        return missing.gone

    def relocate(self, old: str | Location, new: str | Location, force: bool = False) -> Relocation:
        """Record that photos lie in another folder now; see
        :func:`index.photos.relocate.relocate`."""
        self._parts.check_complete()
        results: list[Relocation] = []
        errors: list[UsageError] = []
        for part in self._parts.parts.values():
            try:
                results.append(part.run(lambda images: images.relocate(old, new, force)))
            except UsageError as error:
                errors.append(error)  # None of its photos lay there.
        if not results:
            raise errors[0]
        self.refresh()
        absent = [image_id for result in results for image_id in result.absent]
        return Relocation(sum(result.moved for result in results), absent)

    def compact(self) -> int:
        """Free the space of removed images in all shards."""
        self._refuse_with_ray("compacting")
        self._share_model()
        freed = sum(self._parts.run_on_all(lambda images: images.compact()))
        self._read_records()
        self._opened_model.record = self._record
        return freed

    def export(
        self,
        out: str | Path,
        format_name: str,
        progress: Progress | None = None,
        failed: list[Failure] | None = None,
    ) -> int:
        """Shards are exported one by one."""
        self._refuse("an export")

    def check(self) -> CheckReport:
        """Read everything and say what is damaged."""
        problems = [f"shard {missing}" for missing in self.missing_shards()]
        notes: list[str] = []
        parts = self._parts.run_on_open(lambda images: (images.check(), images.ids()))
        for number, (report, ids) in parts.items():
            name = self._parts.name(number)
            problems += [f"shard {name}: {problem}" for problem in report.problems]
            notes += [f"shard {name}: {note}" for note in report.notes]
            strays = [
                image_id for image_id in ids if self._parts.shards.number_of(image_id) != number
            ]
            if strays:
                problems.append(
                    f"shard {name}: {strays[0]} and {len(strays) - 1:,} others belong to another "
                    "shard; split the index anew (delg index merge)"
                )
        return CheckReport(problems, notes)

    def repair(self) -> list[Path]:
        """Remove what killed writers left behind."""
        return list(chain(*self._parts.run_on_all(lambda images: images.repair())))

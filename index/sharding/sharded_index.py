"""A sharded index as one index: every question goes to the shards, and their answers together are
what one index of all photos would say."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import numpy as np

from delg.errors import DelgError, UsageError
from delg.extraction.extractor import Extractor
from delg.images.scan import Photo
from delg.remote_path import Location, RemotePath
from delg.types import Failure, ImageFeatures, Progress
from delg.zoo.registry import DEFAULT_MODEL
from index.collection.browse import Facets, Filter, ImagePage, Sort
from index.collection.label_review import rank_by_mean
from index.feature_spec import FeatureSpec
from index.image_index import ImageIndex
from index.index_model import IndexModel
from index.labels import Label, Labels, read_labels
from index.photos.ingest import AddReport
from index.photos.missing import MissingPhotos, join_missing
from index.photos.relocate import Relocation
from index.results import MissingShard
from index.search.shard import Request, SearchContext, Shard, ShardLostError
from index.selection import Where
from index.settings import IndexSettings
from index.sharding.assign import LocalWriters, Writers, add_to_shards, list_photos
from index.sharding.locations import local_folder
from index.sharding.parts import (
    LocalPart,
    Operation,
    Part,
    PartRecord,
    as_shards,
    run_on_all,
)
from index.sharding.shards import ShardMap, by_number, is_sharded, new_entries
from index.storage.adaptation import ADAPTATION, Adaptation
from index.storage.catalog_tables import ImageRow
from index.storage.maintenance import CheckReport
from index.storage.store import VOCABULARY_DIGEST, Store, check_usable
from index.storage.trash import Change
from index.storage.vocabulary import Vocabulary, find_vocabulary

T = TypeVar("T")
# Address of the Ray cluster whose workers answer for the shards; unset: this process does.
RAY_VARIABLE = "DELG_RAY"

# As :func:`index.collection.browse.browse` sorts.
_SORT_KEYS: dict[Sort, Callable[[ImageRow], Any]] = {
    "id": lambda row: row.id,
    "newest": lambda row: -row.row,
    "largest": lambda row: (-(row.width or 0) * (row.height or 0), row.id),
    "label": lambda row: (row.label is None, row.label or "", row.id),
}


class ShardedIndex(ImageIndex):
    """Several ordinary indexes that are searched as one; see :class:`index.ImageIndex`.

    What only one index can do raises a ``UsageError``. Photos of shards that cannot be opened are
    not found, and :meth:`missing_shards` and every result say so.

    Args:
        folder: of ``index.yaml``.
        shards: what that says.
        model: see :meth:`open`.
        ray: address of a Ray cluster whose workers answer for the shards; None: this process.
    """

    def __init__(
        self, folder: Path, shards: ShardMap, model: str | None = None, ray: str | None = None
    ) -> None:
        self.path, self._map, self._named, self._ray = folder, shards, model, ray
        self._closed, self._process = False, os.getpid()
        self._lost_shards: list[MissingShard] = []
        self._parts: dict[int, Part] = {}
        self._missing: dict[int, str] = {}
        self._load: Callable[[], Extractor] | None = None
        self._prepared = ray is not None
        self._open_parts()
        self._recorded = _RecordedStore(folder)
        # It reads what a store records, and no more.
        self._opened_model = IndexModel(cast(Store, self._recorded), model)
        self._read_records()

    # Opening and closing.

    @classmethod
    def open(
        cls, path: str | Path, model: str | None = None, ray: str | None = None
    ) -> ShardedIndex:
        """A sharded index that exists; see :meth:`index.ImageIndex.open`.

        Args:
            ray: address of a Ray cluster ("auto": the one of this machine) whose workers answer
                for the shards; None: what the variable DELG_RAY says, or this process.

        Raises:
            DelgError: no shard can be opened, or one was made by another model.
        """
        folder = Path(path)
        ray = ray or os.environ.get(RAY_VARIABLE) or None
        images = cls(folder, ShardMap.read(folder), model, ray)
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
        return cls.open(folder)

    def _open_parts(self) -> None:
        if self._ray is not None:
            from index.sharding.ray_backend import open_parts

            self._parts, self._missing = open_parts(self._ray, self.path, self._map)
        else:
            for number, entry in enumerate(self._map.shards):
                try:
                    folder = local_folder(entry.location, self.path)
                    self._parts[number] = LocalPart(entry.name, folder, self._named)
                except (DelgError, OSError) as error:
                    self._missing[number] = str(error)
        if not self._parts:
            reasons = "; ".join(map(str, self.missing_shards()))
            raise DelgError(f"{self.path}: no shard can be opened: {reasons}")

    def _read_records(self) -> None:
        """Read what shards record of themselves, and make sure that they are of one kind."""
        self._records = self._each(PartRecord.of)
        for number, record in self._records.items():
            try:
                self._map.check_origin(record.meta, self._map.shards[number].name)
            except DelgError as error:
                raise DelgError(f"{self.path}: {error}") from None
        self._recorded.record = next(iter(self._records.values()))
        self._context = self._recorded.context()

    def close(self) -> None:
        """Let go of the shards; every other method raises a ``UsageError`` afterwards."""
        if not self._closed:
            for part in self._parts.values():
                part.close()
        self._closed = True

    def refresh(self) -> None:
        """Show the newest committed state."""
        self._each(lambda images: images.refresh())
        self._read_records()

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

    # The shards.

    @property
    def shard_count(self) -> int:
        """Number of the shards, missing ones included."""
        return len(self._map.shards)

    def shard_of(self, image_id: str) -> str:
        """Name of the shard that an image belongs to."""
        return self._map.shards[self._map.number_of(image_id)].name

    def missing_shards(self) -> Sequence[MissingShard]:
        """The shards that cannot be opened; their photos cannot be found."""
        return [
            MissingShard(self._map.shards[number].name, reason)
            for number, reason in self._missing.items()
        ]

    def _each(self, operation: Operation[T]) -> dict[int, T]:
        """The results of an operation on each shard that is open, by number."""
        self._check_open()
        return run_on_all(self._parts, dict.fromkeys(self._parts, operation))

    def _every(self, operation: Operation[T]) -> list[T]:
        """The same, for what must not leave out a shard."""
        self.check_complete()
        return list(self._each(operation).values())

    def check_complete(self) -> None:
        """Make sure that all shards are open.

        Raises:
            ShardLostError: one is not.
        """
        if self._missing:
            raise ShardLostError(
                f"{self.path}: shards are missing: {'; '.join(map(str, self.missing_shards()))}"
            )

    def _of(self, image_id: str, operation: Operation[T]) -> T:
        """The result of an operation on the shard of an image."""
        number = self._map.number_of(image_id)
        if number in self._missing:
            name = self._map.shards[number].name
            raise ShardLostError(f"{image_id}: its shard {name} is missing")
        return run_on_all(self._parts, {number: operation})[number]

    def _on_shards_of(
        self, ids: Iterable[str], operation: Callable[..., T]
    ) -> list[tuple[list[str], T]]:
        """The ids of each open shard that holds some of the images, and the operation's result."""
        groups = by_number(ids, len(self._map.shards))
        return [
            (own, self._parts[number].run(partial(operation, own=own)))
            for number, own in groups.items()
            if number in self._parts
        ]

    def _check_known(self, ids: Iterable[str]) -> list[str]:
        """The ids, each once.

        Raises:
            UsageError: an image is in no shard.
            ShardLostError: a shard is missing.
        """
        self.check_complete()
        ids = list(dict.fromkeys(ids))
        unknown = [image_id for image_id in ids if self.image(image_id) is None]
        if unknown:
            raise UsageError(f"{self.path}: has no image {', '.join(unknown[:5])}")
        return ids

    def _shards(self) -> Sequence[Shard]:
        assert self._model
        if not self._prepared:
            # Before the clock of any query runs; workers elsewhere do so when they start.
            self._each(lambda images: images.prepare())
            self._prepared = True
        return as_shards(list(self._parts.values()), self._context)

    @property
    def _deadline(self) -> float | None:
        return self._map.deadline_seconds

    def answer_request(self, request: Request[T]) -> T:
        """Shards are asked one by one."""
        self._refuse("this")

    # Model and settings.

    def meta(self) -> dict[str, str]:
        """What the shards record of themselves and their model, by key."""
        return dict(next(iter(self._records.values())).meta)

    @property
    def next_row(self) -> int:
        """The row number after the highest that an image of any shard ever had."""
        return max(record.next_row for record in self._records.values())

    @property
    def settings(self) -> IndexSettings:
        """Of all shards."""
        return self._context.settings

    @property
    def feature_spec(self) -> FeatureSpec:
        """What the features of the index have in common."""
        return next(iter(self._each(lambda images: images.feature_spec).values()))

    def configure(self, overrides: Any, origin: str = "settings", record: bool = False) -> None:
        """Replace some settings in all shards; see :meth:`index.ImageIndex.configure`."""
        run = self._every if record else self._each
        run(lambda images: images.configure(overrides, origin, record))
        self._read_records()

    # Changing.

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
        self.check_complete()
        if isinstance(sources, (str, Path, RemotePath)):
            sources = [sources]
        labels_by_id = read_labels(labels, prefix)
        listing, places = list_photos(sources, prefix, exclude, default_excludes)
        report = add_to_shards(
            self._map, self._writers(), listing, places, self.next_row, labels_by_id, progress,
            reread, verify_stored, self._loader(),
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
        for part in self._parts.values():
            part.run(lambda images: images.share_model(lambda: self.extractor))

    def _writers(self) -> Writers:
        if self._ray is not None:
            from index.sharding.ray_backend import RayWriters

            model = self._model.named_for_others()
            return RayWriters(self._ray, self.path, self._map, model)
        return LocalWriters(self._parts)

    def use(self, extractor: Extractor) -> None:
        """Share a model that is loaded already."""
        self._model.use(extractor)

    def add_upload(self, image_id: str, data: bytes, label: Label, by: str = "") -> ImageRow:
        """Add a photo whose file its shard keeps."""
        self._refuse_with_ray("adding single photos")
        self._share_model()
        return self._of(image_id, lambda images: images.add_upload(image_id, data, label, by))

    def _refuse_with_ray(self, what: str) -> None:
        if self._ray is not None:
            raise UsageError(
                f"{self.path}: {what} is not possible while Ray's workers have the shards open; "
                f"leave --ray out, or use delg index build --ray (unset {RAY_VARIABLE})"
            )

    def remove(self, ids: Iterable[str], by: str = "") -> int:
        """Remove images; see :meth:`index.ImageIndex.remove`."""
        ids = self._check_known(ids)
        self._on_shards_of(ids, lambda images, own: images.remove(own, by))
        return len(ids)

    def restore(self, ids: Iterable[str], by: str = "") -> list[str]:
        """Bring removed images back; see :meth:`index.ImageIndex.restore`."""
        ids = list(dict.fromkeys(ids))
        known = {image.id for image, _ in self.trash()}
        unknown = [image_id for image_id in ids if image_id not in known]
        if unknown:
            raise UsageError(f"{self.path}: not in the trash: {', '.join(unknown[:5])}")
        self._on_shards_of(ids, lambda images, own: images.restore(own, by))
        return ids

    def trash(self, limit: int = -1) -> list[tuple[ImageRow, str]]:
        """The removed images of all shards; see :meth:`index.ImageIndex.trash`."""
        parts = self._every(lambda images: images.trash(limit))
        trash = sorted(chain(*parts), key=lambda item: item[1], reverse=True)
        return trash[:limit] if limit >= 0 else trash

    def trashed(self, image_id: str) -> ImageRow | None:
        """See :meth:`index.ImageIndex.trashed`."""
        return self._of(image_id, lambda images: images.trashed(image_id))

    def changes(self, limit: int = -1) -> list[Change]:
        """What people changed in all shards; see :meth:`index.ImageIndex.changes`."""
        parts = self._every(lambda images: images.changes(limit))
        changes = sorted(chain(*parts), key=lambda change: change.at, reverse=True)
        return changes[:limit] if limit >= 0 else changes

    def edit(
        self,
        ids: Iterable[str],
        label: str | None = None,
        metadata: Mapping[str, str | None] | None = None,
        by: str = "",
    ) -> list[ImageRow]:
        """Change what is known of images; see :meth:`index.ImageIndex.edit`."""
        ids = self._check_known(ids)
        parts = self._on_shards_of(ids, lambda images, own: images.edit(own, label, metadata, by))
        edited = {
            image_id: image
            for own, images in parts
            for image_id, image in zip(own, images, strict=True)
        }
        return [edited[image_id] for image_id in ids]

    def select(self, where: Where = ()) -> list[ImageRow]:
        """The images of all shards that fulfil conditions, by id."""
        parts = self._every(lambda images: images.select(where))
        return sorted(chain(*parts), key=lambda image: image.id)

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
        self.check_complete()
        results: list[Relocation] = []
        errors: list[UsageError] = []
        for part in self._parts.values():
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
        freed = sum(self._every(lambda images: images.compact()))
        self._read_records()
        return freed

    # Looking inside.

    def __len__(self) -> int:
        return sum(self._each(len).values())

    def is_blank(self) -> bool:
        """Whether no shard holds anything."""
        return all(self._each(lambda images: images.is_blank()).values())

    @property
    def generation(self) -> int:
        """Counts the changes of what can be found."""
        return sum(self._each(lambda images: images.generation).values())

    def ids(self) -> list[str]:
        """Ids of the images that can be found."""
        parts = self._each(lambda images: images.ids()).values()
        return sorted(image_id for ids in parts for image_id in ids)

    def paths(self, ids: Iterable[str]) -> dict[str, str]:
        """Where the photos lie, of those ids that are in the index."""
        parts = self._on_shards_of(ids, lambda images, own: images.paths(own))
        return _union(paths for _, paths in parts)

    def image(self, image_id: str) -> ImageRow | None:
        """What is known of one image; None if it is not in the index."""
        return self._of(image_id, lambda images: images.image(image_id))

    def features(self, image_id: str) -> ImageFeatures:
        """The stored features of an image."""
        return self._of(image_id, lambda images: images.features(image_id))

    def export(
        self,
        out: str | Path,
        format_name: str,
        progress: Progress | None = None,
        failed: list[Failure] | None = None,
    ) -> int:
        """Shards are exported one by one."""
        self._refuse("an export")

    def browse(
        self, condition: Filter, limit: int, offset: int = 0, sort: Sort = "id"
    ) -> ImagePage:
        """The images that pass a filter, by id or otherwise."""
        first = limit + offset
        pages = list(self._each(lambda images: images.browse(condition, first, 0, sort)).values())
        rows = sorted((row for page in pages for row in page.images), key=_SORT_KEYS[sort])
        return ImagePage(rows[offset:first], sum(page.total for page in pages))

    def labelled_rows(self) -> list[tuple[str, int]]:
        """Label and row number of the images that can be found and have a label."""
        parts = self._each(lambda images: images.labelled_rows()).values()
        return sorted((pair for part in parts for pair in part), key=lambda pair: pair[1])

    def by_rows(self, rows: Sequence[int]) -> list[ImageRow]:
        """What is known of images by row numbers, which are unique in all shards."""
        parts = self._each(lambda images: images.by_rows(rows)).values()
        known = {image.row: image for part in parts for image in part}
        return [known[row] for row in rows if row in known]

    def typicality(self, rows: Sequence[int]) -> tuple[list[int], list[float]]:
        """How alike photos are; see :func:`index.collection.label_review.rank_by_typicality`."""
        parts = list(self._each(lambda images: images.read_sample(rows)).values())
        return rank_by_mean(
            np.concatenate([sample for sample, _ in parts]),
            np.concatenate([vectors for _, vectors in parts]),
        )

    def spread(self, count: int) -> list[ImageRow]:
        """Some images with a photo."""
        parts = self._each(lambda images: images.spread(count)).values()
        rows = sorted((row for part in parts for row in part), key=lambda row: row.row)
        step = max(1, len(rows) // max(1, count))
        return rows[::step][:count]

    def counts(self, limit: int = 1000) -> dict[str, list[tuple[str, int]]]:
        """The most frequent labels, metadata keys and reasons."""
        return _most_frequent(self._each(lambda images: images.counts(limit)).values(), limit)

    def facets(self, where: Where = (), limit: int = 100) -> Facets:
        """What to filter by; a value counts where it is among the most frequent of a shard."""
        parts = list(self._each(lambda images: images.facets(where, limit)).values())
        counts = _most_frequent((part.counts for part in parts), limit)
        return Facets(sum(part.images for part in parts), counts)

    def info(self) -> dict[str, Any]:
        """What the shards hold together, as plain values."""
        parts = list(self._each(lambda images: images.info()).values())
        info = dict(parts[0])
        for key in ("images", "failed", "segments", "unreadable_segments", "dead", "bytes"):
            info[key] = sum(part[key] for part in parts)
        kinds = sorted({part["shortlist"] for part in parts})
        info |= {
            "index": str(self.path),
            "bytes_per_image": round(info["bytes"] / info["images"]) if info["images"] else None,
            "shortlist": kinds[0] if len(kinds) == 1 else "mixed",
        }
        settings = info.pop("settings")
        info |= {"shards": len(self._map.shards), "replicas": self._map.replicas}
        info["missing_shards"] = len(self._missing)
        return {**info, "settings": settings}

    def failures(self) -> dict[str, str]:
        """Id -> reason of every photo that could not be used."""
        return _union(self._each(lambda images: images.failures()).values())

    def missing(self) -> MissingPhotos:
        """The images whose file is gone or cannot be looked at."""
        return join_missing(self._every(lambda images: images.missing()))

    def unreadable_segments(self) -> list[str]:
        """What is wrong with segments that cannot be read, and shards that are missing."""
        parts = self._each(lambda images: images.unreadable_segments()).values()
        problems = [problem for part in parts for problem in part]
        return problems + [f"shard {missing}" for missing in self.missing_shards()]

    def check(self) -> CheckReport:
        """Read everything and say what is damaged."""
        problems = [f"shard {missing}" for missing in self.missing_shards()]
        notes: list[str] = []
        for number, (report, ids) in self._each(lambda i: (i.check(), i.ids())).items():
            name = self._map.shards[number].name
            problems += [f"shard {name}: {problem}" for problem in report.problems]
            notes += [f"shard {name}: {note}" for note in report.notes]
            strays = [image_id for image_id in ids if self._map.number_of(image_id) != number]
            if strays:
                problems.append(
                    f"shard {name}: {strays[0]} and {len(strays) - 1:,} others belong to another "
                    "shard; split the index anew (delg index merge)"
                )
        return CheckReport(problems, notes)

    def repair(self) -> list[Path]:
        """Remove what killed writers left behind."""
        return [path for paths in self._every(lambda images: images.repair()) for path in paths]


def _most_frequent(
    parts: Iterable[Mapping[str, list[tuple[str, int]]]], limit: int
) -> dict[str, list[tuple[str, int]]]:
    """Counts by key of all shards together, the ``limit`` highest of each key first."""
    counters: dict[str, Counter[str]] = {}
    for part in parts:
        for key, values in part.items():
            counters.setdefault(key, Counter()).update(dict(values))
    return {
        key: sorted(counter.items(), key=lambda item: (-item[1], item[0]))[:limit]
        for key, counter in counters.items()
    }


def _union(parts: Iterable[Mapping[str, str]]) -> dict[str, str]:
    return {key: value for part in parts for key, value in part.items()}


class _RecordedStore:
    """What a model and a search need to know of a shard that may be open elsewhere."""

    record: PartRecord

    def __init__(self, folder: Path) -> None:
        self.folder, self.catalog = folder, self

    @property
    def settings(self) -> IndexSettings:
        """With overrides."""
        return self.record.settings

    def meta(self, key: str) -> str:
        """As a catalog has it."""
        return self.record.meta.get(key, "")

    def meta_number(self, key: str, least: int = 0, most: int = 1 << 62) -> int:
        """As a catalog has it."""
        with suppress(ValueError):
            return min(max(int(self.meta(key) or 0), least), most)
        raise DelgError(f"{self.folder}: {key} is damaged")

    def context(self) -> SearchContext:
        """What the shards have in common for a search."""
        dim, text = self.meta_number("global_dim"), self.meta(ADAPTATION)
        adaptation = Adaptation.from_text(text, dim, str(self.folder)) if text else None
        return SearchContext(
            self.settings,
            self.meta("model_name"),
            bool(self.meta("aggregated")),
            adaptation.dim if adaptation is not None else dim,
            adaptation,
            self._vocabulary(),
        )

    def _vocabulary(self) -> Vocabulary | None:
        digest, settings = self.meta(VOCABULARY_DIGEST), self.settings
        if not (digest and settings.local_shortlist.enabled and settings.store.max_words):
            return None
        known = find_vocabulary(
            self.meta("model"), self.meta("weights"), self.meta_number("local_dim")
        )
        return known if known is not None and known.digest == digest else None

"""The index as people use it: create, open, add, remove, query, compact, check."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Unpack

from delg.errors import UsageError
from delg.extraction.extractor import Extractor
from delg.images.decode import ImageError, Source
from delg.images.scan import Photo
from delg.paths import exists as file_exists
from delg.remote_path import Location, RemotePath, as_location
from delg.types import Box, Failure, FloatArray, ImageFeatures, Progress
from delg.zoo.registry import DEFAULT_MODEL
from index.answers.marks import Marks, Verdict, apply_marks, query_key
from index.answers.notebook import images_frame
from index.collection.browse import (
    Facets,
    Filter,
    ImagePage,
    Sort,
    browse,
    count_facets,
    describe,
    most_frequent,
    spread_images,
)
from index.collection.decisions import Decisions, PairVerdict
from index.collection.duplicate_review import without_ignored
from index.collection.duplicates import Duplicates, Limits, ShareDone, find_duplicates
from index.collection.explore import Exploration, Layout, explore
from index.collection.groups import DEPTH, InstanceGroups, find_groups
from index.collection.label_index import LabelIndex
from index.collection.label_review import LabelReview, rank_by_typicality, read_sample, review_label
from index.collection.pairs import DEPTH as PAIR_DEPTH
from index.collection.pairs import PhotoPair, find_pairs
from index.collection.undo import undo
from index.feature_spec import FeatureSpec
from index.formats.exchange import ImportReport, export_features, import_features
from index.index_model import IndexModel, record_model, record_spec
from index.labels import Label, Labels, read_labels
from index.learn.adapt import SHRINKAGE, AdaptReport, adapt, check_same_adaptation, undo_adaptation
from index.learn.tune import Tuning, tune
from index.photos.ingest import AddReport, AssignedPhotos, add
from index.photos.missing import MissingPhotos, find_missing
from index.photos.relocate import Relocation, relocate
from index.photos.uploaded_photos import (
    add_upload,
    empty_trash,
    orphaned_uploads,
    remove_images,
    repair,
)
from index.results import MissingShard, QueryResult
from index.search.orientation import Orientations
from index.search.requests import VerifyRequest
from index.search.scatter import Scatter
from index.search.search import HitConditions, QueryOptions, Search
from index.search.shard import LocalShard, Request, Shard
from index.search.together import MIN_DEPTH, combine
from index.selection import Selection, Where
from index.settings import IndexSettings, merge
from index.sharding.shards import is_sharded
from index.storage.catalog import FILE as CATALOG_FILE
from index.storage.catalog_tables import ImageRow
from index.storage.codebook_fit import Extract
from index.storage.maintenance import CheckReport, check, compact
from index.storage.store import HOW_TO_REPAIR, Store
from index.storage.trash import Change
from index.verification.matchable import MatchableQuery

T = TypeVar("T")


def _sharded_index() -> type[ImageIndex]:
    """By name, as it is built on the class below."""
    kind: type[ImageIndex] = import_module("index.sharding.sharded_index").ShardedIndex
    return kind


if TYPE_CHECKING:
    import pandas as pd


class ImageIndex:
    """Photos that can be searched by photo.

    Made by :meth:`create`, :meth:`open` or :meth:`open_or_create`. An open index shows the state
    it was opened in until :meth:`refresh` or a change of its own, whatever other processes add
    meanwhile. One process at a time may change it.

    Attributes:
        path: folder of the index.
    """

    def __init__(self, store: Store, model: str | None = None) -> None:
        self._opened, self._opened_model = store, IndexModel(store, model)
        self._process, self._closed = os.getpid(), False
        self.path = store.folder
        self._lost_shards: list[MissingShard] = []

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError(f"{self.path}: this index is closed; open it anew")

    @property
    def _store(self) -> Store:
        """What every method works on.

        Raises:
            UsageError: the index is closed.
        """
        self._check_open()
        if self._process != os.getpid():
            self._process = os.getpid()
            self._opened.reopen()
        return self._opened

    @property
    def _model(self) -> IndexModel:
        """The same for methods that need the model; see ``_store``."""
        assert self._store
        return self._opened_model

    # Opening and closing.

    @classmethod
    def create(
        cls,
        path: str | Path,
        model: str = DEFAULT_MODEL,
        weights: str | Path | None = None,
        settings: IndexSettings | None = None,
        fingerprint: str | None = None,
    ) -> ImageIndex:
        """A new, empty index.

        Args:
            path: folder to make; it must not exist or be empty.
            model: a shipped model's name or a model's folder.
            weights: another weight file for that model.
            settings: see :class:`index.settings.IndexSettings`.
            fingerprint: chooses between a quantised model and its float32 weights; see
                :func:`delg.zoo.registry.find_model`.

        Raises:
            UsageError: the folder is in use.
            DelgError: the folder cannot be made.
            ModelError: there is no such model, or it has no weights.
        """
        meta, settings = record_model(model, weights, settings or IndexSettings(), fingerprint)
        return cls(Store.create(Path(path), meta, settings))

    @classmethod
    def create_for_features(
        cls, path: str | Path, spec: FeatureSpec, settings: IndexSettings | None = None
    ) -> ImageIndex:
        """A new, empty index for features that are made elsewhere; see :meth:`import_from`.

        Args:
            path, settings: see :meth:`create`.
            spec: what the features have in common.
        """
        meta, settings = record_spec(spec, settings or IndexSettings())
        return cls(Store.create(Path(path), meta, settings))

    def create_like(self, path: str | Path) -> ImageIndex:
        """A new, empty index of the same model, settings and adaptation; see :meth:`create`."""
        extractor = self.extractor  # Only a model that may be used is named to the new index.
        model, weights = self._model.location, self._model.weights
        other = ImageIndex.create(path, model, weights, self.settings, self.fingerprint)
        other.use(extractor)
        if self._store.adaptation is not None:
            other._store.set_adaptation(self._store.adaptation, {})
        return other

    @classmethod
    def open(cls, path: str | Path, model: str | None = None, ray: str | None = None) -> ImageIndex:
        """An index that exists.

        Args:
            path: its folder; that of a sharded index gives a
                :class:`index.sharding.sharded_index.ShardedIndex`.
            model: a shipped model's name or a model's folder, in place of what the index records;
                it must be the one that made the index. An index may use by itself only models that
                come with the package or that were used on this machine before
                (:mod:`delg.zoo.trust`).
            ray: address of a Ray cluster whose workers search the shards of a sharded index.

        Raises:
            UsageError: the index was made by another model.
            ModelError: there is no such model.
            DelgError: there is no index, or it is damaged.
        """
        if is_sharded(path):
            return _sharded_index().open(path, model, ray)
        if ray is not None:
            raise UsageError(f"{path}: is not sharded, so that Ray's workers cannot search it")
        images = cls(Store(Path(path)), model)
        images.check_model(model)
        return images

    @classmethod
    def open_or_create(
        cls,
        path: str | Path,
        model: str | None = None,
        weights: str | Path | None = None,
        settings: IndexSettings | None = None,
    ) -> ImageIndex:
        """The index in that folder; a new, empty one if there is none.

        Args:
            path: folder of the index.
            model: a shipped model's name or a model's folder, which an existing index must have
                been made by; None is the index's own, or the default one for a new index.
            weights, settings: for a new index; see :meth:`create`. An existing one keeps its own;
                :meth:`configure` changes its settings.

        Raises:
            UsageError: the index was made by another model.
            DelgError: as :meth:`create` and :meth:`open` do.
        """
        if not cls.exists(path):
            try:
                return cls.create(path, model or DEFAULT_MODEL, weights, settings)
            except UsageError:
                # Another process may have been first.
                if not cls.exists(path):
                    raise
        return cls.open(path, model)

    @staticmethod
    def exists(path: str | Path) -> bool:
        """Whether there is an index in that folder."""
        return file_exists(Path(path) / CATALOG_FILE) or is_sharded(path)

    def __enter__(self) -> ImageIndex:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files; every other method raises a ``UsageError`` afterwards."""
        if not self._closed and self._process == os.getpid():
            self._opened.close()
        self._closed = True

    def refresh(self) -> None:
        """Show the newest committed state."""
        self._store.refresh()

    # Model and settings.

    @property
    def extractor(self) -> Extractor:
        """The index's model; loaded when first needed.

        Raises:
            ModelError: it is gone, or its fingerprint is no longer that of the stored features.
        """
        return self._model.extractor

    @property
    def accepts_images(self) -> bool:
        """Whether it was made by a model that is known here, so that photos can search it."""
        return bool(self._model.location)

    @property
    def fingerprint(self) -> str:
        """Of the model that made the features."""
        return self._model.fingerprint

    @property
    def feature_spec(self) -> FeatureSpec:
        """What the features of the index have in common."""
        return FeatureSpec.of_store(self._store)

    @property
    def pyramid(self) -> tuple[float, ...]:
        """Scales of the levels that local features come from; empty where that is not known."""
        return self._model.pyramid

    def use(self, extractor: Extractor) -> None:
        """Share a model that is loaded already.

        Raises:
            ModelError: the index was made by another.
        """
        self._model.use(extractor)

    def share_model(self, load: Callable[[], Extractor]) -> None:
        """The same for one that is loaded when it is first needed."""
        self._model.share(load)

    def check_model(self, model: str | None) -> None:
        """Make sure that the index was made by that model; None is any.

        Raises:
            UsageError: another made it.
            ModelError: there is no such model.
        """
        if model is not None:
            self._model.check_name(model)

    @property
    def settings(self) -> IndexSettings:
        """As recorded with the index, with overrides of :meth:`configure`."""
        return self._store.settings

    def configure(self, overrides: Any, origin: str = "settings", record: bool = False) -> None:
        """Replace some settings, for this object or, with ``record``, for good.

        Args:
            overrides: plain values by section and key.
            origin: names their source in errors.
            record: write them into the index; another shortlist is built from what is stored.

        Raises:
            UsageError: a key is unknown or fixed, or a value does not fit.
        """
        if not record:
            self._store.override(overrides, origin)
            return
        if merge(self.settings, overrides, origin) == self.settings:
            return
        with self._store.lock():
            self._store.set_settings(merge(self.settings, overrides, origin))

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
        """Bring the index up to date with folders, files and URLs; see
        :func:`index.photos.ingest.add`.

        Args:
            labels: "folders", a CSV file with columns id, label and any others, labels by id, or
                None.
            exclude: patterns of files and folders to leave out.
            reread: read all photos again, to notice changes that kept size and time.
            verify_stored: compare checksums first, and extract again what is damaged.
            default_excludes: leave out hidden files and folders, ``@eaDir`` and the like too.

        Raises:
            BusyError: another process is writing.
            UsageError: a source or the label file cannot be used.
        """
        sources = [sources] if isinstance(sources, (str, Path, RemotePath)) else list(sources)
        labels_by_id = read_labels(labels, prefix)
        with self._store.lock():
            self._model.adopt_what_is_learnt()
            return add(
                self._store,
                lambda: self.extractor,
                sources,
                labels_by_id,
                prefix,
                progress,
                exclude,
                reread,
                verify_stored,
                default_excludes,
            )

    def add_assigned(
        self,
        sources: Sequence[str | Location],
        assigned: AssignedPhotos,
        labels: Labels | None = None,
        progress: Progress | None = None,
        reread: bool = False,
        verify_stored: bool = False,
    ) -> AddReport:
        """Bring one shard up to date with its photos among those below the sources; see
        :meth:`add`."""
        with self._store.lock():
            self._model.adopt_what_is_learnt()
            return add(
                self._store, lambda: self.extractor, sources, labels, progress=progress,
                reread=reread, verify_stored=verify_stored, assigned=assigned,
            )  # fmt: skip

    def add_upload(self, image_id: str, data: bytes, label: Label, by: str = "") -> ImageRow:
        """Add a photo whose file the index keeps; see
        :func:`index.photos.uploaded_photos.add_upload`."""
        with self._store.lock():
            self._model.adopt_what_is_learnt()
            return add_upload(self._store, lambda: self.extractor, image_id, data, label, by)

    def remove(self, ids: Iterable[str], by: str = "") -> int:
        """Remove images; :meth:`restore` brings them back until :meth:`compact`, which frees the
        space of their features, and deletes the files of those that were uploaded to the index.

        Args:
            by: who removes them, for the log of changes.

        Returns:
            Number of images removed.

        Raises:
            UsageError: an id is not in the index; nothing is removed.
        """
        ids = list(dict.fromkeys(ids))
        with self._store.lock():
            remove_images(self._store, ids, by)
        return len(ids)

    def restore(self, ids: Iterable[str], by: str = "") -> list[str]:
        """Bring removed images back, as they were.

        Returns:
            Their ids.

        Raises:
            UsageError: an id is not in the trash, or another image has it now; nothing is restored.
        """
        with self._store.lock():
            return [image.id for image in self._store.restore(list(ids), by)]

    def trash(self, limit: int = -1) -> list[tuple[ImageRow, str]]:
        """The removed images that can be restored, and when they were removed, the last first."""
        return self._store.catalog.trash(limit)

    def trashed(self, image_id: str) -> ImageRow | None:
        """The image of that id that was removed last; None if it cannot be restored."""
        return self._store.catalog.trashed(image_id)

    def changes(self, limit: int = -1) -> list[Change]:
        """What people added, edited, removed and restored one by one, the last change first."""
        return self._store.catalog.changes(limit)

    def undo(self, image_id: str, by: str = "") -> Change:
        """Take back the last change of an image; see :func:`index.collection.undo.undo`."""
        return undo(self, image_id, by)

    def edit(
        self,
        ids: Iterable[str],
        label: str | None = None,
        metadata: Mapping[str, str | None] | None = None,
        by: str = "",
    ) -> list[ImageRow]:
        """Change what is known of images.

        Args:
            label: new label; empty for none, None: as it is.
            metadata: new values by key, None to delete it; other keys stay.
            by: who changes it, for the log of changes.

        Raises:
            UsageError: an id is not in the index; nothing is changed.
        """
        with self._store.lock():
            rows = self._store.catalog.by_ids(list(dict.fromkeys(ids)))
            edited = [_edited(row, label, metadata or {}) for row in rows]
            self._store.edit(edited, by)
            return edited

    def remove_vanished(self, dry_run: bool = False, force: bool = False) -> list[str]:
        """Remove the images whose file is gone, and return their ids; images whose file cannot be
        looked at stay.

        Args:
            dry_run: remove nothing.
            force: remove them even if a source lost most of its photos.

        Raises:
            UsageError: a source lost most of its photos, as one does whose disk is not mounted.
        """
        with self._store.lock():
            missing = self.missing()
            if dry_run:
                return missing.gone
            if not force:
                missing.check_losses()
            self._store.remove(missing.gone)
        return missing.gone

    def relocate(self, old: str | Location, new: str | Location, force: bool = False) -> Relocation:
        """Record that photos lie in another folder now; see
        :func:`index.photos.relocate.relocate`."""
        with self._store.lock():
            return relocate(self._store, str(old), as_location(new), force)

    def import_from(
        self,
        sources: Iterable[str | Path],
        format_name: str | None = None,
        photos: Iterable[str | Location] = (),
        progress: Progress | None = None,
    ) -> ImportReport:
        """Add features made elsewhere; see :func:`index.formats.exchange.import_features`."""
        files, folders = [Path(path) for path in sources], [as_location(path) for path in photos]
        spec = self.feature_spec
        with self._store.lock():
            return import_features(
                self._store, spec, files, format_name, folders, progress, self.pyramid
            )

    def compact(self) -> int:
        """Free the space of replaced images and of removed ones, which cannot be restored then, and
        encode anew what was encoded badly.

        Returns:
            The bytes freed.
        """
        with self._store.lock():
            self._model.adopt_what_is_learnt()
            empty_trash(self._store)
            return compact(self._store, self._extract)

    def adapt(
        self,
        labels: str | Labels | None = None,
        shrinkage: float = SHRINKAGE,
        force: bool = False,
    ) -> AdaptReport:
        """Learn from labelled photos how to compare global descriptors, from what is stored; see
        :func:`index.learn.adapt.adapt`.

        Args:
            labels: "folders", a CSV file with columns id and label, labels by id, or None for
                those that the index records.

        Raises:
            UsageError: there are too few labels, or the label file cannot be used.
        """
        labels_by_id = read_labels(labels)
        with self._store.lock():
            return adapt(self._store, labels_by_id, shrinkage, force)

    def undo_adaptation(self) -> bool:
        """Compare global descriptors as the model made them again.

        Returns:
            Whether the index was adapted.
        """
        with self._store.lock():
            return undo_adaptation(self._store)

    @property
    def _extract(self) -> Extract | None:
        """Extracts photos anew, by a model that is loaded when first needed."""
        return (lambda paths: self.extractor.extract_many(paths)) if self.accepts_images else None

    # Searching.

    def query(
        self,
        source: Source,
        k: int = 10,
        rerank: int | None = None,
        box: Box | None = None,
        orientations: Orientations = "auto",
        **conditions: Unpack[HitConditions],
    ) -> QueryResult:
        """Find the photos of the same thing; see :meth:`index.search.search.Search.hits`, also for
        conditions on the results."""
        result = self.search(source, box).hits(k, rerank, orientations, **conditions)
        return self._marked(result, query_key(source))

    def query_many(
        self, sources: Iterable[Source], **options: Unpack[QueryOptions]
    ) -> list[QueryResult | Failure]:
        """Query with each photo, in this order; one that cannot be used gives its reason.

        Args:
            options: see :meth:`index.search.search.Search.hits`.
        """
        results: list[QueryResult | Failure] = []
        for number, source in enumerate(sources):
            try:
                results.append(self.query(source, **options))
            except ImageError as error:
                name = str(source) if isinstance(source, (str, Path)) else f"query {number}"
                results.append(Failure(name, str(error)))
        return results

    def query_together(
        self,
        sources: Iterable[Source | ImageFeatures],
        minus: Iterable[Source | ImageFeatures] = (),
        **options: Unpack[QueryOptions],
    ) -> QueryResult:
        """Query with several photos of one thing at once; see :mod:`index.search.together`.

        Args:
            sources: photos of the thing, or features of the model that made the index.
            minus: photos of what it is not.
            options: see :meth:`index.search.search.Search.hits`.

        Raises:
            ImageError: a photo cannot be used.
            UsageError: there is no photo.
        """
        sources = list(sources)
        if not sources:
            raise UsageError("a query needs at least one photo of the thing")
        k = options.get("k", 10)
        wider: QueryOptions = {
            **options, "k": max(k, MIN_DEPTH), "min_probability": 0.0, "verified_only": False,
        }  # fmt: skip
        results, against = (
            [self.search(source).hits(**wider) for source in each] for each in (sources, minus)
        )
        least, proven = options.get("min_probability", 0.0), options.get("verified_only", False)
        verified_from = self.settings.verification.min_probability
        return combine(results, against, verified_from, k, least, proven)

    def more_like(self, image_id: str, **options: Unpack[QueryOptions]) -> QueryResult:
        """Find the photos that show the same as one of the index, by its stored features; it is
        left out itself.

        Args:
            options: see :meth:`index.search.search.Search.hits`.

        Raises:
            UsageError: it is not in the index.
        """
        others: QueryOptions = {**options, "without": {*options.get("without", ()), image_id}}
        result = self.search(self.features(image_id)).hits(**others)
        row = self.image(image_id)
        return self._marked(result, row.sha256 if row else "")

    @property
    def marks(self) -> Marks:
        """What people said of queries and photos; see :mod:`index.answers.marks`."""
        return Marks(self.path)

    def mark(self, query: Source, image_id: str, verdict: Verdict | None, name: str = "") -> None:
        """Say whether a query and a photo of the index show the same thing; later answers to the
        same query respect it.

        Args:
            query: its file, bytes or pixels.
            verdict: "same", "different", or None to forget what was said.
            name: of the query, for people; that of the file if it is one.

        Raises:
            UsageError: the query cannot be read, or no image has that id.
        """
        key = query_key(query)
        if not key:
            raise UsageError(f"{query!r}: cannot be read, so it cannot be marked")
        row = self.image(image_id)
        if row is None:
            raise UsageError(f"{self.path}: has no image {image_id}")
        if verdict is None:
            self.marks.delete(key, row.id)
        else:
            is_path = isinstance(query, (str, Path))
            self.marks.put(key, row.id, verdict, name or (str(query) if is_path else key[:12]))

    def mark_images(self, image_id: str, other: str, verdict: Verdict | None) -> None:
        """Say whether two photos of the index show the same thing, as :meth:`mark` does.

        Raises:
            UsageError: no image has an id, both are one, or neither was added from a file.
        """
        rows = self._store.catalog.by_ids([image_id, other])
        if rows[0].row == rows[1].row:
            raise UsageError(f"{image_id}: a photo is the same as itself; name two")
        if not rows[0].sha256:
            rows.reverse()
        first, second = rows
        if not first.sha256:
            raise UsageError(f"{image_id}: has no file that a mark could be for")
        # Either may have been the query of an earlier mark.
        for query, image in ((first, second), (second, first)):
            self.marks.delete(query.sha256, image.id)
        if verdict is not None:
            self.marks.put(first.sha256, second.id, verdict, first.id)

    def _marked(self, result: QueryResult, key: str) -> QueryResult:
        return apply_marks(result, key, self.marks.of(key))

    def search(
        self,
        source: Source | ImageFeatures,
        box: Box | None = None,
        others: Iterable[ImageIndex] = (),
    ) -> Search:
        """One query to be ranked in several ways; see :class:`index.search.search.Search`.

        Args:
            source: a photo, or features of the model that made the index.
            box: see there.
            others: further indexes to search in, made by the same model.

        Raises:
            ModelError: an index was made by another model.
            UsageError: an index is adapted otherwise, or descriptors are of another width.
        """
        if isinstance(source, ImageFeatures):
            self.feature_spec.check(source, self.path)
        others = list(others)
        for other in others:
            other._model.check_fingerprint(self.extractor)
            check_same_adaptation((self.path, self.meta()), (other.path, other.meta()))
        extractor = None if isinstance(source, ImageFeatures) else self.extractor
        return Search(self._scatter(others), extractor, source, self._model.calibration, box)

    def _scatter(self, others: Sequence[ImageIndex] = ()) -> Scatter:
        """What a search of this index and others asks."""
        indexes = [self, *others]
        return Scatter(
            [shard for images in indexes for shard in images._shards()],
            [missing for images in indexes for missing in images.missing_shards()],
            min((images._deadline for images in indexes if images._deadline), default=None),
            self._lost_shards.append,
        )

    def _shards(self) -> Sequence[Shard]:
        return [LocalShard(self._store)]

    @property
    def _deadline(self) -> float | None:
        """Seconds that a shard has for each answer; None: as long as it takes."""
        return None

    def answer_request(self, request: Request[T]) -> T:
        """The answer to a request of a search elsewhere; see :mod:`index.search.shard`."""
        return request.answer(self._store)

    def prepare(self) -> None:
        """Read and compile now what the first query would wait for."""
        self._store.inverted_file()
        for row in self._store.searchable()[:1]:
            image = self._store.catalog.by_row(int(row))
            query, settings = MatchableQuery(self._store.features(image)), self.settings
            request = VerifyRequest(query, {image.row: 1.0}, settings, self._model.calibration)
            self.answer_request(request)

    def missing_shards(self) -> Sequence[MissingShard]:
        """The parts of a sharded index that cannot be searched; an ordinary one has none."""
        return ()

    @property
    def shard_count(self) -> int:
        """Number of the index's shards; 0: it is an ordinary one."""
        return 0

    def unsearched_shards(self) -> list[MissingShard]:
        """The same, and those that some query could not search since the index was opened."""
        known = {missing.shard: missing for missing in (*self.missing_shards(), *self._lost_shards)}
        return list(known.values())

    def query_features(
        self,
        features: ImageFeatures,
        k: int = 10,
        rerank: int | None = None,
        without: Collection[str] = (),
        where: Where = (),
        min_probability: float = 0.0,
        verified_only: bool = False,
    ) -> QueryResult:
        """Find the photos of the same thing by features of the model that made the index.

        Args:
            k, rerank, without, where, min_probability, verified_only: see
                :meth:`index.search.search.Search.hits`.

        Raises:
            UsageError: descriptors are of another width.
        """
        search = self.search(features)
        return search.hits(k, rerank, "1", without, where, min_probability, verified_only)

    def duplicates(
        self,
        limits: Limits | None = None,
        progress: ShareDone = lambda share: None,
        with_ignored: bool = False,
    ) -> Duplicates:
        """Photos that are in the index more than once; see :mod:`index.collection.duplicates`.

        Args:
            with_ignored: also those that people ignored (:meth:`ignore_duplicates`).
        """
        duplicates = find_duplicates(self._store, self._model.calibration, limits, progress)
        ignored = [] if with_ignored else self.decisions.ignored()
        if not ignored:
            return duplicates
        groups = duplicates.groups
        images = self.known(image_id for group in groups for image_id in group.ids)
        return replace(duplicates, groups=tuple(without_ignored(groups, images, ignored)))

    @property
    def decisions(self) -> Decisions:
        """What people decided on duplicates and pairs; see :mod:`index.collection.decisions`."""
        return Decisions(self.path)

    def ignore_duplicates(self, ids: Iterable[str]) -> None:
        """Remember that these photos, all together, are no duplicates to deal with.

        Raises:
            UsageError: an id is not in the index.
        """
        rows = self._store.catalog.by_ids(list(ids))
        self.decisions.ignore((row.id, row.content) for row in rows)

    def pairs(
        self,
        other: ImageIndex | None = None,
        min_similarity: float = -1.0,
        max_similarity: float = 1.0,
        depth: int = PAIR_DEPTH,
        progress: Progress | None = None,
    ) -> list[PhotoPair]:
        """Photos of this index and of another that show the same thing; see
        :func:`index.collection.pairs.find_pairs`.

        Args:
            other: made by the same model; None: this index, its photos among themselves.

        Raises:
            UsageError: another model made the other index, or it is adapted otherwise.
        """
        other = self if other is None else other
        if other.fingerprint != self.fingerprint:
            raise UsageError(
                f"{other.path}: made by another model ({other.fingerprint}) than {self.path} "
                f"({self.fingerprint}); their photos cannot be compared"
            )
        check_same_adaptation((self.path, self.meta()), (other.path, other.meta()))
        return find_pairs(
            self._store,
            other._store,
            self._model.calibration,
            self.decisions.on_pairs(),
            min_similarity,
            max_similarity,
            depth,
            progress,
        )

    def decide_pairs(
        self,
        decided: Iterable[tuple[str, str, PairVerdict | None]],
        other: ImageIndex | None = None,
    ) -> None:
        """Remember what was decided on pairs of :meth:`pairs`, in the folder of this index.

        Args:
            decided: id in this index, id in the other, and "accepted", "rejected" or None to
                forget.

        Raises:
            UsageError: an id is in neither index; nothing is remembered.
        """
        decided = list(decided)
        others = (self if other is None else other)._store
        first = self._store.catalog.by_ids([a for a, _, _ in decided])
        second = others.catalog.by_ids([b for _, b, _ in decided])
        self.decisions.decide(
            (a.content, b.content, verdict)
            for a, b, (_, _, verdict) in zip(first, second, decided, strict=True)
        )

    def groups(
        self,
        depth: int = DEPTH,
        min_probability: float = 0.0,
        again: bool = False,
        progress: Progress | None = None,
    ) -> InstanceGroups:
        """Photos of the index that show the same thing; see
        :func:`index.collection.groups.find_groups`. What was compared before is not compared again,
        and marks are respected."""
        return find_groups(
            self._store,
            self._model.calibration,
            list(self.marks),
            depth,
            min_probability,
            again,
            progress,
        )

    def tune(
        self,
        recall: float = 0.98,
        queries: int = 200,
        depth: int | None = None,
        progress: Progress | None = None,
    ) -> Tuning:
        """Measure which shortlist finds enough in the least time; see
        :func:`index.learn.tune.tune`.

        :meth:`configure` records the settings that were chosen.
        """
        return tune(self._store, recall, queries, depth, progress)

    # Looking inside.

    def meta(self) -> dict[str, str]:
        """What the index records of itself and its model, by key."""
        return self._store.catalog.all_meta()

    @property
    def next_row(self) -> int:
        """The row number after the highest that an image ever had."""
        return self._store.catalog.next_row()

    def __len__(self) -> int:
        return self._store.catalog.count("ok")

    def __repr__(self) -> str:
        if self._closed:
            return f"<ImageIndex {str(self.path)!r}: closed>"
        return f"<ImageIndex {str(self.path)!r}: {len(self):,} photos, {self._model.name}>"

    def to_pandas(self, where: Where = ()) -> pd.DataFrame:
        """The images as a table of pandas, with metadata as columns.

        Args:
            where: conditions on them, see :mod:`index.selection`.

        Raises:
            UsageError: pandas is not installed.
        """
        return images_frame(map(vars, self.select(where)))

    def select(self, where: Where = ()) -> list[ImageRow]:
        """The images that can be found and fulfil conditions, see :mod:`index.selection`, by id."""
        condition, values = Selection.of(where).as_sql()
        return self._store.catalog.select(condition, values)

    def is_blank(self) -> bool:
        """Whether it holds nothing, not even a photo that failed."""
        return not next(self._store.catalog.images(), None)

    @property
    def generation(self) -> int:
        """Counts the changes of what can be found; equal numbers mean the same images."""
        return self._store.catalog.generation

    def ids(self) -> list[str]:
        """Ids of the images that can be found."""
        return self._store.catalog.ids(self._store.searchable())

    def paths(self, ids: Iterable[str]) -> dict[str, str]:
        """Where the photos lie, of those ids that are in the index."""
        return {image_id: row.path for image_id, row in self.known(ids).items()}

    def image(self, image_id: str) -> ImageRow | None:
        """What is known of one image; None if it is not in the index."""
        return self._store.catalog.by_id(image_id)

    def known(self, ids: Iterable[str]) -> dict[str, ImageRow]:
        """What is known of images, by id, of those that are in the index."""
        rows = map(self.image, ids)
        return {row.id: row for row in rows if row is not None}

    def features(self, image_id: str) -> ImageFeatures:
        """The stored features of an image.

        Raises:
            UsageError: it is not in the index.
            DelgError: it has none, or they cannot be read.
        """
        [row] = self._store.catalog.by_ids([image_id])
        return self._store.features(row)

    def export(
        self,
        out: str | Path,
        format_name: str,
        progress: Progress | None = None,
        failed: list[Failure] | None = None,
    ) -> int:
        """Write all features for other tools; see
        :func:`index.formats.exchange.export_features`."""
        return export_features(self._store, Path(out), format_name, progress, failed)

    def browse(
        self, condition: Filter, limit: int, offset: int = 0, sort: Sort = "id"
    ) -> ImagePage:
        """The images that pass a filter, by id or otherwise; see
        :func:`index.collection.browse.browse`."""
        return browse(self._store.catalog, condition, limit, offset, sort)

    def labels(self) -> LabelIndex:
        """All labels, to be searched; see :mod:`index.collection.label_index`."""
        return LabelIndex(self.labelled_rows())

    def labelled_rows(self) -> list[tuple[str, int]]:
        """Label and row number of the images that can be found and have a label."""
        return list(self._store.catalog.labelled_rows())

    def by_rows(self, rows: Sequence[int]) -> list[ImageRow]:
        """What is known of images by row numbers, as :meth:`labels` and :meth:`typicality` have
        them; those that are gone are left out."""
        return self._store.catalog.by_rows(rows)

    def typicality(self, rows: Sequence[int]) -> tuple[list[int], list[float]]:
        """How alike photos are; see :func:`index.collection.label_review.rank_by_typicality`."""
        return rank_by_typicality(self._store, rows)

    def read_sample(self, rows: Sequence[int]) -> tuple[NDArray[np.int64], FloatArray]:
        """Global descriptors of images, by row number; see
        :func:`index.collection.label_review.read_sample`."""
        return read_sample(self._store, rows)

    def review_label(self, name: str, rows: Sequence[int]) -> LabelReview:
        """Photos of a label that may have another; see :mod:`index.collection.label_review`."""
        return review_label(self._store, self._model.calibration, name, rows)

    def spread(self, count: int) -> list[ImageRow]:
        """Some images with a photo; see :func:`index.collection.browse.spread_images`."""
        return spread_images(self._store.catalog, count)

    def counts(self, limit: int = 1000) -> dict[str, list[tuple[str, int]]]:
        """The most frequent ``labels``, ``metadata`` keys and ``reasons`` of failures, each with
        the number of images."""
        return most_frequent(self._store.catalog, limit)

    def facets(self, where: Where = (), limit: int = 100) -> Facets:
        """What to filter by, see :func:`index.collection.browse.count_facets`.

        Args:
            where: conditions that hold already, see :mod:`index.selection`.
            limit: values of each key at most.
        """
        return count_facets(self._store.catalog, Selection.of(where), limit)

    def explore(
        self, layout: Layout = "auto", read_photos: bool = True, progress: Progress | None = None
    ) -> Exploration:
        """Compute and store the maps of the collection; see
        :func:`index.collection.explore.explore`."""
        exploration = explore(self._store, layout, read_photos, progress)
        with self._store.lock():
            exploration.save(self._store.folder)
        return exploration

    def exploration(self) -> Exploration | None:
        """What :meth:`explore` has stored; None if it has not.

        Raises:
            DelgError: it is damaged.
        """
        return Exploration.load(self._store.folder)

    def info(self) -> dict[str, Any]:
        """What the index holds, as plain values."""
        return describe(self._store)

    def failures(self) -> dict[str, str]:
        """Id -> reason of every photo that could not be used."""
        return {image.id: image.reason or "" for image in self._store.catalog.images("failed")}

    def vanished(self) -> list[str]:
        """Ids of images whose file is gone."""
        return self.missing().gone

    def missing(self) -> MissingPhotos:
        """The images whose file is gone or cannot be looked at."""
        return find_missing(self._store.catalog.images())

    def unreadable_segments(self) -> list[str]:
        """What is wrong with segments that cannot be read; their photos cannot be found."""
        return [f"{problem}; {HOW_TO_REPAIR}" for problem in self._store.unreadable.values()]

    def check(self) -> CheckReport:
        """Read everything and say what is damaged."""
        report = check(self._store, self._extract, self._model.find_codebook())
        report.notes.extend(
            f"{path}: of an upload that was cut short or removed; check --repair removes it"
            for path in orphaned_uploads(self._store)
        )
        return report

    def repair(self) -> list[Path]:
        """Remove what killed writers left behind; see
        :func:`index.photos.uploaded_photos.repair`."""
        return repair(self._store)


def _edited(row: ImageRow, label: str | None, metadata: Mapping[str, str | None]) -> ImageRow:
    """What is known of an image, with another label (empty: none, None: as it is) and other values
    of some keys (None: without them)."""
    values = {**row.metadata, **metadata}
    return replace(
        row,
        label=row.label if label is None else label or None,
        metadata={key: value for key, value in values.items() if value is not None},
    )

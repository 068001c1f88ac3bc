"""The index as people use it: create, open, add, remove, query, compact, check."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from delg.errors import UsageError
from delg.images.scan import Photo
from delg.paths import exists as file_exists
from delg.remote_path import Location, RemotePath, as_location
from delg.types import Failure, Progress
from delg.zoo.registry import DEFAULT_MODEL
from index.collection.undo import undo
from index.feature_spec import FeatureSpec
from index.formats.exchange import ImportReport, export_features, import_features
from index.index_model import record_model, record_spec
from index.labels import Label, Labels, read_labels
from index.learn.adapt import SHRINKAGE, AdaptReport, adapt, undo_adaptation
from index.learn.tune import Tuning, tune
from index.photos.ingest import AddReport, AssignedPhotos, add
from index.photos.relocate import Relocation, relocate
from index.photos.uploaded_photos import (
    add_upload,
    empty_trash,
    orphaned_uploads,
    remove_images,
    repair,
)
from index.searchable_index import SearchableIndex
from index.settings import IndexSettings
from index.sharding.shards import is_sharded
from index.storage.catalog_state import FILE as CATALOG_FILE
from index.storage.catalog_tables import ImageRow
from index.storage.maintenance import CheckReport, check, compact
from index.storage.store import Store
from index.storage.trash import Change


def _sharded_index() -> type[ImageIndex]:
    """By name, as it is built on the class below."""
    kind: type[ImageIndex] = import_module("index.sharding.sharded_index").ShardedIndex
    return kind


if TYPE_CHECKING:
    pass


class ImageIndex(SearchableIndex):
    """Photos that can be searched by photo.

    Made by :meth:`create`, :meth:`open` or :meth:`open_or_create`. An open index shows the state
    it was opened in until :meth:`refresh` or a change of its own, whatever other processes add
    meanwhile. One process at a time may change it.

    Attributes:
        path: folder of the index.
    """

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
    def open(
        cls,
        path: str | Path,
        model: str | None = None,
        ray: str | None = None,
        searched: bool = True,
    ) -> ImageIndex:
        """An index that exists.

        Args:
            path: its folder; that of a sharded index gives a
                :class:`index.sharding.sharded_index.ShardedIndex`.
            model: a shipped model's name or a model's folder, in place of what the index records;
                it must be the one that made the index. An index may use by itself only models that
                come with the package or that were used on this machine before
                (:mod:`delg.zoo.trust`).
            ray: address of a Ray cluster whose workers search the shards of a sharded index, and
                write them.
            searched: whether queries will be asked; if not, no workers are started for them.

        Raises:
            UsageError: the index was made by another model.
            ModelError: there is no such model.
            DelgError: there is no index, or it is damaged.
        """
        if is_sharded(path):
            return _sharded_index().open(path, model, ray, searched)
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
            self._model.adopt_codebook_and_vocabulary(self._store)
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
            self._model.adopt_codebook_and_vocabulary(self._store)
            return add(
                self._store, lambda: self.extractor, sources, labels, progress=progress,
                reread=reread, verify_stored=verify_stored, assigned=assigned,
            )  # fmt: skip

    def add_upload(self, image_id: str, data: bytes, label: Label, by: str = "") -> ImageRow:
        """Add a photo whose file the index keeps; see
        :func:`index.photos.uploaded_photos.add_upload`."""
        with self._store.lock():
            self._model.adopt_codebook_and_vocabulary(self._store)
            return add_upload(self._store, lambda: self.extractor, image_id, data, label, by)

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

    def restore(self, ids: Iterable[str], by: str = "") -> list[str]:
        """Bring removed images back, as they were.

        Returns:
            Their ids.

        Raises:
            UsageError: an id is not in the trash, or another image has it now; nothing is restored.
        """
        with self._store.lock():
            return [image.id for image in self._store.restore(list(ids), by)]

    def trash(self, limit: int = -1, offset: int = 0) -> list[tuple[ImageRow, str]]:
        """The removed images that can be restored, and when they were removed, the last first."""
        return self._store.catalog.trash(limit, offset)

    def count_trash(self) -> int:
        """Number of removed images that can be restored."""
        return self._store.catalog.count_trash()

    def trashed(self, image_id: str) -> ImageRow | None:
        """The image of that id that was removed last; None if it cannot be restored."""
        return self._store.catalog.trashed(image_id)

    def changes(self, limit: int = -1, offset: int = 0) -> list[Change]:
        """What people added, edited, removed and restored one by one, the last change first."""
        return self._store.catalog.changes(limit, offset)

    def last_changes(self, ids: Collection[str]) -> dict[str, Change]:
        """The last change of each of these images, by id; of those that were ever changed."""
        return self._store.catalog.last_changes(ids)

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
            # Nothing is logged of what stays as it was.
            changed = [row for row, before in zip(edited, rows, strict=True) if row != before]
            if changed:
                self._store.edit(changed, by)
            return edited

    def relocate(self, old: str | Location, new: str | Location, force: bool = False) -> Relocation:
        """Record that photos lie in another folder now; see
        :func:`index.photos.relocate.relocate`."""
        with self._store.lock():
            return relocate(self._store, str(old), as_location(new), force)

    def compact(self) -> int:
        """Free the space of replaced images and of removed ones, which cannot be restored then, and
        encode anew what was encoded badly.

        Returns:
            The bytes freed.
        """
        with self._store.lock():
            self._model.adopt_codebook_and_vocabulary(self._store)
            empty_trash(self._store)
            return compact(self._store, self._extract)

    def check(self) -> CheckReport:
        """Read everything and say what is damaged."""
        report = check(self._store, self._extract, self._model.find_codebook(self._store))
        report.notes.extend(
            f"{path}: of an upload that was cut short or removed; check --repair removes it"
            for path in orphaned_uploads(self._store)
        )
        return report

    def repair(self) -> list[Path]:
        """Remove what killed writers left behind; see
        :func:`index.photos.uploaded_photos.repair`."""
        return repair(self._store)

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


def _edited(row: ImageRow, label: str | None, metadata: Mapping[str, str | None]) -> ImageRow:
    """What is known of an image, with another label (empty: none, None: as it is) and other values
    of some keys (None: without them)."""
    values = {**row.metadata, **metadata}
    return replace(
        row,
        label=row.label if label is None else label or None,
        metadata={key: value for key, value in values.items() if value is not None},
    )

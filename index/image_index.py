"""The index as people use it: create, open, add, remove, query, compact, check."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from delg.errors import DelgError, ModelError, UsageError
from delg.extraction.extractor import Extractor
from delg.extraction.sift import DIM as SIFT_DIM
from delg.images.decode import Source
from delg.images.scan import Photo
from delg.types import Box, ImageFeatures
from delg.zoo.registry import DEFAULT_MODEL, find_model, load_model
from index.browse import Filter, Selection, browse, labels, metadata_keys, reasons
from index.duplicates import Duplicates, Limits, find_duplicates
from index.duplicates import Progress as PartDone
from index.formats.exchange import (
    FeatureSpec,
    ImportReport,
    export_features,
    import_features,
    recorded_spec,
)
from index.ingest import AddReport, Progress, add
from index.labels import GivenLabels, read_labels
from index.results import QueryResult
from index.search.orientation import Orientations
from index.search.search import Search
from index.settings import IndexSettings, merge
from index.storage.catalog import FILE as CATALOG_FILE
from index.storage.catalog import Catalog
from index.storage.catalog_tables import ImageRow
from index.storage.maintenance import CheckReport, check, compact
from index.storage.store import HOW_TO_REPAIR, Store


def _new_store(path: Path, facts: dict[str, str]) -> Store:
    # What a killed attempt left behind may stay.
    left = {f"{CATALOG_FILE}.tmp", f"{CATALOG_FILE}.tmp-journal"}
    if path.exists() and (not path.is_dir() or {one.name for one in path.iterdir()} - left):
        raise UsageError(f"{path}: exists and is not empty; choose another place for the index")
    try:
        path.mkdir(parents=True, exist_ok=True)
        Catalog.create(path, facts)
    except OSError as error:
        raise DelgError(f"{path}: cannot be made: {error.strerror}") from None
    return Store(path)


class ImageIndex:
    """Photos that can be searched by photo.

    Made by :meth:`create` or :meth:`open`. An open index shows the state it was opened in until
    :meth:`refresh` or a change of its own, whatever other processes add meanwhile. One process at
    a time may change it.

    Attributes:
        path: folder of the index.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._extractor: Extractor | None = None
        self.path = store.folder

    @classmethod
    def create(
        cls,
        path: str | Path,
        model: str = DEFAULT_MODEL,
        weights: str | Path | None = None,
        settings: IndexSettings | None = None,
    ) -> ImageIndex:
        """A new, empty index.

        Args:
            path: folder to make; it must not exist or be empty.
            model: a shipped model's name or a model's folder.
            weights: another weight file for that model.
            settings: see :class:`index.settings.IndexSettings`.

        Raises:
            DelgError: the folder is in use or cannot be made.
            ModelError: there is no such model, or it has no weights.
        """
        path, settings = Path(path), settings or IndexSettings()
        files = find_model(model, weights, settings.extraction)
        if not files.has_weights:
            raise ModelError(files.missing())
        shipped = model == files.settings.name
        settings = settings.of_model(files.settings)
        facts = {
            "model": model if shipped else str(Path(model).absolute()),
            "model_name": files.settings.name,
            "weights": str(Path(weights).absolute()) if weights else "",
            "fingerprint": files.fingerprint,
            "global_dim": str(files.settings.global_head.dim),
            "local_dim": str(
                SIFT_DIM
                if files.settings.local_head.kind == "sift"
                else files.settings.local_head.dim
            ),
            "aggregated": "" if files.settings.has_global else "1",
            "settings": settings.model_dump_json(),
        }
        return cls(_new_store(path, facts))

    @classmethod
    def create_for_features(
        cls, path: str | Path, kind: FeatureSpec, settings: IndexSettings | None = None
    ) -> ImageIndex:
        """A new, empty index for features of models that are not here; see :meth:`import_from`.

        Args:
            path: folder to make; it must not exist or be empty.
            kind: what the features have in common; their name and widths are the fingerprint.

        Raises:
            DelgError: the folder is in use or cannot be made.
        """
        facts = {
            "model": "",
            "model_name": kind.model,
            "weights": "",
            "fingerprint": kind.fingerprint,
            "global_dim": str(kind.global_dim),
            "local_dim": str(kind.local_dim),
            "aggregated": "1" if kind.aggregated else "",
            "settings": (settings or IndexSettings()).of_model(None).model_dump_json(),
        }
        return cls(_new_store(Path(path), facts))

    @classmethod
    def open(cls, path: str | Path) -> ImageIndex:
        """An index that exists.

        Raises:
            DelgError: there is none, or it is damaged.
        """
        return cls(Store(Path(path)))

    @staticmethod
    def exists(path: str | Path) -> bool:
        """Whether an index lies there."""
        return (Path(path) / CATALOG_FILE).exists()

    def __enter__(self) -> ImageIndex:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files."""
        self._store.close()

    def refresh(self) -> None:
        """Show the newest committed state."""
        self._store.refresh()

    def __len__(self) -> int:
        return self._store.catalog.count("ok")

    @property
    def settings(self) -> IndexSettings:
        """As recorded with the index, and overrides of :meth:`configure`."""
        return self._store.settings

    @property
    def fingerprint(self) -> str:
        """Of the model that made the features."""
        return self._store.catalog.meta("fingerprint")

    @property
    def extractor(self) -> Extractor:
        """The index's model; loaded when first needed.

        Raises:
            ModelError: it is gone, or its fingerprint is no longer that of the stored features.
        """
        if self._extractor is None:
            meta = self._store.catalog.meta
            if not meta("model"):
                raise ModelError(
                    f"{self.path} holds features of {meta('model_name')!r}, made elsewhere: "
                    "it can be searched with features of that kind, not with photos"
                )
            extractor = load_model(
                meta("model"),
                meta("weights") or None,
                self.settings.extraction,
                self.settings.images,
            )
            self._check_fingerprint(extractor)
            self._extractor = extractor
        return self._extractor

    @property
    def accepts_images(self) -> bool:
        """Whether it was made by a model that is known here, so that photos can search it."""
        return bool(self._store.catalog.meta("model"))

    def use(self, extractor: Extractor) -> None:
        """Share a model that is loaded already.

        Raises:
            ModelError: the index was made by another.
        """
        self._check_fingerprint(extractor)
        self._extractor = extractor

    def check_model(self, model: str | None) -> None:
        """Make sure that the index was made by a model that someone names; None names none.

        Raises:
            UsageError: another made it.
            ModelError: there is no such model.
        """
        if model is None:
            return
        asked = find_model(model, extraction=self.settings.extraction).fingerprint
        if asked != self.fingerprint:
            raise UsageError(
                f"{self.path} was made by model {self._store.catalog.meta('model_name')} "
                f"{self.fingerprint}; {model} is {asked}: "
                "leave --model out, or choose another --index"
            )

    def _check_fingerprint(self, extractor: Extractor) -> None:
        if extractor.fingerprint != self.fingerprint:
            raise ModelError(
                f"{self.path} was made by model {self._store.catalog.meta('model_name')} "
                f"{self.fingerprint}, but {extractor.name} here is {extractor.fingerprint}: "
                "use that model, or build a new index"
            )

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
        with self._store.lock():
            self._store.set_settings(merge(self.settings, overrides, origin))

    def add(
        self,
        sources: str | Path | Iterable[str | Path | Photo],
        labels: str | GivenLabels | None = None,
        prefix: str = "",
        progress: Progress | None = None,
    ) -> AddReport:
        """Bring the index up to date with folders and files; see :func:`index.ingest.add`.

        Args:
            labels: "folders", a CSV file with columns id, label and any others, labels by id, or
                None.

        Raises:
            BusyError: another process is writing.
            UsageError: a source or the label file cannot be used.
        """
        chosen = read_labels(labels, prefix)
        listed = [sources] if isinstance(sources, (str, Path)) else list(sources)
        with self._store.lock():
            return add(self._store, lambda: self.extractor, listed, chosen, prefix, progress)

    def remove(self, ids: Iterable[str]) -> int:
        """Take images out; their space is freed by :meth:`compact`.

        Returns:
            How many.

        Raises:
            UsageError: an id is not in the index; nothing is removed.
        """
        wanted = list(dict.fromkeys(ids))
        with self._store.lock():
            unknown = [one for one in wanted if self._store.catalog.by_id(one) is None]
            if unknown:
                raise UsageError(f"{self.path}: has no image {', '.join(unknown[:5])}")
            self._store.remove(wanted)
        return len(wanted)

    def vanished(self) -> list[str]:
        """Ids of images whose file is gone."""
        images = self._store.catalog.images()
        return [image.id for image in images if not Path(image.path).exists()]

    def query(
        self,
        source: Source,
        k: int = 10,
        rerank: int | None = None,
        box: Box | None = None,
        orientations: Orientations = "auto",
    ) -> QueryResult:
        """Find the photos of the same thing; see :meth:`index.search.search.Search.hits`."""
        return self.search(source, box).hits(k, rerank, orientations)

    def search(
        self, source: Source, box: Box | None = None, others: Iterable[ImageIndex] = ()
    ) -> Search:
        """One query to be ranked in several ways; see :class:`index.search.search.Search`.

        Args:
            others: further indexes to search in, made by the same model.

        Raises:
            ModelError: an index was made by another model.
        """
        stores = [self._store]
        for other in others:
            other._check_fingerprint(self.extractor)
            stores.append(other._store)
        return Search(stores, self.extractor, source, box)

    def query_features(
        self,
        features: ImageFeatures,
        k: int = 10,
        rerank: int | None = None,
        without: Collection[str] = (),
    ) -> QueryResult:
        """Find the photos of the same thing by features of the model that made the index.

        Args:
            without: ids of images that are no candidates.

        Raises:
            UsageError: descriptors are of another width.
        """
        kind = self.feature_spec
        widths = len(features.global_descriptor), features.local.descriptors.shape[1]
        if widths[0] != kind.global_dim or (len(features.local) and widths[1] != kind.local_dim):
            raise UsageError(
                f"{self.path} holds descriptors of {kind.global_dim} and {kind.local_dim} numbers "
                f"(global and local), the query's have {widths[0]} and {widths[1]}"
            )
        return Search([self._store], None, features).hits(k, rerank, "1", without)

    @property
    def feature_spec(self) -> FeatureSpec:
        """What the features of the index have in common."""
        return recorded_spec(self._store)

    def export(self, out: str | Path, kind: str, progress: Progress | None = None) -> int:
        """Write all features for other tools; see
        :func:`index.formats.exchange.export_features`."""
        return export_features(self._store, Path(out), kind, progress)

    def import_from(
        self,
        sources: Iterable[str | Path],
        kind: str | None = None,
        photos: Iterable[str | Path] = (),
        progress: Progress | None = None,
    ) -> ImportReport:
        """Put in features made elsewhere; see :func:`index.formats.exchange.import_features`."""
        files, folders = [Path(one) for one in sources], [Path(one) for one in photos]
        with self._store.lock():
            return import_features(self._store, self.feature_spec, files, kind, folders, progress)

    def compact(self) -> int:
        """Free the space of removed and replaced images; returns the bytes freed."""
        with self._store.lock():
            return compact(self._store)

    def check(self) -> CheckReport:
        """Read everything and say what is damaged."""
        return check(self._store)

    def info(self) -> dict[str, Any]:
        """What the index holds, as plain values."""
        store = self._store
        segments = store.catalog.segments()
        size = sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())
        images = len(self)
        return {
            "index": str(self.path),
            "model": store.catalog.meta("model_name"),
            "fingerprint": self.fingerprint,
            "images": images,
            "failed": store.catalog.count("failed"),
            "segments": len(segments),
            "dead": sum(segment.images for segment in segments) - images,
            "bytes": size,
            "bytes_per_image": round(size / images) if images else None,
            "shortlist": store.ann_index.kind,
            "settings": json.loads(store.settings.model_dump_json()),
        }

    def unreadable_segments(self) -> list[str]:
        """What is wrong with segments that cannot be read; their photos cannot be found."""
        return [f"{problem}; {HOW_TO_REPAIR}" for problem in self._store.unreadable.values()]

    def ids(self) -> list[str]:
        """Ids of the images that can be found."""
        return self._store.catalog.ids(self._store.searchable())

    def paths(self, ids: Iterable[str]) -> dict[str, str]:
        """Where the photos lie, of those ids that are in the index."""
        rows = map(self._store.catalog.by_id, ids)
        return {row.id: row.path for row in rows if row is not None}

    def create_like(self, path: str | Path) -> ImageIndex:
        """A new, empty index of the same model and settings; see :meth:`create`."""
        meta = self._store.catalog.meta
        other = ImageIndex.create(path, meta("model"), meta("weights") or None, self.settings)
        other.use(self.extractor)
        return other

    def failures(self) -> dict[str, str]:
        """Id -> reason of every photo that could not be used."""
        return {image.id: image.reason or "" for image in self._store.catalog.images("failed")}

    def image(self, image_id: str) -> ImageRow | None:
        """What is known of one image."""
        return self._store.catalog.by_id(image_id)

    def features(self, image_id: str) -> ImageFeatures:
        """The stored features of an image.

        Raises:
            UsageError: it is not in the index.
            DelgError: it has none, or they cannot be read.
        """
        row = self._store.catalog.by_id(image_id)
        if row is None:
            raise UsageError(f"{self.path}: has no image {image_id}")
        return self._store.features(row)

    def browse(self, wanted: Filter, limit: int, offset: int = 0) -> Selection:
        """The images that a filter lets pass, by id; see :mod:`index.browse`."""
        return browse(self._store.catalog, wanted, limit, offset)

    def counts(self, most: int = 1000) -> dict[str, list[tuple[str, int]]]:
        """The most frequent ``labels``, ``metadata`` keys and ``reasons`` of failures, each with
        the number of images."""
        catalog = self._store.catalog
        kinds = (("labels", labels), ("metadata", metadata_keys), ("reasons", reasons))
        return {name: count(catalog, most) for name, count in kinds}

    def duplicates(
        self, limits: Limits | None = None, progress: PartDone = lambda part: None
    ) -> Duplicates:
        """Photos that are there more than once; see :mod:`index.duplicates`."""
        return find_duplicates(self._store, limits, progress)

"""The photos of an index, all together: what is known of them, and what shows the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from delg.errors import UsageError
from delg.types import FloatArray, ImageFeatures, Progress
from index.answers.marks import Marks
from index.answers.notebook import images_frame
from index.collection.browse import ImagePage, count_reasons, describe
from index.collection.columns import CollectionTable, Columns, Facets, Filter, Sort, State
from index.collection.decisions import Decisions, PairVerdict
from index.collection.duplicate_review import without_ignored
from index.collection.duplicates import Duplicates, Limits, ShareDone, find_duplicates
from index.collection.explore import Exploration, Layout, explore
from index.collection.groups import DEPTH, InstanceGroups, find_groups
from index.collection.label_index import LabelIndex
from index.collection.label_review import LabelReview, rank_by_typicality, read_sample, review_label
from index.collection.pairs import DEPTH as PAIR_DEPTH
from index.collection.pairs import PhotoPair, find_pairs
from index.collection.plain_photos import plain_photos
from index.collection.regroup import merge_by_marks, split_by_marks
from index.learn.adapt import check_same_adaptation
from index.opened_index import OpenedIndex
from index.photos.missing import MissingPhotos, find_missing
from index.selection import Selection, Where
from index.storage.catalog_tables import ImageRow
from index.storage.opened_store import HOW_TO_REPAIR

if TYPE_CHECKING:
    import pandas as pd


class PhotoCollection(OpenedIndex):
    """The photos of an open index, all together: what is known of them, and what shows the same."""

    def __len__(self) -> int:
        return self._store.catalog.count("ok")

    def __repr__(self) -> str:
        if self._closed:
            return f"<{type(self).__name__} {str(self.path)!r}: closed>"
        return (
            f"<{type(self).__name__} {str(self.path)!r}: {len(self):,} photos, {self._model.name}>"
        )

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

    def select(self, where: Where = ()) -> list[ImageRow]:
        """The images that can be found and fulfil conditions, see :mod:`index.selection`, by id."""
        condition, values = Selection.of(where).as_sql()
        return self._store.catalog.select(condition, values)

    def to_pandas(self, where: Where = ()) -> pd.DataFrame:
        """The images as a table of pandas, with metadata as columns.

        Args:
            where: conditions on them, see :mod:`index.selection`.

        Raises:
            UsageError: pandas is not installed.
        """
        return images_frame(map(vars, self.select(where)))

    def features(self, image_id: str) -> ImageFeatures:
        """The stored features of an image.

        Raises:
            UsageError: it is not in the index.
            DelgError: it has none, or they cannot be read.
        """
        [row] = self._store.catalog.by_ids([image_id])
        return self._store.features(row)

    def info(self) -> dict[str, Any]:
        """What the index holds, as plain values."""
        return describe(self._store)

    def plain_rows(self) -> dict[int, int]:
        """Photos with few local features, by row number; see
        :func:`index.collection.plain_photos.plain_photos`."""
        return plain_photos(self._store, self._model.texture_score)

    def plain_photos(self) -> dict[str, int]:
        """Id -> number of local features of the photos too plain to be verified, the fewest
        first."""
        counts = self.plain_rows()
        return {image.id: counts[image.row] for image in self.by_rows(list(counts))}

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

    def browse(
        self, condition: Filter, limit: int, offset: int = 0, sort: Sort = "id"
    ) -> ImagePage:
        """The images that pass a filter, by id or otherwise; at most ``limit`` from ``offset``."""
        rows = self.columns(condition.state).select(condition, sort)
        return ImagePage(self.by_rows(rows[offset : offset + limit].tolist()), len(rows))

    def columns(self, state: State = "ok") -> Columns:
        """What is known of all images in a state, to be filtered, sorted and counted; see
        :mod:`index.collection.columns`."""
        remember = self._store.catalog.remember
        return remember(("columns", state), lambda: Columns(self.collection_table(state)))

    def collection_table(self, state: State = "ok") -> CollectionTable:
        """The same as it is sent between machines."""
        return CollectionTable.read(self._store.catalog, state)

    def counts(self, limit: int = 1000) -> dict[str, list[tuple[str, int]]]:
        """The most frequent ``labels``, ``metadata`` keys and ``reasons`` of failures, each with
        the number of images."""
        return {**self.columns().most_frequent(limit), "reasons": self.reasons(limit)}

    def reasons(self, limit: int = 1000) -> list[tuple[str, int]]:
        """Why images failed, the most frequent reasons first, with the number of images."""
        return count_reasons(self._store.catalog, limit)

    def facets(self, where: Where = (), limit: int = 100) -> Facets:
        """What to filter by.

        Args:
            where: conditions that hold already, see :mod:`index.selection`.
            limit: values of each key at most.
        """
        return self.columns().facets(Selection.of(where), limit)

    def labels(self) -> LabelIndex:
        """All labels, to be searched; see :mod:`index.collection.label_index`."""
        return self.columns().labels

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
    def marks(self) -> Marks:
        """What people said of queries and photos; see :mod:`index.answers.marks`."""
        return Marks(self.path)

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
        other: PhotoCollection | None = None,
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
        if not self._model.is_comparable(other.fingerprint):
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
        other: PhotoCollection | None = None,
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
        compare: bool = True,
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
            compare,
        )

    def merge_groups(self, *groups: Sequence[str]) -> None:
        """Mark groups of photos, by ids, as one; see
        :func:`index.collection.regroup.merge_by_marks`."""
        merge_by_marks(self.marks, [self._store.catalog.by_ids(ids) for ids in groups])

    def split_group(self, ids: Sequence[str], others: Sequence[str]) -> None:
        """Mark photos as something else than others; see
        :func:`index.collection.regroup.split_by_marks`."""
        by_ids = self._store.catalog.by_ids
        split_by_marks(self.marks, by_ids(ids), by_ids(others))

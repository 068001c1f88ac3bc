"""What a search asks of each shard; see :mod:`index.search.shard`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from delg.types import Box, FloatArray
from index.search.candidates import Match, place_in_image
from index.selection import Selection
from index.settings import IndexSettings
from index.storage.ann_index import Rows
from index.storage.catalog_tables import ImageRow
from index.storage.global_codec import decode_global, encode_global
from index.storage.region_index import BestRegion
from index.storage.store import Store
from index.storage.vocabulary import BinaryWords
from index.verification.calibration import Calibration
from index.verification.matchable import MatchableFeatures, MatchableQuery
from index.verification.matching import one_blas_thread
from index.verification.pair import verify_pair


@dataclass(frozen=True, eq=False)
class Shortlisted:
    """Images that a shard offers for the shortlist.

    Attributes:
        rows: int64 (n,), of the most similar by global descriptor, the most similar first.
        similarities: float32 (n,), of their global descriptors to the query's.
        word_values: float32 (n,), their ASMK*; 0 where they have no words.
        word_rows: int64 (m,), of the highest ASMK*, the highest first, without zeros; with zeros
            where ASMK* is the similarity itself.
        highest_words: float32 (m,), their ASMK*.
        is_ranked_by_words: whether ASMK* is the similarity here: the model has no global head, and
            all photos have words.
    """

    rows: Rows
    similarities: FloatArray
    word_values: FloatArray
    word_rows: Rows
    highest_words: FloatArray
    is_ranked_by_words: bool


@dataclass(frozen=True, eq=False)
class ShortlistRequest:
    """The images most similar to a query, by global descriptor and by visual words.

    Attributes:
        descriptor: float32 (D,), the query's global descriptor, unit length.
        count: images at most by global descriptor.
        words: the query's visual words; None: they do not count.
        word_count: images at most by words.
        by_words: words alone decide where they can.
        selection: of the images.
    """

    descriptor: FloatArray
    count: int
    words: BinaryWords | None
    word_count: int
    by_words: bool
    selection: Selection

    def answer(self, store: Store) -> Shortlisted:
        """See :class:`index.search.shard.Request`."""
        by_words = self.by_words and _is_ranked_by_words(store)
        known_rows, values = _NO_ROWS, _NO_VALUES
        if self.words is not None:
            known_rows, values = store.word_similarities(self.words, self.selection)
        best = _highest(values, self.word_count, with_zeros=by_words)
        rows, similarities = _NO_ROWS, _NO_VALUES
        if not by_words:
            rows, similarities = store.nearest(self.descriptor, self.count, self.selection)
        return Shortlisted(
            rows, similarities, _values_of(rows, known_rows, values),
            known_rows[best], values[best], by_words,
        )  # fmt: skip


_NO_ROWS, _NO_VALUES = np.zeros(0, np.int64), np.zeros(0, np.float32)


def _is_ranked_by_words(store: Store) -> bool:
    inverted = store.inverted_file() if store.catalog.meta("aggregated") else None
    return inverted is not None and len(inverted) == len(store.searchable())


def _highest(values: FloatArray, count: int, with_zeros: bool) -> Rows:
    """Places of the ``count`` highest values, the highest first; of equal ones the first."""
    places = np.arange(len(values)) if with_zeros else np.flatnonzero(values > 0)
    if len(places) > count > 0:
        least = np.partition(values[places], -count)[-count]
        places = places[values[places] >= least]
    return places[np.argsort(-values[places], kind="stable")][:count]


def _values_of(rows: Rows, known_rows: Rows, values: FloatArray) -> FloatArray:
    """The values of rows among the known ones, which ascend; 0 for others."""
    if not len(known_rows):
        return np.zeros(len(rows), np.float32)
    places = np.minimum(np.searchsorted(known_rows, rows), len(known_rows) - 1)
    return np.where(known_rows[places] == rows, values[places], np.float32(0))


@dataclass(frozen=True, eq=False)
class SimilaritiesRequest:
    """Similarities to a query's global descriptor (D,), of images by row number (n,)."""

    descriptor: FloatArray
    rows: Rows

    def answer(self, store: Store) -> FloatArray:
        """float32 (n,)."""
        return store.similarities(self.descriptor, self.rows)


@dataclass(frozen=True, eq=False)
class VerifyRequest:
    """Match and verify images, in parallel.

    Attributes:
        query: what they are compared with.
        similarities: row -> similarity of its global descriptor to the query's.
        settings: of matching and verification.
        calibration: of the model.
        parts: row -> part of the image, as stored, that is compared in place of all of it.
    """

    query: MatchableQuery
    similarities: Mapping[int, float]
    settings: IndexSettings
    calibration: Calibration
    parts: Mapping[int, Box] = field(default_factory=dict)

    def answer(self, store: Store) -> dict[int, Match]:
        """See :class:`index.search.shard.Request`."""
        rows = list(self.similarities)
        with one_blas_thread():
            matches = store.threads.map(partial(self._verify, store), rows)
            return dict(zip(rows, matches, strict=True))

    def _verify(self, store: Store, row: int) -> Match:
        similarity, whole = self.similarities[row], store.matchable(row)
        if row in self.parts:
            part = self._compare(store.matchable_region(row, self.parts[row]), similarity)
            return place_in_image(part, self.parts[row], whole.size)
        match = self._compare(whole, similarity)
        region = self._best_region(store, row)
        if region is None:
            return match
        part = self._compare(store.matchable_region(row, region.box), region.similarity)
        is_surer = part.verification.log_odds > match.verification.log_odds
        return place_in_image(part, region.box, match.size) if is_surer else match

    def _best_region(self, store: Store, row: int) -> BestRegion | None:
        """The part that is more similar to the query than the image, if there is one."""
        descriptor = self.query.features.global_descriptor
        # A second look has no global descriptor.
        if not store.settings.store.regions or len(descriptor) != store.search_dim:
            return None
        region = store.best_region(row, descriptor)
        if region is None:
            return None
        [own] = store.global_descriptors(np.array([row])) @ descriptor
        return region if region.similarity > own else None

    def _compare(self, other: MatchableFeatures, similarity: float) -> Match:
        verification = verify_pair(
            self.query.in_codebook_of(other), other, similarity, self.settings, self.calibration
        )
        places, keypoints = verification.matches, self.query.features.local.keypoints
        points = keypoints[places[:, 0]], other.keypoints[places[:, 1]]
        return Match(verification, *points, other.size)


@dataclass(frozen=True, eq=False)
class DescriptorsRequest:
    """Global descriptors as they are compared, of images by row number (n,)."""

    rows: Rows

    def answer(self, store: Store) -> np.ndarray:
        """(n, D), as they are stored if that loses nothing, so that less travels; see
        :func:`index.storage.global_codec.decode_global`."""
        vectors = store.global_descriptors(self.rows)
        encoded = encode_global(vectors, store.compared_type)
        return encoded if np.array_equal(decode_global(encoded), vectors) else vectors


@dataclass(frozen=True, eq=False)
class ImagesRequest:
    """What is known of images, by row number."""

    rows: Rows

    def answer(self, store: Store) -> list[ImageRow]:
        """One per row, in their order."""
        return [store.catalog.by_row(int(row)) for row in self.rows]


@dataclass(frozen=True, eq=False)
class IdsRequest:
    """Ids of images, by row number."""

    rows: Rows

    def answer(self, store: Store) -> list[str]:
        """One per row, in their order."""
        return store.catalog.ids(self.rows)

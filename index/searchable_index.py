"""An index that can be searched by photo, and what people said of its answers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from typing_extensions import Unpack

from delg.errors import UsageError
from delg.images.decode import ImageError, Source
from delg.types import Box, Failure, ImageFeatures
from index.answers.marks import Verdict, apply_marks, read_query
from index.collection.photo_collection import PhotoCollection
from index.learn.adapt import check_same_adaptation
from index.results import MissingShard, QueryResult
from index.search.orientation import Orientations
from index.search.requests import VerifyRequest
from index.search.scatter import Scatter
from index.search.search import HitConditions, QueryOptions, Search
from index.search.shard import LocalShard, Request, Shard
from index.search.together import MIN_DEPTH, combine
from index.selection import Where
from index.storage.store import Store
from index.verification.matchable import MatchableQuery

T = TypeVar("T")


class SearchableIndex(PhotoCollection):
    """A collection that can be searched by photo; what people said of its answers is respected."""

    def __init__(self, store: Store, model: str | None = None) -> None:
        super().__init__(store, model)
        self._lost_shards: list[MissingShard] = []

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
        photo, key = read_query(source)
        result = self.search(photo, box).hits(k, rerank, orientations, **conditions)
        return self._marked(result, key)

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

    def search(
        self,
        source: Source | ImageFeatures,
        box: Box | None = None,
        others: Iterable[SearchableIndex] = (),
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
        try:
            _, key = read_query(query)
        except ImageError:
            key = ""
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

    def _scatter(self, others: Sequence[SearchableIndex] = ()) -> Scatter:
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
        self._store.region_index()
        for row in self._store.searchable()[:1]:
            image = self._store.catalog.by_row(int(row))
            query, settings = MatchableQuery(self._store.features(image)), self.settings
            request = VerifyRequest(query, {image.row: 1.0}, settings, self._model.calibration)
            self.answer_request(request)

    def unsearched_shards(self) -> list[MissingShard]:
        """The same, and those that some query could not search since the index was opened."""
        known = {missing.shard: missing for missing in (*self.missing_shards(), *self._lost_shards)}
        return list(known.values())

"""One query, and what is said of its candidates."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TypedDict, TypeVar

import numpy as np

from delg.errors import DelgError
from delg.extraction.extractor import Extractor
from delg.images.decode import Source
from delg.types import Box, ImageFeatures
from index.arguments import check_probability
from index.results import Hit, QueryResult, Ranking
from index.search.candidate_search import CandidateSearch
from index.search.candidates import Candidate
from index.search.notes import explain
from index.search.orientation import Orientations
from index.search.query_features import QueryFeatures
from index.search.requests import IdsRequest, ImagesRequest
from index.search.scatter import PartLostError, Scatter
from index.search.shard import Request
from index.search.stage_timer import StageTimer
from index.selection import Selection, Where
from index.storage.ann_index import Rows
from index.storage.catalog_tables import ImageRow
from index.verification.calibration import Calibration

T = TypeVar("T")


class HitConditions(TypedDict, total=False):
    """Which results :meth:`Search.hits` leaves out."""

    without: Collection[str]
    where: Where
    min_probability: float
    verified_only: bool
    regions: Sequence[Box] | None


class QueryOptions(HitConditions, total=False):
    """All arguments of :meth:`Search.hits`."""

    k: int
    rerank: int | None
    orientations: Orientations


class Search:
    """One query, searched for in one index or several.

    Features and verifications are kept, so that ranking the same query again, with other images
    left out, costs little.

    Args:
        shards: of indexes made by the same model; the first one's settings are used.
        extractor: of that model; not needed for a query that is features.
        source: the query: a path, bytes or pixels (see :func:`delg.images.decode.decode`), or
            features of that model, which are neither rotated nor given a second look.
        calibration: of that model.
        box: search for this part of the query only, (x, y, width, height) in its upright pixels.

    Raises:
        ImageError: the query cannot be decoded.
    """

    def __init__(
        self,
        shards: Scatter,
        extractor: Extractor | None,
        source: Source | ImageFeatures,
        calibration: Calibration,
        box: Box | None = None,
    ) -> None:
        self._shards, self._settings = shards, shards.context.settings
        self._texture_score = extractor.settings.texture_score if extractor else 0.0
        self._timer = StageTimer()
        self._query = QueryFeatures(shards.context, extractor, source, box, self._timer)
        self._candidates = CandidateSearch(shards, self._query, calibration, self._timer)

    def hits(
        self,
        k: int = 10,
        rerank: int | None = None,
        orientations: Orientations = "auto",
        without: Collection[str] = (),
        where: Where = (),
        min_probability: float = 0.0,
        verified_only: bool = False,
        regions: Sequence[Box] | None = None,
    ) -> QueryResult:
        """The photos of the same thing as the query, best first.

        When nothing is verified in any orientation, the best candidates get a second look
        (:mod:`index.verification.reverify`).

        Args:
            k: number of results.
            rerank: candidates to verify; None takes the index's setting, 0 verifies none.
            orientations: "1" searches the query as it is; "4" also rotated by 90°, 180° and 270°;
                "auto" rotates it when nothing is likely as it is, or when the best match says
                that it lies on its side.
            without: ids of images to leave out.
            where: conditions on the images, see :mod:`index.selection`; others are no candidates,
                so that there are ``k`` results if so many images fulfil them.
            min_probability: leave out results below it, 0 to 1.
            verified_only: leave out results that are not verified.
            regions: boxes (x, y, width, height) to search for besides the whole photo, as a
                detector gives them; None: those that stand out, see :mod:`index.search.regions`.

        Raises:
            ImageError: the box has no area in the query.
            UsageError: ``k`` is below 1, ``rerank`` below 0, ``min_probability`` no probability,
                ``orientations`` unknown, or a condition malformed.
        """
        check_probability("min_probability", min_probability)
        selection = Selection.of(where, without)

        def answer() -> tuple[list[Candidate], list[ImageRow], tuple[str, ...]]:
            candidates = self._candidates.rank(k, rerank, orientations, selection, regions)
            ranked = [
                candidate
                for candidate in candidates
                if candidate.probability >= min_probability
                and (candidate.verified or not verified_only)
            ][:k]
            depth = self._settings.ranking.rerank if rerank is None else rerank
            scores = self._query.rotated(0).local.scores
            textured = int((scores >= self._texture_score).sum())
            notes = explain(textured, candidates, depth, selection)
            return ranked, self._ask_about(ranked, ImagesRequest), notes

        ranked, images, notes = self._from_what_is_left(answer)
        width, height = self._query.size
        return QueryResult(
            hits=tuple(
                _hit(rank, candidate, image)
                for rank, (candidate, image) in enumerate(zip(ranked, images, strict=True), 1)
            ),
            model=self._shards.context.model_name,
            # Without proof there is no reason to believe that the query is rotated.
            orientation=90 * ranked[0].rotations if ranked and ranked[0].verified else 0,
            width=width,
            height=height,
            box=self._query.box,
            timing_ms=self._timer.take(),
            partial=tuple(self._shards.missing),
            features=len(self._query.rotated(0).local),
            notes=notes,
            regions=self._candidates.group_regions(ranked, regions),
        )

    def ranking(
        self,
        k: int,
        rerank: int | None = None,
        orientations: Orientations = "auto",
        without: Collection[str] = (),
    ) -> Ranking:
        """The same as :meth:`hits` without the details, for rankings of many thousands.

        Raises:
            DelgError: a shard is missing, so that the ranking would not be that of all photos.
        """
        selection = Selection.of((), without)

        def answer() -> tuple[list[Candidate], list[str]]:
            ranked = self._candidates.rank(k, rerank, orientations, selection)[:k]
            return ranked, self._ask_about(ranked, IdsRequest)

        ranked, ids = self._from_what_is_left(answer)
        if self._shards.missing:
            described = "; ".join(map(str, self._shards.missing))
            raise DelgError(f"a part of the index cannot be searched: {described}")
        return Ranking(
            ids=tuple(ids),
            scores=np.array([candidate.score for candidate in ranked], np.float32),
            inliers=np.array([candidate.inliers for candidate in ranked], np.int32),
            probabilities=np.array([candidate.probability for candidate in ranked], np.float32),
            verified=np.array([candidate.verified for candidate in ranked], bool),
        )

    def _from_what_is_left(self, answer: Callable[[], T]) -> T:
        """An answer of the shards that did not get lost while it was made."""
        while True:
            try:
                return answer()
            except PartLostError:
                continue

    def _ask_about(
        self, ranked: Sequence[Candidate], request: Callable[[Rows], Request[list[T]]]
    ) -> list[T]:
        """What shards say of each candidate's image."""
        answers = self._shards.ask_about([candidate.image for candidate in ranked], request)
        values = {
            place: value
            for places, answer in answers
            for place, value in zip(places, answer, strict=True)
        }
        return [values[place] for place in range(len(ranked))]


def _hit(rank: int, candidate: Candidate, image: ImageRow) -> Hit:
    return Hit(
        rank=rank,
        id=image.id,
        path=image.path,
        label=image.label,
        score=candidate.score,
        similarity=candidate.similarity,
        inliers=candidate.inliers,
        probability=candidate.probability,
        verified=candidate.verified,
        transform=candidate.match.verification.transform,
        metadata=image.metadata,
        query_points=candidate.match.query_points,
        points=candidate.match.points,
        width=image.width or 0,
        height=image.height or 0,
        region=candidate.match.region,
    )

"""One query: shortlist, verification, ranking, in up to four orientations."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from itertools import chain, islice
from typing import TypedDict, TypeVar

import numpy as np

from delg.errors import DelgError
from delg.extraction.extractor import Extractor
from delg.images.decode import ImageError, Source, decode
from delg.images.geometry import crop_to_box
from delg.types import Box, ImageFeatures
from index.arguments import check_probability, whole_number
from index.photos.detected import detect_regions
from index.results import Hit, QueryResult, Ranking, Region
from index.search.candidates import (
    Candidate,
    Match,
    any_verified,
    sort_by_score,
)
from index.search.depth import further_depths, verify_until_settled
from index.search.local_shortlist import quantize_query, shortlist_for_verification
from index.search.neighbours import leads, refine_order
from index.search.notes import explain
from index.search.orientation import (
    Orientations,
    further_rotations,
    merge_rotations,
    parse_orientations,
)
from index.search.regions import RegionSearch, group_by_region, place_in_photo
from index.search.requests import IdsRequest, ImagesRequest
from index.search.rerank import Reranker
from index.search.scatter import PartLostError, Scatter
from index.search.shard import Request
from index.selection import Selection, Where
from index.storage.ann_index import Rows
from index.storage.catalog_tables import ImageRow
from index.storage.vocabulary import BinaryWords
from index.verification.calibration import Calibration
from index.verification.reverify import QueryPhoto

T = TypeVar("T")
# Share of the time of a query that goes into depth, where regions are searched as well.
_DEPTH_SHARE = 0.5


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
        self._shards, self._box, self._calibration = shards, box, calibration
        self._context, self._settings = shards.context, shards.context.settings
        self._texture_score = extractor.settings.texture_score if extractor else 0.0
        self._timing = {"extract": 0.0, "search": 0.0, "rerank": 0.0}
        self._photo: QueryPhoto | None = None
        # By quarter turns of the query.
        self._features: dict[int, ImageFeatures] = {}
        self._words: dict[int, BinaryWords | None] = {}
        if isinstance(source, ImageFeatures):
            self._features[0], self._size = self._adapted(source), (source.width, source.height)
        elif extractor is None:
            raise ValueError("a photo cannot be searched for without a model")
        else:
            with self._timed("extract"):
                pixels = decode(source, extractor.images)
            self._photo = QueryPhoto(extractor, pixels, box)
            self._size = pixels.shape[1], pixels.shape[0]
        self._reranker = Reranker(shards, self._photo, calibration)
        # Parts of the query that were searched, by box.
        self._parts: dict[Box, Search] = {}

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._timing[stage] += (time.perf_counter() - started) * 1000

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
            candidates = self._rank(k, rerank, orientations, selection, regions)
            ranked = [
                candidate
                for candidate in candidates
                if candidate.probability >= min_probability
                and (candidate.verified or not verified_only)
            ][:k]
            depth = self._settings.ranking.rerank if rerank is None else rerank
            scores = self._features[0].local.scores
            textured = int((scores >= self._texture_score).sum())
            notes = explain(textured, candidates, depth, selection)
            return ranked, self._ask_about(ranked, ImagesRequest), notes

        ranked, images, notes = self._from_what_is_left(answer)
        width, height = self._size
        result = QueryResult(
            hits=tuple(
                _hit(rank, candidate, image)
                for rank, (candidate, image) in enumerate(zip(ranked, images, strict=True), 1)
            ),
            model=self._context.model_name,
            # Without proof there is no reason to believe that the query is rotated.
            orientation=90 * ranked[0].rotations if ranked and ranked[0].verified else 0,
            width=width,
            height=height,
            box=self._box,
            timing_ms={stage: round(value, 2) for stage, value in self._timing.items()},
            partial=tuple(self._shards.missing),
            features=len(self._features[0].local),
            notes=notes,
            regions=self._regions(ranked, regions),
        )
        self._timing = dict.fromkeys(self._timing, 0.0)
        return result

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
            ranked = self._rank(k, rerank, orientations, selection)[:k]
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

    def _rank(
        self,
        k: int,
        rerank: int | None,
        orientations: Orientations,
        selection: Selection,
        regions: Sequence[Box] | None = None,
    ) -> list[Candidate]:
        """At least ``k`` candidates, if there are so many, best first."""
        k = whole_number("k", k, 1)
        rerank = self._settings.ranking.rerank if rerank is None else rerank
        rerank = whole_number("rerank", rerank, 0)
        orientations = parse_orientations(orientations)
        seconds, has_regions = self._settings.ranking.seconds, self._has_regions(regions)
        started = time.perf_counter()
        until = math.inf if seconds is None else started + seconds
        candidates = partial(self._candidates, k=k, selection=selection)
        by_rotation = {0: candidates(0, rerank)}
        if rerank > 0 and seconds is None:
            self._deepen(by_rotation, candidates, rerank)
        if rerank > 0 and self._photo is not None:
            for rotations in further_rotations(by_rotation[0], orientations):
                by_rotation[rotations] = candidates(rotations, rerank)
        if rerank > 0 and seconds is not None:
            # Regions find what depth does not, so they get half of the time.
            share = _DEPTH_SHARE if has_regions else 1.0
            self._deepen(by_rotation, candidates, rerank, started + share * seconds)
        ranked = merge_rotations(by_rotation)
        if not any_verified(ranked):
            with self._timed("rerank"):
                ranked = self._reranker.reverify(ranked, chain(*by_rotation.values()))
        if rerank > 0 and ranked and has_regions:
            rotations = ranked[0].rotations if any_verified(ranked[:1]) else 0
            search = partial(self._search_part, rotations=rotations, selection=selection)
            ranked = self._region_search(search, regions, until).extend(ranked)
        return self._refine(ranked, k) if self._refines(rerank) else ranked

    def _has_regions(self, regions: Sequence[Box] | None) -> bool:
        """Whether parts of the query are searched for: not of what is a part already."""
        settings = self._settings
        is_wanted = settings.regions.enabled and settings.ranking.order == "evidence"
        is_whole_photo = self._photo is not None and self._box is None
        return is_whole_photo and (is_wanted or regions is not None)

    def _region_search(
        self,
        search: Callable[[Box], list[Candidate]],
        regions: Sequence[Box] | None,
        until: float = math.inf,
    ) -> RegionSearch:
        given = self._detected if regions is None else regions
        return RegionSearch(self._features[0], self._settings.regions, search, given, until)

    @cached_property
    def _detected(self) -> Sequence[Box] | None:
        """The boxes of the detector; None: there is none."""
        assert self._photo is not None
        spec = self._settings.regions
        with self._timed("extract"):
            boxes = detect_regions(spec, self._photo.pixels)
        return boxes if boxes is None else boxes[: spec.searches]

    def _search_part(self, box: Box, rotations: int, selection: Selection) -> list[Candidate]:
        """The candidates of a part of the query, best first; see :mod:`index.search.regions`."""
        assert self._photo is not None
        pixels, origin = crop_to_box(self._photo.pixels, box)
        if box not in self._parts:
            extractor = self._photo.extractor
            self._parts[box] = Search(
                self._shards, extractor, np.ascontiguousarray(pixels), self._calibration
            )
        part = self._parts[box]
        part._timing = self._timing
        rerank = self._settings.regions.rerank
        try:
            candidates = part._candidates(rotations, rerank, rerank, selection)
        except ImageError:  # Nothing in it that a model of local features alone could use.
            return []
        return [place_in_photo(candidate, origin) for candidate in candidates[:rerank]]

    def _regions(
        self, ranked: list[Candidate], regions: Sequence[Box] | None
    ) -> tuple[Region, ...]:
        """The regions of the verified candidates, then what else stands out."""
        answered = group_by_region(ranked, self._size)
        if not self._has_regions(regions):
            return tuple(answered)
        others = self._region_search(lambda box: [], regions).unexplained(ranked)
        return (*answered, *map(Region, others))

    def _deepen(
        self,
        by_rotation: dict[int, list[Candidate]],
        candidates: Callable[[int, int], list[Candidate]],
        rerank: int,
        until: float = math.inf,
    ) -> None:
        """Verify further candidates, in the orientations searched so far, while none is proven.

        Args:
            by_rotation: candidates by quarter turns; replaced by longer lists.
            candidates: called with quarter turns and a depth, gives them.
            rerank: depth that has been reached.
            until: time, by the clock of ``time.perf_counter``, at which to stop.
        """
        for depth in further_depths(rerank, self._settings.ranking):
            if len(by_rotation[0]) <= depth // 2:
                return  # There are no more.
            for rotations in by_rotation:
                is_proven = any(map(any_verified, by_rotation.values()))
                if is_proven or time.perf_counter() >= until:
                    return
                by_rotation[rotations] = candidates(rotations, depth)

    def _refines(self, rerank: int) -> bool:
        """Whether neighbours count; not where similarity or inliers alone are to decide, nor for a
        model without a global head."""
        settings = self._settings
        by_evidence = rerank > 0 and settings.ranking.order == "evidence"
        has_global_head = not self._context.is_aggregated
        return by_evidence and has_global_head and settings.neighbours.method != "none"

    def _refine(self, ranked: list[Candidate], k: int) -> list[Candidate]:
        """Order by their neighbours the candidates that geometry does not speak for."""
        others = [candidate for candidate in ranked if not leads(candidate)]
        # Nobody sees the order behind k others.
        if not others or len(ranked) - len(others) >= k:
            return ranked
        with self._timed("rerank"):
            # All of them are of the orientation that leads.
            query = self._features[others[0].rotations].global_descriptor
            return refine_order(self._shards, query, ranked, self._settings.neighbours)

    def _adapted(self, features: ImageFeatures) -> ImageFeatures:
        """With the global descriptor as the indexes compare it."""
        [descriptor] = self._context.adapt(features.global_descriptor[None])
        return replace(features, global_descriptor=descriptor)

    def _candidates(
        self, rotations: int, rerank: int, k: int, selection: Selection
    ) -> list[Candidate]:
        """The candidates of one orientation, the ``rerank`` most similar verified, best first."""
        if rotations not in self._features and self._photo is not None:
            with self._timed("extract"):
                self._features[rotations] = self._adapted(self._photo.extract(rotations))
        features = self._features[rotations]
        with self._timed("search"):
            neighbours = self._settings.neighbours.candidates if self._refines(rerank) else 0
            similarities = shortlist_for_verification(
                self._shards,
                features.global_descriptor,
                self._words_of(rotations),
                max(k, rerank, neighbours),
                rerank,
                selection,
            )
        with self._timed("rerank"):
            matches = verify_until_settled(
                partial(self._reranker.verify, features, rotations),
                self._shards,
                dict(islice(similarities.items(), rerank)),
                self._settings.ranking.patience,
            )
            return sort_by_score(
                Candidate.scored(
                    image,
                    similarity,
                    matches.get(image) or self._unverified(similarity),
                    rotations,
                    self._settings.ranking,
                )
                for image, similarity in similarities.items()
            )

    def _unverified(self, similarity: float) -> Match:
        return Match.none(self._calibration.log_odds(similarity, None))

    def _words_of(self, rotations: int) -> BinaryWords | None:
        if rotations not in self._words:
            descriptors = self._features[rotations].local.descriptors
            self._words[rotations] = quantize_query(self._context, descriptors)
        return self._words[rotations]


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

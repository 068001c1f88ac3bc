"""The candidates of one query, best first: shortlist, verification, refinement, in up to four
orientations, and in the regions of the query."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import cache, cached_property, partial
from itertools import chain, islice
from statistics import mode

import numpy as np

from delg.images.decode import ImageError
from delg.images.geometry import crop_to_box
from delg.types import Box
from index.arguments import whole_number
from index.photos.detected import detect_regions
from index.results import Region
from index.search.candidates import Candidate, Match, any_verified, sort_by_score
from index.search.depth import further_depths, verify_until_settled
from index.search.local_shortlist import Shortlist
from index.search.neighbours import leads, refine_order
from index.search.orientation import (
    Orientations,
    further_rotations,
    merge_rotations,
    parse_orientations,
)
from index.search.query_features import QueryFeatures
from index.search.regions import RegionSearch, group_by_region, place_in_photo
from index.search.rerank import Reranker
from index.search.scatter import Scatter
from index.search.stage_timer import StageTimer
from index.selection import Selection
from index.verification.calibration import Calibration

# Share of the time of a query that goes into depth, where regions are searched as well.
_DEPTH_SHARE = 0.5


class CandidateSearch:
    """Finds and orders the candidates of one query; what is verified is kept.

    Args:
        shards: of indexes made by the same model; the first one's settings are used.
        query: its features.
        calibration: of that model.
        timer: that stages are counted by.
    """

    def __init__(
        self, shards: Scatter, query: QueryFeatures, calibration: Calibration, timer: StageTimer
    ) -> None:
        self._shards, self._query = shards, query
        self._calibration, self._timer = calibration, timer
        self._settings = shards.context.settings
        self._reranker = Reranker(shards, query.photo, calibration)
        # Of the parts of the query that were searched, by box.
        self._parts: dict[Box, CandidateSearch] = {}

    def rank(
        self,
        k: int,
        rerank: int | None,
        orientations: Orientations,
        selection: Selection,
        regions: Sequence[Box] | None = None,
    ) -> list[Candidate]:
        """At least ``k`` candidates, if there are so many, best first.

        Args: see :meth:`index.search.search.Search.hits`.

        Raises:
            UsageError: ``k``, ``rerank`` or ``orientations`` cannot be.
        """
        k = whole_number("k", k, 1)
        rerank = self._settings.ranking.rerank if rerank is None else rerank
        rerank = whole_number("rerank", rerank, 0)
        orientations = parse_orientations(orientations)
        seconds, has_regions = self._settings.ranking.seconds, self._has_regions(regions)
        started = time.perf_counter()
        until = math.inf if seconds is None else started + seconds
        shortlist_of = cache(partial(self.shortlist, selection=selection))
        candidates = partial(self.candidates, k=k, shortlist_of=shortlist_of)
        by_rotation = {0: candidates(0, rerank)}
        if rerank > 0 and seconds is None:
            self._deepen(by_rotation, candidates, rerank)
        if rerank > 0 and self._query.photo is not None:
            for rotations in further_rotations(by_rotation[0], orientations):
                by_rotation[rotations] = candidates(rotations, rerank)
        if rerank > 0 and seconds is not None:
            # Regions find what depth does not, so they get half of the time.
            share = _DEPTH_SHARE if has_regions else 1.0
            self._deepen(by_rotation, candidates, rerank, started + share * seconds)
        ranked = merge_rotations(by_rotation)
        if not any_verified(ranked):
            with self._timer.time("rerank"):
                ranked = self._reranker.reverify(ranked, chain(*by_rotation.values()))
        if rerank > 0 and ranked and has_regions:
            rotations = ranked[0].rotations if any_verified(ranked[:1]) else 0
            search = partial(self._search_part, rotations=rotations, selection=selection)
            ranked = self._region_search(search, regions, until).extend(ranked)
        return self._refine(ranked, k) if self._refines(rerank) else ranked

    def shortlist(self, rotations: int, selection: Selection) -> Shortlist:
        """What shards offer the query after that many quarter turns."""
        return Shortlist(
            self._shards,
            self._query.rotated(rotations).global_descriptor,
            self._query.words(rotations),
            selection,
            self._settings.ranking.deepen,
        )

    def candidates(
        self, rotations: int, rerank: int, k: int, shortlist_of: Callable[[int], Shortlist]
    ) -> list[Candidate]:
        """The candidates of one orientation, the ``rerank`` most similar verified, best first.

        Args:
            rotations: quarter turns of the query.
            rerank: candidates to verify.
            k: candidates, at least, if there are so many.
            shortlist_of: called with quarter turns, gives that of the query.
        """
        features = self._query.rotated(rotations)
        with self._timer.time("search"):
            neighbours = self._settings.neighbours.candidates if self._refines(rerank) else 0
            count = max(k, rerank, neighbours)
            similarities = shortlist_of(rotations).candidates(count, rerank)
        with self._timer.time("rerank"):
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
        reached = rerank
        for depth in further_depths(rerank, self._settings.ranking):
            if len(by_rotation[0]) < reached:
                return  # There are no more.
            for rotations in by_rotation:
                is_proven = any(map(any_verified, by_rotation.values()))
                if is_proven or time.perf_counter() >= until:
                    return
                by_rotation[rotations] = candidates(rotations, depth)
            reached = depth

    def _refines(self, rerank: int) -> bool:
        """Whether neighbours count; not where similarity or inliers alone are to decide, nor for a
        model without a global head."""
        settings = self._settings
        by_evidence = rerank > 0 and settings.ranking.order == "evidence"
        has_global_head = not self._shards.context.is_aggregated
        return by_evidence and has_global_head and settings.neighbours.method != "none"

    def _refine(self, ranked: list[Candidate], k: int) -> list[Candidate]:
        """Order by their neighbours the candidates that geometry does not speak for."""
        others = [candidate for candidate in ranked if not leads(candidate)]
        # Nobody sees the order behind k others.
        if not others or len(ranked) - len(others) >= k:
            return ranked
        with self._timer.time("rerank"):
            # All but what a second look found are of the orientation that leads.
            rotations = mode(candidate.rotations for candidate in others)
            query = self._query.rotated(rotations).global_descriptor
            return refine_order(self._shards, query, ranked, self._settings.neighbours)

    def _has_regions(self, regions: Sequence[Box] | None) -> bool:
        """Whether parts of the query are searched for: not of what is a part already."""
        settings = self._settings
        is_wanted = settings.regions.enabled and settings.ranking.order == "evidence"
        is_whole_photo = self._query.photo is not None and self._query.box is None
        return is_whole_photo and (is_wanted or regions is not None)

    def _region_search(
        self,
        search: Callable[[Box], list[Candidate]],
        regions: Sequence[Box] | None,
        until: float = math.inf,
    ) -> RegionSearch:
        given = self._detected if regions is None else regions
        return RegionSearch(self._query.rotated(0), self._settings.regions, search, given, until)

    @cached_property
    def _detected(self) -> Sequence[Box] | None:
        """The boxes of the detector; None: there is none."""
        assert self._query.photo is not None
        spec = self._settings.regions
        with self._timer.time("extract"):
            boxes = detect_regions(spec, self._query.photo.pixels)
        return boxes if boxes is None else boxes[: spec.searches]

    def _search_part(self, box: Box, rotations: int, selection: Selection) -> list[Candidate]:
        """The candidates of a part of the query, best first; see :mod:`index.search.regions`."""
        photo, rerank = self._query.photo, self._settings.regions.rerank
        assert photo is not None
        pixels, origin = crop_to_box(photo.pixels, box)
        if box not in self._parts:
            query = QueryFeatures(
                self._shards.context,
                photo.extractor,
                np.ascontiguousarray(pixels),
                None,
                self._timer,
            )
            self._parts[box] = CandidateSearch(self._shards, query, self._calibration, self._timer)
        part = self._parts[box]
        shortlist_of = partial(part.shortlist, selection=selection)
        try:
            candidates = part.candidates(rotations, rerank, rerank, shortlist_of)
        except ImageError:  # Nothing in it that a model of local features alone could use.
            return []
        return [place_in_photo(candidate, origin) for candidate in candidates[:rerank]]

    def group_regions(
        self, ranked: list[Candidate], regions: Sequence[Box] | None
    ) -> tuple[Region, ...]:
        """The regions of the verified candidates, then what else stands out."""
        answered = group_by_region(ranked, self._query.size)
        if not self._has_regions(regions):
            return tuple(answered)
        others = self._region_search(lambda box: [], regions).unexplained(ranked)
        return (*answered, *map(Region, others))

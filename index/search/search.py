"""Search: shortlist, verify, rank; in up to four orientations of the query."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from delg.extraction.extractor import Extractor
from delg.images.decode import Source, decode
from delg.types import Box, FloatArray, ImageFeatures
from index.results import Hit, QueryResult, Ranking, Verification
from index.search.scoring import score
from index.storage.store import Store
from index.verification.matchable import MatchableFeatures, Query
from index.verification.matching import one_blas_thread
from index.verification.pair import compare_stored, second_look

Orientations = Literal["auto", "1", "4"]
# Which index and which of its rows.
_Place = tuple[int, int]
# So many times the inliers of the best upright candidate turn the order of all candidates.
_CLEARLY_MORE = 1.5
_NO_POINTS = np.zeros((0, 2), np.float32)


@dataclass(frozen=True, eq=False)
class _Seen:
    """What verification said about a photo, with the points that agree: float32 (inliers, 2)."""

    verification: Verification
    query_points: FloatArray
    points: FloatArray


_UNSEEN = _Seen(Verification.none(), _NO_POINTS, _NO_POINTS)


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A photo of the shortlist of one orientation, and what verification said about it."""

    place: _Place
    similarity: float
    score: float
    seen: _Seen
    turns: int

    @property
    def inliers(self) -> int:
        return self.seen.verification.inliers

    @property
    def verified(self) -> bool:
        return self.seen.verification.verified


@dataclass(frozen=True, eq=False)
class _Photo:
    """A query that can be extracted: its model and its pixels, uint8 (H, W, 3)."""

    extractor: Extractor
    pixels: NDArray[np.uint8]


class Search:
    """One query photo, searched for in one or several indexes.

    What has been extracted and verified once is remembered, so that ranking the same query again,
    with other photos left out, costs little.

    Args:
        stores: states of indexes made by the same model; the first one's settings are used.
        extractor: of that model; None for a query that is features.
        source: the query: path, bytes or pixels (see :func:`delg.images.decode.decode`), or
        features
            made elsewhere, which cannot be turned or looked at again.
        box: look only at this part of the query, (x, y, width, height) in its upright pixels.

    Raises:
        ImageError: the query cannot be used.
    """

    def __init__(
        self,
        stores: Sequence[Store],
        extractor: Extractor | None,
        source: Source | ImageFeatures,
        box: Box | None = None,
    ) -> None:
        self._stores, self._box = stores, box
        self._settings = stores[0].settings
        self._photo: _Photo | None = None
        self._timing = {"extract": 0.0, "search": 0.0, "rerank": 0.0}
        self._features: dict[int, ImageFeatures] = {}
        self._seen: dict[tuple[int, _Place], _Seen] = {}
        self._closer: dict[tuple[int, _Place], _Seen] = {}
        if isinstance(source, ImageFeatures):
            self._features[0], self._size = source, (source.width, source.height)
            return
        if extractor is None:
            raise ValueError("a photo cannot be searched for without a model")
        with self._timed("extract"):
            pixels = decode(source, extractor.images)
        self._photo, self._size = _Photo(extractor, pixels), (pixels.shape[1], pixels.shape[0])

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
    ) -> QueryResult:
        """The photos of the same thing as the query, best first.

        Args:
            k: hits wanted.
            rerank: candidates to verify; None takes the index's setting, 0 verifies none.
            orientations: "1" searches the query as it is; "4" also turned by 90°, 180° and 270°;
                "auto" turns it when nothing is verified as it is, or when what is verified says
                that it lies on its side. When nothing is verified at all, the best candidates get
                a second look (:mod:`index.verification.pair`).
            without: ids of images that are no candidates.

        Raises:
            ImageError: the box cannot be used.
        """
        ranked = self._ranked(k, rerank, orientations, without)[:k]
        width, height = self._size
        result = QueryResult(
            hits=tuple(self._hit(rank, one) for rank, one in enumerate(ranked, 1)),
            model=self._stores[0].catalog.meta("model_name"),
            # Without proof there is no reason to believe that the query is turned.
            orientation=90 * ranked[0].turns if ranked and ranked[0].verified else 0,
            width=width,
            height=height,
            box=self._box,
            timing_ms={stage: round(value, 2) for stage, value in self._timing.items()},
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
        """The same as :meth:`hits` in few words, for rankings of many thousands."""
        ranked = self._ranked(k, rerank, orientations, without)[:k]
        ids: dict[_Place, str] = {}
        for number, store in enumerate(self._stores):
            rows = np.array([one.place[1] for one in ranked if one.place[0] == number], np.int64)
            names = store.catalog.ids(rows)
            ids |= {(number, int(row)): one for row, one in zip(rows, names, strict=True)}
        return Ranking(
            ids=tuple(ids[one.place] for one in ranked),
            scores=np.array([one.score for one in ranked], np.float32),
            inliers=np.array([one.inliers for one in ranked], np.int32),
            verified=np.array([one.verified for one in ranked], bool),
        )

    def _ranked(
        self,
        k: int,
        rerank: int | None,
        orientations: Orientations,
        without: Collection[str],
    ) -> list[_Candidate]:
        """At least ``k`` candidates, where there are so many, best first."""
        rerank = self._settings.ranking.rerank if rerank is None else rerank
        by_turn = {0: self._candidates(0, k, rerank, without)}
        fixed = rerank == 0 or self._photo is None
        for turns in () if fixed else _further_turns(by_turn[0], orientations):
            by_turn[turns] = self._candidates(turns, k, rerank, without)
        ranked = _merge(by_turn)
        if not _any_verified(ranked):
            with self._timed("rerank"):
                ranked = self._look_again(ranked, by_turn)
        return ranked

    def _candidates(
        self, turns: int, k: int, rerank: int, without: Collection[str]
    ) -> list[_Candidate]:
        """The shortlist of one orientation, its first ``rerank`` verified, best score first."""
        if turns not in self._features and self._photo is not None:
            with self._timed("extract"):
                photo = self._photo
                self._features[turns] = photo.extractor.extract(photo.pixels, self._box, turns)
        with self._timed("search"):
            similarities = self._shortlist(turns, max(k, rerank), without)
        with self._timed("rerank"):
            self._verify(turns, list(similarities)[:rerank])
            seen = dict.fromkeys(similarities, _UNSEEN)
            seen |= {place: self._seen[turns, place] for place in list(similarities)[:rerank]}
            found = [
                self._candidate(place, similarity, seen[place], turns)
                for place, similarity in similarities.items()
            ]
        return _by_score(found)

    def _candidate(self, place: _Place, similarity: float, seen: _Seen, turns: int) -> _Candidate:
        value = score(similarity, seen.verification, self._settings.ranking)
        return _Candidate(place, similarity, value, seen, turns)

    def _shortlist(self, turns: int, count: int, without: Collection[str]) -> dict[_Place, float]:
        """The places most similar to the query and their similarities, best first."""
        whole = self._features[turns].global_descriptor
        parts = [store.nearest(whole, count, without) for store in self._stores]
        merged = [
            ((number, int(row)), float(similarity))
            for number, (rows, similarities) in enumerate(parts)
            for row, similarity in zip(rows, similarities, strict=True)
        ]
        if len(self._stores) > 1:
            merged.sort(key=lambda one: (-one[1], one[0]))
        return dict(merged[:count])

    def _verify(self, turns: int, places: Iterable[_Place]) -> None:
        """Verify those that have not been."""
        query = Query(self._features[turns])
        left = [place for place in places if (turns, place) not in self._seen]

        def seen(place: _Place) -> _Seen:
            stored = self._stores[place[0]].matchable(place[1])
            found = compare_stored(query.in_codebook_of(stored), stored, self._settings)
            return _points(found, query.features, stored)

        with one_blas_thread(), ThreadPoolExecutor(os.cpu_count()) as pool:
            all_seen = pool.map(seen, left)
            self._seen |= {(turns, place): one for place, one in zip(left, all_seen, strict=True)}

    def _look_again(
        self, ranked: list[_Candidate], by_turn: dict[int, list[_Candidate]]
    ) -> list[_Candidate]:
        """The candidates again, after a second look at those that agreed best in any
        orientation."""
        spec = self._settings.reverification
        if self._photo is None:
            return ranked
        weak: dict[_Place, _Candidate] = {}
        for one in (one for candidates in by_turn.values() for one in candidates):
            if one.inliers >= spec.from_inliers and (
                one.place not in weak or one.inliers > weak[one.place].inliers
            ):
                weak[one.place] = one
        best = sorted(weak.values(), key=lambda one: (-one.inliers, one.place))
        found = {one.place: one for one in ranked}
        for one in best[: spec.candidates]:
            seen = self._closer_look(one, self._photo)
            if seen.verification.verified:
                found[one.place] = self._candidate(one.place, one.similarity, seen, one.turns)
        return _by_score(found.values())

    def _closer_look(self, one: _Candidate, photo: _Photo) -> _Seen:
        key = one.turns, one.place
        transform = one.seen.verification.transform
        if key not in self._closer and transform is not None:
            stored = self._stores[one.place[0]].matchable(one.place[1])
            sighting = second_look(
                photo.extractor, photo.pixels, self._box, stored, transform, self._settings
            )
            self._closer[key] = _points(sighting.verification, sighting.query, stored)
        return self._closer.get(key, _UNSEEN)

    def _hit(self, rank: int, one: _Candidate) -> Hit:
        image = self._stores[one.place[0]].catalog.by_row(one.place[1])
        return Hit(
            rank=rank,
            id=image.id,
            path=image.path,
            label=image.label,
            score=one.score,
            similarity=one.similarity,
            inliers=one.inliers,
            verified=one.verified,
            transform=one.seen.verification.transform,
            metadata=image.metadata,
            query_points=one.seen.query_points,
            points=one.seen.points,
            width=image.width or 0,
            height=image.height or 0,
        )


def _points(verification: Verification, query: ImageFeatures, stored: MatchableFeatures) -> _Seen:
    matches = verification.matches
    return _Seen(
        verification, query.local.keypoints[matches[:, 0]], stored.keypoints[matches[:, 1]]
    )


def _further_turns(upright: list[_Candidate], orientations: Orientations) -> tuple[int, ...]:
    """The quarter turns worth a search after the query has been tried as it is."""
    if orientations == "1":
        return ()
    if orientations == "4" or not _any_verified(upright):
        return (1, 2, 3)
    # Found although it lies on its side: more matches the right way up.
    transform = upright[0].seen.verification.transform
    turns = 0 if transform is None else quarter_turns(transform)
    return (turns,) if turns else ()


def quarter_turns(transform: NDArray[np.float64]) -> int:
    """Quarter turns counter-clockwise that bring the query nearest to the other photo's pose."""
    (a, b), (c, d) = transform[:2, :2]
    clockwise = np.degrees(np.arctan2(c - b, a + d))
    return round(-clockwise / 90) % 4


def _merge(by_turn: dict[int, list[_Candidate]]) -> list[_Candidate]:
    """One list from those of several orientations.

    The orientation with the best candidate leads; verified photos of the others join it, each
    photo with its best score. What no orientation verifies keeps the leader's order.
    """
    lead = max(by_turn, key=lambda turns: (_best_score(by_turn[turns]), -turns))
    # Without proof, and clearly more of it than upright, the query is not believed to be turned.
    proof, upright = (_most_inliers(by_turn[turns]) for turns in (lead, 0))
    if not _any_verified(by_turn[lead]) or proof < _CLEARLY_MORE * upright:
        lead = 0
    chosen = {one.place: one for one in by_turn[lead]}
    for candidates in by_turn.values():
        for one in candidates:
            known = chosen.get(one.place)
            if one.verified and (known is None or one.score > known.score):
                chosen[one.place] = one
    return _by_score(chosen.values())


def _by_score(candidates: Iterable[_Candidate]) -> list[_Candidate]:
    return sorted(candidates, key=lambda one: (-one.score, one.place))


def _best_score(candidates: list[_Candidate]) -> float:
    return candidates[0].score if candidates else float("-inf")


def _most_inliers(candidates: list[_Candidate]) -> int:
    return max((one.inliers for one in candidates), default=0)


def _any_verified(candidates: list[_Candidate]) -> bool:
    return any(one.verified for one in candidates)

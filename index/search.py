"""Search: shortlist, verify, rank; in up to four orientations of the query."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from delg.decode import Source, decode
from delg.extractor import Extractor
from delg.values import Box, ImageFeatures
from index.catalog import ImageRow
from index.hits import Hit, QueryResult, Verification
from index.pair import compare, second_look
from index.ranking import score
from index.store import Store

Orientations = Literal["auto", "1", "4"]


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A photo of the shortlist and what verification said about it."""

    row: int
    similarity: float
    score: float
    verification: Verification
    image: ImageRow
    stored: ImageFeatures | None
    query: ImageFeatures


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


@contextmanager
def _one_blas_thread() -> Iterator[None]:
    # Candidates already run side by side; more threads inside each product only contend.
    with _blas().limit(limits=1, user_api="blas"):
        yield


def _candidates(
    store: Store, query: ImageFeatures, count: int, rerank: int, timing: dict[str, float]
) -> list[_Candidate]:
    """The shortlist of one orientation, its first ``rerank`` verified, best score first."""
    started = time.perf_counter()
    rows, similarities = store.shortlist.search(query.global_descriptor, max(count, rerank))
    timing["search"] += _milliseconds(started)

    started = time.perf_counter()

    def candidate(place: int) -> _Candidate:
        image = images[place]
        similarity = float(similarities[place])
        stored, verification = None, Verification.none()
        if place < rerank:
            stored = store.features(image)
            verification = compare(query, stored, store.settings)
        value = score(similarity, verification, store.settings.ranking)
        return _Candidate(image.row, similarity, value, verification, image, stored, query)

    images = [store.catalog.by_row(int(row)) for row in rows]
    with _one_blas_thread(), ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(candidate, range(len(rows))))
    timing["rerank"] += _milliseconds(started)
    return _by_score(found)


def _milliseconds(started: float) -> float:
    return (time.perf_counter() - started) * 1000


def _further_turns(upright: list[_Candidate], orientations: Orientations) -> tuple[int, ...]:
    """The quarter turns worth a search after the query has been tried as it is."""
    if orientations == "1":
        return ()
    if orientations == "4" or not _any_verified(upright):
        return (1, 2, 3)
    # Found although it lies on its side: more matches the right way up.
    transform = upright[0].verification.transform
    turns = 0 if transform is None else quarter_turns(transform)
    return (turns,) if turns else ()


def quarter_turns(transform: NDArray[np.float64]) -> int:
    """Quarter turns counter-clockwise that bring the query nearest to the other photo's pose."""
    (a, b), (c, d) = transform[:2, :2]
    clockwise = np.degrees(np.arctan2(c - b, a + d))
    return round(-clockwise / 90) % 4


def _merge(by_turn: dict[int, list[_Candidate]]) -> tuple[int, list[_Candidate]]:
    """One list from those of several orientations.

    The orientation with the best candidate leads; verified photos of the others join it, each
    photo with its best score. What no orientation verifies keeps the leader's order.
    """
    lead = max(by_turn, key=lambda turns: (_best_score(by_turn[turns]), -turns))
    if not _any_verified(by_turn[lead]):
        # Without proof there is no reason to believe that the query is turned.
        lead = 0
    chosen = {one.row: one for one in by_turn[lead]}
    for candidates in by_turn.values():
        for one in candidates:
            known = chosen.get(one.row)
            if one.verification.verified and (known is None or one.score > known.score):
                chosen[one.row] = one
    return lead, _by_score(chosen.values())


def _look_again(
    store: Store,
    extractor: Extractor,
    pixels: NDArray[np.uint8],
    box: Box | None,
    ranked: list[_Candidate],
    by_turn: dict[int, list[_Candidate]],
) -> list[_Candidate]:
    """The candidates again, after a second look at those that agreed best in any orientation."""
    spec = store.settings.second_look
    weak: dict[int, _Candidate] = {}
    for one in (one for candidates in by_turn.values() for one in candidates):
        inliers = one.verification.inliers
        if inliers >= spec.from_inliers and (
            one.row not in weak or inliers > weak[one.row].verification.inliers
        ):
            weak[one.row] = one
    best = sorted(weak.values(), key=lambda one: (-one.verification.inliers, one.row))
    found = {one.row: one for one in ranked}
    for one in best[: spec.candidates]:
        if one.stored is None or one.verification.transform is None:
            continue
        sighting = second_look(
            extractor, pixels, box, one.stored, one.verification.transform, store.settings
        )
        if sighting.verification.verified:
            value = score(one.similarity, sighting.verification, store.settings.ranking)
            found[one.row] = replace(
                one, score=value, verification=sighting.verification, query=sighting.query
            )
    return _by_score(found.values())


def _by_score(candidates: Iterable[_Candidate]) -> list[_Candidate]:
    return sorted(candidates, key=lambda one: (-one.score, one.row))


def _best_score(candidates: list[_Candidate]) -> float:
    return candidates[0].score if candidates else float("-inf")


def _any_verified(candidates: list[_Candidate]) -> bool:
    return any(one.verification.verified for one in candidates)


def _hit(rank: int, one: _Candidate) -> Hit:
    image, matches = one.image, one.verification.matches
    hit = Hit(
        rank=rank,
        id=image.id,
        path=image.path,
        label=image.label,
        score=one.score,
        similarity=one.similarity,
        inliers=one.verification.inliers,
        verified=one.verification.verified,
        transform=one.verification.transform,
        metadata=image.metadata,
        width=image.width or 0,
        height=image.height or 0,
    )
    if one.stored is None:
        return hit
    return replace(
        hit,
        query_points=one.query.local.keypoints[matches[:, 0]],
        points=one.stored.local.keypoints[matches[:, 1]],
    )


def search(
    store: Store,
    extractor: Extractor,
    source: Source,
    k: int = 10,
    rerank: int | None = None,
    box: Box | None = None,
    orientations: Orientations = "auto",
) -> QueryResult:
    """Find the photos of the same thing as the query.

    Args:
        store: one state of an index; extractor: of its model.
        source: the query: path, bytes or pixels (see :func:`delg.decode.decode`).
        k: hits wanted.
        rerank: candidates to verify; None takes the index's setting, 0 verifies none.
        box: look only at this part of the query, (x, y, width, height) in its upright pixels.
        orientations: "1" searches the query as it is; "4" also turned by 90°, 180° and 270°;
            "auto" turns it when nothing is verified as it is, or when what is verified says that
            it lies on its side. When nothing is verified at all, the best candidates get a second
            look (:mod:`index.pair`).

    Raises:
        ImageError: the query or the box cannot be used.
    """
    rerank = store.settings.ranking.rerank if rerank is None else rerank
    timing = {"extract": 0.0, "search": 0.0, "rerank": 0.0}
    started = time.perf_counter()
    pixels = decode(source, extractor.images)
    timing["extract"] += _milliseconds(started)
    by_turn: dict[int, list[_Candidate]] = {}

    def look(turns: int) -> None:
        started = time.perf_counter()
        features = extractor.extract(pixels, box, turns)
        timing["extract"] += _milliseconds(started)
        by_turn[turns] = _candidates(store, features, k, rerank, timing)

    look(0)
    for turns in () if rerank == 0 else _further_turns(by_turn[0], orientations):
        look(turns)
    lead, ranked = _merge(by_turn)
    if not _any_verified(ranked):
        started = time.perf_counter()
        ranked = _look_again(store, extractor, pixels, box, ranked, by_turn)
        timing["rerank"] += _milliseconds(started)
    return QueryResult(
        hits=tuple(_hit(rank, one) for rank, one in enumerate(ranked[:k], 1)),
        model=extractor.name,
        orientation=90 * lead,
        width=pixels.shape[1],
        height=pixels.shape[0],
        box=box,
        timing_ms={stage: round(value, 2) for stage, value in timing.items()},
    )

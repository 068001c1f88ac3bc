"""Search: shortlist, verify, rank; in up to four orientations of the query."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

from threadpoolctl import ThreadpoolController

from delg.decode import Source, decode
from delg.extractor import Extractor
from delg.values import Box, ImageFeatures
from index.catalog import ImageRow
from index.hits import Hit, QueryResult, Verification
from index.matching import match_descriptors
from index.ranking import score
from index.settings import IndexSettings
from index.store import Store
from index.verification import verify

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


def compare(query: ImageFeatures, other: ImageFeatures, settings: IndexSettings) -> Verification:
    """Match and verify two photos; the transform maps the query's pixels to the other's."""
    matches = match_descriptors(query.local.descriptors, other.local.descriptors, settings.matching)
    return verify(
        query.local.keypoints,
        other.local.keypoints,
        matches,
        (query.width, query.height),
        (other.width, other.height),
        settings.verification,
    )


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
    return sorted(found, key=lambda one: (-one.score, one.row))


def _milliseconds(started: float) -> float:
    return (time.perf_counter() - started) * 1000


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
    return lead, sorted(chosen.values(), key=lambda one: (-one.score, one.row))


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
            "auto" turns it only when nothing is verified as it is.

    Raises:
        ImageError: the query or the box cannot be used.
    """
    rerank = store.settings.ranking.rerank if rerank is None else rerank
    timing = {"extract": 0.0, "search": 0.0, "rerank": 0.0}
    started = time.perf_counter()
    pixels = decode(source, extractor.images)
    timing["extract"] += _milliseconds(started)
    by_turn: dict[int, list[_Candidate]] = {}
    for turns in (0,) if orientations == "1" or rerank == 0 else (0, 1, 2, 3):
        if turns and orientations == "auto" and _any_verified(by_turn[0]):
            break
        started = time.perf_counter()
        features = extractor.extract(pixels, box, turns)
        timing["extract"] += _milliseconds(started)
        by_turn[turns] = _candidates(store, features, k, rerank, timing)
    lead, ranked = _merge(by_turn)
    return QueryResult(
        hits=tuple(_hit(rank, one) for rank, one in enumerate(ranked[:k], 1)),
        model=extractor.name,
        orientation=90 * lead,
        width=pixels.shape[1],
        height=pixels.shape[0],
        box=box,
        timing_ms={stage: round(value, 2) for stage, value in timing.items()},
    )

"""Several photos of one thing as a single query, and photos of what it is not.

Each photo is searched for and verified by itself. A result counts by the photo that speaks for it
most: photos of one thing are too much alike for their evidence to add up. What is verified with a
photo of another thing (``minus``), with probability q, shows the thing and not the other one with
the probability p · (1 − q).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from index.log_odds import log_odds_of
from index.results import Hit, QueryResult

# Results of each photo that take part, at least.
MIN_DEPTH = 50


def combine(
    results: Sequence[QueryResult],
    minus: Sequence[QueryResult],
    verified_from: float,
    k: int = 10,
    min_probability: float = 0.0,
    verified_only: bool = False,
) -> QueryResult:
    """The results of several queries as those of one.

    Args:
        results: of the photos of the thing, at least one.
        minus: of the photos of what it is not.
        verified_from: probability from which a hit stays verified.
        k, min_probability, verified_only: see :meth:`index.search.search.Search.hits`.

    Returns:
        Each hit with the points, transform and ``photo`` of the photo that found it most surely;
        size, box and orientation are of the first photo.
    """
    best = _best_hits(results)
    against = {image: hit for image, hit in _best_hits(minus).items() if hit.verified}
    hits = [
        _without_evidence_of(hit, against.get(image), verified_from) for image, hit in best.items()
    ]
    kept = [
        hit
        for hit in sorted(hits, key=lambda hit: (-hit.score, hit.rank, hit.id))
        if hit.probability >= min_probability and (hit.verified or not verified_only)
    ]
    queries = [*results, *minus]
    return replace(
        results[0],
        hits=tuple(replace(hit, rank=rank) for rank, hit in enumerate(kept[:k], 1)),
        timing_ms=_summed([result.timing_ms for result in queries]),
        features=max(result.features for result in results),
        notes=tuple(dict.fromkeys(note for result in queries for note in result.notes)),
        partial=tuple({each.shard: each for r in queries for each in r.partial}.values()),
        photos=len(results),
        # Those of one photo say nothing about the others.
        regions=(),
    )


def _best_hits(results: Sequence[QueryResult]) -> dict[str, Hit]:
    """By id, the hit with the highest score."""
    best: dict[str, Hit] = {}
    for number, result in enumerate(results):
        for hit in result:
            known = best.get(hit.id)
            if known is None or hit.score > known.score:
                best[hit.id] = replace(hit, photo=number)
    return best


def _without_evidence_of(hit: Hit, against: Hit | None, verified_from: float) -> Hit:
    if against is None:
        return hit
    probability = hit.probability * (1 - against.probability)
    lost = log_odds_of(hit.probability) - log_odds_of(probability)
    return replace(
        hit,
        score=hit.score - lost,
        probability=probability,
        verified=hit.verified and probability >= verified_from,
    )


def _summed(timings: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {stage: round(sum(each[stage] for each in timings), 2) for stage in timings[0]}

"""What ``verified`` and ``probability`` are worth on a benchmark, by part.

Verified hits are proof only as far as they are right; see docs/verification.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from eval.benchmark import (
    ALL_QUERIES,
    BenchmarkSpec,
    RecognitionTruth,
    RetrievalTruth,
    RevisitedTruth,
    parts_of,
)
from eval.metrics import DIFFICULTIES, revisited_split
from eval.predictions import Predictions, plain_ranking
from index.calibrate.fit import reliability
from index.results import Ranking
from index.verification.calibration import DEFAULT_CALIBRATION, Reliability

# Hits per query whose verification is judged: as many as people look at.
FIRST_HITS = 10
_EMPTY = plain_ranking(())


@dataclass(frozen=True)
class Proof:
    """The verified hits among the first ten of each query, and the probabilities of all hits.

    Images that the protocol ignores are no hits, neither right nor wrong.

    Attributes:
        hits, right: verified hits, and those of them that are relevant.
        precision: right / hits; None without hits.
        queries, proven: queries with a relevant image, and those of them with a right verified hit.
        recall: proven / queries; None without queries.
        relevant_hits: relevant images among the first ten.
        hit_recall: right / relevant_hits, the share of them that is verified; None without any.
        unanswerable, refuted: queries without any relevant image, and those of them with a
            verified hit, which is wrong.
        calibration: how well the probabilities hold on hits with evidence; None where there are
            none, or the run has no probabilities.
    """

    hits: int
    right: int
    precision: float | None
    queries: int
    proven: int
    recall: float | None
    relevant_hits: int
    hit_recall: float | None
    unanswerable: int
    refuted: int
    calibration: Reliability | None


_PROOF = TypeAdapter(Proof)


@dataclass(frozen=True, eq=False)
class _Judged:
    """The hits of one query, without ignored ones: (N,) each, best first."""

    is_answerable: bool
    right: NDArray[np.bool_]
    verified: NDArray[np.bool_]
    inliers: NDArray[np.int32]
    probabilities: NDArray[np.floating]


def measure_proof(benchmark: BenchmarkSpec, predictions: Predictions) -> dict[str, Proof]:
    """Part -> what its verified hits are worth; empty for recognition, which ranks no photos, and
    for rankings of which only the order is known."""
    if not any(
        _has_verdicts(r) for by_query in predictions.rankings.values() for r in by_query.values()
    ):
        return {}
    parts: dict[str, list[_Judged]] = {}
    for part, judged in _judge_all(benchmark, predictions):
        parts.setdefault(part, []).append(judged)
    return {part: _measure(queries) for part, queries in parts.items()}


def _has_verdicts(ranking: Ranking) -> bool:
    """Whether it came from the engine, which verifies, and not from a file of plain ids."""
    return bool(ranking.verified.any() or not np.isnan(ranking.probabilities).all())


def proof_as_json(proof: Proof) -> dict[str, Any]:
    """Proof as plain values for JSON."""
    values: dict[str, Any] = _PROOF.dump_python(proof, mode="json")
    return values


def _judge_all(benchmark: BenchmarkSpec, predictions: Predictions) -> Iterator[tuple[str, _Judged]]:
    for query, truth in benchmark.truth.items():
        if isinstance(truth, RecognitionTruth):
            continue
        if isinstance(truth, RetrievalTruth):
            judged = _judge(predictions, ALL_QUERIES, query, truth.relevant, frozenset())
            yield from ((part, judged) for part in parts_of(truth.part))
            continue
        assert isinstance(truth, RevisitedTruth)
        for level in DIFFICULTIES:
            relevant, ignored = revisited_split(truth, level)
            # Where all that it shows is ignored, the protocol leaves a query out.
            if relevant:
                yield level, _judge(predictions, level, query, relevant, ignored)


def _judge(
    predictions: Predictions,
    name: str,
    query: str,
    relevant: frozenset[str],
    ignored: frozenset[str],
) -> _Judged:
    ranking = predictions.rankings.get(name, {}).get(query, _EMPTY)
    counts = np.array([image not in ignored for image in ranking.ids], bool)
    right = np.array([image in relevant for image in ranking.ids], bool)
    columns = right, ranking.verified, ranking.inliers, ranking.probabilities
    return _Judged(bool(relevant), *(column[counts] for column in columns))


def _measure(queries: Sequence[_Judged]) -> Proof:
    verified = [query.verified[:FIRST_HITS] for query in queries]
    proven = [query.right[:FIRST_HITS] & own for query, own in zip(queries, verified, strict=True)]
    answerable = [query.is_answerable for query in queries]
    hits, right = _count(verified), _count(proven)
    relevant_hits = _count([query.right[:FIRST_HITS] for query in queries])
    proven_queries = sum(bool(own.any()) for own in proven)
    refuted = sum(
        bool(own.any()) for own, known in zip(verified, answerable, strict=True) if not known
    )
    return Proof(
        hits=hits,
        right=right,
        precision=_share(right, hits),
        queries=sum(answerable),
        proven=proven_queries,
        recall=_share(proven_queries, sum(answerable)),
        relevant_hits=relevant_hits,
        hit_recall=_share(right, relevant_hits),
        unanswerable=len(queries) - sum(answerable),
        refuted=refuted,
        calibration=_calibration(queries),
    )


def _count(masks: Sequence[NDArray[np.bool_]]) -> int:
    return int(sum(mask.sum() for mask in masks))


def _share(part: int, total: int) -> float | None:
    return part / total if total else None


def _calibration(queries: Sequence[_Judged]) -> Reliability | None:
    stated = np.concatenate([query.probabilities for query in queries])
    inliers = np.concatenate([query.inliers for query in queries])
    right = np.concatenate([query.right for query in queries])
    # Calibrations are fitted from this many inliers on; fewer are no evidence.
    known = (inliers >= DEFAULT_CALIBRATION.min_inliers) & ~np.isnan(stated)
    return reliability(stated[known], right[known]) if known.any() else None

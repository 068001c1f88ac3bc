"""Score predictions against the truth: every metric of a protocol, by part and by query.

The definitions are those of :mod:`eval.metrics`, the intervals those of :mod:`eval.bootstrap`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from eval.benchmark import (
    ALL_QUERIES,
    IGNORED_PART,
    BenchmarkSpec,
    RecognitionTruth,
    RetrievalTruth,
    RevisitedTruth,
    parts_of,
)
from eval.bootstrap import gap_interval, mean_interval
from eval.metrics import (
    DIFFICULTIES,
    average_precision,
    global_average_precision,
    precision_at,
    recall_at,
    recognition_accuracy,
    revisited_query,
)
from eval.predictions import Predictions
from eval.proof import Proof, measure_proof
from index.results import Ranking

Values = dict[str, float]
_KAPPAS = (1, 5, 10)
_NOTHING = np.zeros(0, np.float32)
_EMPTY = Ranking((), _NOTHING, np.zeros(0, np.int32), _NOTHING, np.zeros(0, bool))


@dataclass(frozen=True)
class Scores:
    """All numbers of a run; parts are difficulties, "Public" and "Private", or "all".

    Attributes:
        metrics: part -> metric -> value. A part in which no query counts is left out.
        intervals: part -> metric -> its 95 % interval over queries.
        queries: part -> query id -> metric -> value, of the queries that count.
        proof: part -> what its verified hits are worth; none for recognition, and in runs of
            before 0.2.
    """

    metrics: dict[str, Values]
    intervals: dict[str, dict[str, tuple[float, float]]]
    queries: dict[str, dict[str, Values]]
    proof: dict[str, Proof] = field(default_factory=dict)


def score(benchmark: BenchmarkSpec, predictions: Predictions) -> Scores:
    """Score the predictions for a benchmark.

    Queries without a prediction score 0.

    Raises:
        ValueError: a predicted query is not in the truth.
    """
    by_protocol: dict[str, Callable[[BenchmarkSpec, Predictions], Scores]] = {
        "revisited": _score_revisited,
        "retrieval": _score_retrieval,
        "recognition": _score_recognition,
    }
    scores = by_protocol[benchmark.protocol](benchmark, predictions)
    return replace(scores, proof=measure_proof(benchmark, predictions))


def main_metric(benchmark: BenchmarkSpec) -> str:
    """The metric that orders queries and stands first in tables."""
    if benchmark.protocol == "recognition":
        return "GAP"
    if benchmark.depth is None or benchmark.protocol == "revisited":
        return "mAP"
    return f"mAP@{benchmark.depth}"


def query_metric(benchmark: BenchmarkSpec) -> str:
    """What :func:`main_metric` averages: its value for one query."""
    return "accuracy" if benchmark.protocol == "recognition" else main_metric(benchmark)[1:]


def _mean_name(name: str) -> str:
    """ "AP" -> "mAP", "P@5" -> "mP@5"; "recall@5" and the like stay."""
    return f"m{name}" if name.startswith(("AP", "P@")) else name


def _means(queries: Mapping[str, Mapping[str, Values]]) -> Scores:
    metrics: dict[str, Values] = {}
    intervals: dict[str, dict[str, tuple[float, float]]] = {}
    for part, by_query in queries.items():
        rows = list(by_query.values())
        columns = {name: np.array([row[name] for row in rows]) for name in rows[0]} if rows else {}
        if rows:
            metrics[part] = {_mean_name(name): float(c.mean()) for name, c in columns.items()}
            intervals[part] = {_mean_name(name): mean_interval(c) for name, c in columns.items()}
    scored = {part: {q: dict(v) for q, v in queries[part].items()} for part in metrics}
    return Scores(metrics, intervals, scored)


def _score_revisited(benchmark: BenchmarkSpec, predictions: Predictions) -> Scores:
    queries: dict[str, dict[str, Values]] = {}
    for level in DIFFICULTIES:
        rankings = predictions.rankings.get(level, {})
        _reject_unknown_queries(rankings, benchmark)
        queries[level] = {}
        for query, truth in benchmark.truth.items():
            assert isinstance(truth, RevisitedTruth)
            values = revisited_query(rankings.get(query, _EMPTY).ids, truth, level, _KAPPAS)
            if values is not None:
                queries[level][query] = values
    return _means(queries)


def _score_retrieval(benchmark: BenchmarkSpec, predictions: Predictions) -> Scores:
    rankings = predictions.rankings.get(ALL_QUERIES, {})
    _reject_unknown_queries(rankings, benchmark)
    depth, name = benchmark.depth, query_metric(benchmark)
    precisions = [k for k in benchmark.recalls if depth is None or k <= min(depth, 100)]
    queries: dict[str, dict[str, Values]] = {}
    truths = {q: t for q, t in benchmark.truth.items() if isinstance(t, RetrievalTruth)}
    for query, truth in truths.items():
        if not truth.relevant:
            continue
        ids = rankings.get(query, _EMPTY).ids
        values = {name: average_precision(ids, truth.relevant, depth)}
        values |= {f"recall@{k}": recall_at(ids, truth.relevant, k) for k in benchmark.recalls}
        values |= {f"precision@{k}": precision_at(ids, truth.relevant, k) for k in precisions}
        for part in parts_of(truth.part):
            queries.setdefault(part, {})[query] = values
    scores = _means(queries)
    if any(not truth.relevant and truth.part != IGNORED_PART for truth in truths.values()):
        _add_gap(scores, truths, rankings)
    return scores


def _add_gap(
    scores: Scores, truths: Mapping[str, RetrievalTruth], rankings: Mapping[str, Ranking]
) -> None:
    """Add GAP of the first hits: queries without a match must score low."""
    first_hits = {q: (r.ids[0], float(r.scores[0])) for q, r in rankings.items() if r.ids}
    for part in scores.metrics:
        relevant = {q: t.relevant for q, t in truths.items() if part in parts_of(t.part)}
        hits = {query: hit for query, hit in first_hits.items() if query in relevant}
        scores.metrics[part]["GAP"] = global_average_precision(hits, relevant)
        scores.intervals[part]["GAP"] = gap_interval(hits, relevant)


def _score_recognition(benchmark: BenchmarkSpec, predictions: Predictions) -> Scores:
    _reject_unknown_queries(predictions.labels, benchmark)
    truths = {q: t for q, t in benchmark.truth.items() if isinstance(t, RecognitionTruth)}
    parts = {part for truth in truths.values() for part in parts_of(truth.part)}
    metrics: dict[str, Values] = {}
    intervals: dict[str, dict[str, tuple[float, float]]] = {}
    queries: dict[str, dict[str, Values]] = {}
    for part in sorted(parts):
        labels = {q: t.labels for q, t in truths.items() if part in parts_of(t.part)}
        predicted = {q: pair for q, pair in predictions.labels.items() if q in labels}
        if not any(labels.values()):
            continue
        right = {q: pair is not None and pair[0] in labels[q] for q, pair in predicted.items()}
        queries[part] = {q: {"accuracy": float(right.get(q, False))} for q in labels if labels[q]}
        metrics[part] = {
            "GAP": global_average_precision(predicted, labels),
            "GAP-": global_average_precision(predicted, labels, ignore_without_label=True),
            "accuracy": recognition_accuracy(predicted, labels),
        }
        intervals[part] = {
            "GAP": gap_interval(predicted, labels),
            "GAP-": gap_interval(predicted, labels, ignore_without_label=True),
            "accuracy": mean_interval([row["accuracy"] for row in queries[part].values()]),
        }
    return Scores(metrics, intervals, queries)


def _reject_unknown_queries(queries: Iterable[str], benchmark: BenchmarkSpec) -> None:
    unknown = next((query for query in queries if query not in benchmark.truth), None)
    if unknown is not None:
        raise ValueError(f"the truth does not know query {unknown!r}")

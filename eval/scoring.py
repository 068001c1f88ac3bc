"""Answers and truth in, numbers out: every metric of a protocol, by part and by query.

The definitions are those of :mod:`eval.metrics`, the intervals those of :mod:`eval.bootstrap`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from eval.benchmark import (
    IGNORED_PART,
    WHOLE,
    Question,
    RecognitionTruth,
    RetrievalTruth,
    RevisitedTruth,
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
from index.results import Ranking

Values = dict[str, float]
_KAPPAS = (1, 5, 10)
_NOTHING = Ranking((), np.zeros(0, np.float32), np.zeros(0, np.int32), np.zeros(0, bool))


@dataclass(frozen=True)
class Scores:
    """All numbers of a run; parts are difficulties, "Public" and "Private", or "all".

    Attributes:
        metrics: part -> metric -> value. A part in which no query counts is left out.
        intervals: part -> metric -> its 95 % interval over queries.
        queries: part -> query id -> metric -> value, of the queries that count.
    """

    metrics: dict[str, Values]
    intervals: dict[str, dict[str, tuple[float, float]]]
    queries: dict[str, dict[str, Values]]


def score(question: Question, predictions: Predictions) -> Scores:
    """Score the answers to a benchmark.

    Queries that have no answer score 0.

    Raises:
        ValueError: an answer is to a query that the truth does not know.
    """
    by_protocol: dict[str, Callable[[Question, Predictions], Scores]] = {
        "revisited": _score_revisited,
        "retrieval": _score_retrieval,
        "recognition": _score_recognition,
    }
    return by_protocol[question.protocol](question, predictions)


def main_metric(question: Question) -> str:
    """The metric that orders queries and stands first in tables."""
    if question.protocol == "recognition":
        return "GAP"
    return (
        "mAP"
        if question.depth is None or question.protocol == "revisited"
        else (f"mAP@{question.depth}")
    )


def query_metric(question: Question) -> str:
    """What :func:`main_metric` averages: its value for one query."""
    return "accuracy" if question.protocol == "recognition" else main_metric(question)[1:]


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
    kept = {part: {q: dict(v) for q, v in queries[part].items()} for part in metrics}
    return Scores(metrics, intervals, kept)


def _score_revisited(question: Question, predictions: Predictions) -> Scores:
    queries: dict[str, dict[str, Values]] = {}
    for level in DIFFICULTIES:
        rankings = predictions.rankings.get(level, {})
        _reject_strangers(rankings, question)
        queries[level] = {}
        for query, truth in question.truth.items():
            assert isinstance(truth, RevisitedTruth)
            found = revisited_query(rankings.get(query, _NOTHING).ids, truth, level, _KAPPAS)
            if found is not None:
                queries[level][query] = found
    return _means(queries)


def _score_retrieval(question: Question, predictions: Predictions) -> Scores:
    rankings = predictions.rankings.get(WHOLE, {})
    _reject_strangers(rankings, question)
    depth, name = question.depth, query_metric(question)
    precisions = [k for k in question.recalls if depth is None or k <= min(depth, 100)]
    queries: dict[str, dict[str, Values]] = {}
    truths = {q: t for q, t in question.truth.items() if isinstance(t, RetrievalTruth)}
    for query, truth in truths.items():
        if not truth.relevant:
            continue
        ids = rankings.get(query, _NOTHING).ids
        values = {name: average_precision(ids, truth.relevant, depth)}
        values |= {f"recall@{k}": recall_at(ids, truth.relevant, k) for k in question.recalls}
        values |= {f"precision@{k}": precision_at(ids, truth.relevant, k) for k in precisions}
        for part in _parts(truth.part):
            queries.setdefault(part, {})[query] = values
    scores = _means(queries)
    if any(not truth.relevant and truth.part != IGNORED_PART for truth in truths.values()):
        _add_gap(scores, truths, rankings)
    return scores


def _add_gap(
    scores: Scores, truths: Mapping[str, RetrievalTruth], rankings: Mapping[str, Ranking]
) -> None:
    """GAP of the first hits: where some queries have no match, their hits must score low."""
    answers = {q: (r.ids[0], float(r.scores[0])) for q, r in rankings.items() if r.ids}
    for part in scores.metrics:
        chosen = {q: t.relevant for q, t in truths.items() if part in _parts(t.part)}
        mine = {query: one for query, one in answers.items() if query in chosen}
        scores.metrics[part]["GAP"] = global_average_precision(mine, chosen)
        scores.intervals[part]["GAP"] = gap_interval(mine, chosen)


def _score_recognition(question: Question, predictions: Predictions) -> Scores:
    _reject_strangers(predictions.labels, question)
    truths = {q: t for q, t in question.truth.items() if isinstance(t, RecognitionTruth)}
    parts = {part for truth in truths.values() for part in _parts(truth.part)}
    metrics: dict[str, Values] = {}
    intervals: dict[str, dict[str, tuple[float, float]]] = {}
    queries: dict[str, dict[str, Values]] = {}
    for part in sorted(parts):
        labels = {q: t.labels for q, t in truths.items() if part in _parts(t.part)}
        answers = {q: one for q, one in predictions.labels.items() if q in labels}
        if not any(labels.values()):
            continue
        right = {q: answer is not None and answer[0] in labels[q] for q, answer in answers.items()}
        queries[part] = {q: {"accuracy": float(right.get(q, False))} for q in labels if labels[q]}
        metrics[part] = {
            "GAP": global_average_precision(answers, labels),
            "GAP-": global_average_precision(answers, labels, ignore_without_label=True),
            "accuracy": recognition_accuracy(answers, labels),
        }
        intervals[part] = {
            "GAP": gap_interval(answers, labels),
            "GAP-": gap_interval(answers, labels, ignore_without_label=True),
            "accuracy": mean_interval([one["accuracy"] for one in queries[part].values()]),
        }
    return Scores(metrics, intervals, queries)


def _parts(part: str) -> tuple[str, ...]:
    """The parts that a query counts in: its own and, unless it is ignored, the whole."""
    if part == IGNORED_PART:
        return ()
    return (WHOLE,) if part == WHOLE else (part, WHOLE)


def _reject_strangers(answers: Iterable[str], question: Question) -> None:
    stranger = next((query for query in answers if query not in question.truth), None)
    if stranger is not None:
        raise ValueError(f"an answer is to query {stranger!r}, which the truth does not know")

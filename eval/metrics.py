"""Metrics: functions of rankings, as the papers define them, simple enough to check by hand.

Every value lies between 0 and 1. Ids and labels are strings; several right ones are any collection,
a single one may be a plain string. Retrieval metrics count ranks from 1, best first. A repeated id
counts once, at its first rank; its later ranks are wasted.

The protocols: GLDv2 (arXiv 2004.01804) for mAP@k and GAP; revisited Oxford/Paris (arXiv
1803.11285), whose ranks count from 0; the Met (arXiv 2202.01747) for accuracy; Stanford Online
Products (arXiv 1511.06452) for recall@k.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eval.benchmark import RevisitedTruth

Rankings = Mapping[str, Sequence[str]]
Relevant = Mapping[str, Collection[str]]
Predictions = Mapping[str, tuple[str, float] | None]
Labels = Mapping[str, str | Collection[str] | None]

# Difficulty -> which lists are right, which are ignored.
_REVISITED = {
    "easy": (("easy",), ("hard", "junk")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("easy", "junk")),
}
DIFFICULTIES = tuple(_REVISITED)
# Recall levels of a mean precision-recall curve: 0, 0.01 … 1.
_RECALL_STEPS = 100


def _as_set(ids: str | Collection[str] | None) -> frozenset[str]:
    if not ids:
        return frozenset()
    return frozenset((ids,)) if isinstance(ids, str) else frozenset(ids)


def _reject_unknown(queries: Collection[str], truth: Collection[str]) -> None:
    unknown = next((query for query in queries if query not in truth), None)
    if unknown is not None:
        raise ValueError(f"The truth does not know query {unknown!r}.")


def _reject_depth(k: int | None) -> None:
    if k is not None and k < 1:
        raise ValueError(f"k is {k}; it must be at least 1.")


def _hit_ranks(ranking: Sequence[str], relevant: Collection[str], k: int | None) -> list[int]:
    """Ranks, from 1, among the first ``k`` of relevant ids that did not come earlier."""
    _reject_depth(k)
    missing = set(_as_set(relevant))
    if not missing:
        raise ValueError("Nothing is relevant, so the metric is undefined.")
    ranks = []
    for rank, image in enumerate(ranking[:k], start=1):
        if image in missing:
            missing.remove(image)
            ranks.append(rank)
    return ranks


def _scored(
    rankings: Rankings, relevant: Relevant
) -> Iterator[tuple[Sequence[str], frozenset[str]]]:
    """Ranking, perhaps empty, and relevant ids of every query that has any."""
    _reject_unknown(rankings, relevant)
    truth = {query: _as_set(ids) for query, ids in relevant.items()}
    if not any(truth.values()):
        raise ValueError("No query has anything relevant, so the metric is undefined.")
    return ((rankings.get(query, ()), ids) for query, ids in truth.items() if ids)


def average_precision(
    ranking: Sequence[str], relevant: Collection[str], k: int | None = 100
) -> float:
    """AP@k of GLDv2's retrieval track: Σ precision@i · rel_i / min(#relevant, k), i = 1 … k.

    Args:
        ranking: ids, best first; only the first ``k`` count.
        relevant: the relevant ids, at least one.
        k: None for the whole ranking.

    Raises:
        ValueError: nothing is relevant, or k < 1.
    """
    ranks = _hit_ranks(ranking, relevant, k)
    total = sum(hits / rank for hits, rank in enumerate(ranks, start=1))
    count = len(_as_set(relevant))
    return total / (count if k is None else min(count, k))


def mean_average_precision(rankings: Rankings, relevant: Relevant, k: int | None = 100) -> float:
    """mAP@k: the mean of :func:`average_precision` over the queries of the truth.

    A query without a ranking scores 0; one with nothing relevant is dropped.

    Raises:
        ValueError: a ranking's query is not in the truth, or no query has anything relevant.
    """
    values = [average_precision(ranking, ids, k) for ranking, ids in _scored(rankings, relevant)]
    return math.fsum(values) / len(values)


def recall_at(ranking: Sequence[str], relevant: Collection[str], k: int) -> float:
    """Recall@k as image retrieval defines it: 1 if the first ``k`` hold any relevant id, else 0.

    Raises:
        ValueError: nothing is relevant, or k < 1.
    """
    return float(bool(_hit_ranks(ranking, relevant, k)))


def precision_at(ranking: Sequence[str], relevant: Collection[str], k: int) -> float:
    """Precision@k: relevant ids among the first ``k``, divided by k.

    Shorter rankings and queries with fewer relevant ids therefore cannot reach 1.

    Raises:
        ValueError: nothing is relevant, or k < 1.
    """
    return len(_hit_ranks(ranking, relevant, k)) / k


def precision_recall_curve(
    rankings: Rankings, relevant: Relevant
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Recall levels 0, 0.01 … 1 and the mean over queries of the interpolated precision at each.

    Interpolated precision at recall r is the best precision at any recall ≥ r, 0 where the ranking
    never gets there (Manning et al., Introduction to Information Retrieval, 8.4). Queries are
    treated as in :func:`mean_average_precision`, and so are errors.

    Returns:
        Two float64 (101,).
    """
    levels = np.arange(_RECALL_STEPS + 1)
    curves = []
    for ranking, ids in _scored(rankings, relevant):
        ranks = np.array(_hit_ranks(ranking, ids, None), np.float64)
        precisions = np.arange(1, len(ranks) + 1) / ranks
        best = np.maximum.accumulate(precisions[::-1])[::-1]
        # Hits needed to reach each level, in whole numbers: no rounding.
        needed = np.maximum(-(-levels * len(ids) // _RECALL_STEPS), 1)
        padded = np.append(best, np.zeros(len(ids) - len(ranks)))
        curves.append(padded[needed - 1])
    return levels / _RECALL_STEPS, np.mean(curves, axis=0)


def recall_curve(rankings: Rankings, relevant: Relevant, ks: Sequence[int]) -> NDArray[np.float64]:
    """Mean :func:`recall_at` over queries at each of ``ks``, float64 (len(ks),).

    Queries are treated as in :func:`mean_average_precision`, and so are errors.
    """
    for k in ks:
        _reject_depth(k)
    # The rank of the first relevant id decides for every k.
    hits = [_hit_ranks(ranking, ids, None)[:1] for ranking, ids in _scored(rankings, relevant)]
    first = np.array([ranks[0] if ranks else np.inf for ranks in hits])
    return np.array([(first <= k).mean() for k in ks], np.float64)


def rank_predictions(
    predictions: Predictions, truth: Labels, ignore_without_label: bool = False
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Sort the predictions of all queries by score descending, ties by query id ascending.

    (A query has one prediction, so a further tie by class cannot happen.) For the arguments and
    errors see :func:`global_average_precision`.

    Returns:
        Whether each prediction is right, (P,), best first; whether each query has a label, (Q,),
        those with a prediction in its order, then the others.
    """
    _reject_unknown(predictions, truth)
    given = {query: pair for query, pair in predictions.items() if pair is not None}
    for query, (_, score) in given.items():
        if not math.isfinite(score):
            raise ValueError(f"The score of query {query!r} is {score}; it must be finite.")
    labels = {query: _as_set(names) for query, names in truth.items()}
    if ignore_without_label:
        labels = {query: names for query, names in labels.items() if names}
    ranked = sorted((query for query in given if query in labels), key=lambda q: (-given[q][1], q))
    correct = [given[query][0] in labels[query] for query in ranked]
    labelled = [bool(labels[query]) for query in ranked]
    labelled += [bool(names) for query, names in labels.items() if query not in given]
    return np.array(correct, bool), np.array(labelled, bool)


def gap_of_ranked(correct: NDArray[np.bool_], positives: int) -> float:
    """GAP of predictions (P,), best first, where ``positives`` queries have a label."""
    ranks = np.flatnonzero(correct) + 1
    return float((np.arange(1, len(ranks) + 1) / ranks).sum() / positives)


def global_average_precision(
    predictions: Predictions, truth: Labels, ignore_without_label: bool = False
) -> float:
    """GAP, or µAP: all queries' predictions in one ranking, Σ precision@i · correct_i / M.

    M counts the queries that have a label. As in GLDv2's recognition track (arXiv 2004.01804) and
    Perronnin et al., "A family of contextual measures of similarity between distributions with
    application to image retrieval", CVPR 2009.

    Args:
        predictions: query id -> (label, score), or None; queries may be missing.
        truth: query id -> its label, or several of which any counts; None or empty where the query
            shows no known instance.
        ignore_without_label: leave out queries without a label; otherwise a prediction for one
            is wrong (the Met's GAP− and GAP).

    Raises:
        ValueError: a prediction's query is not in the truth, a score is not finite, or no query has
            a label.
    """
    correct, labelled = rank_predictions(predictions, truth, ignore_without_label)
    if not labelled.any():
        raise ValueError("No query has a label, so GAP is undefined.")
    return gap_of_ranked(correct, int(labelled.sum()))


def recognition_accuracy(predictions: Predictions, truth: Labels) -> float:
    """The share of the queries with a label whose predicted label is right, whatever the score.

    The arguments and errors are those of :func:`global_average_precision`.
    """
    correct, labelled = rank_predictions(predictions, truth, ignore_without_label=True)
    if not labelled.any():
        raise ValueError("No query has a label, so accuracy is undefined.")
    return float(correct.sum() / labelled.sum())


def revisited_average_precision(positive_ranks: ArrayLike, count: int) -> float:
    """Area under the precision-recall curve by trapezoids, as revisited Oxford/Paris measures it.

    The j-th positive, at rank r (both from 0), adds (precision before it + precision with
    it) / 2 / count: before it is j / r, or 1 at the top; with it (j + 1) / (r + 1).

    Args:
        positive_ranks: from 0, of the retrieved positives, each once, after ignored images were
            removed.
        count: number of positives, retrieved or not.

    Raises:
        ValueError: count < 1, more ranks than count, a negative or a repeated rank.
    """
    ranks = np.unique(np.asarray(positive_ranks, np.int64))
    if len(ranks) != np.size(positive_ranks) or (ranks < 0).any():
        raise ValueError("Ranks of positives count from 0 and differ from each other.")
    if not max(len(ranks), 1) <= count:
        raise ValueError(f"{len(ranks)} of {count} positives have a rank.")
    hits = np.arange(len(ranks))
    before = np.where(ranks == 0, 1.0, hits / np.maximum(ranks, 1))
    return float((before + (hits + 1) / (ranks + 1)).sum() / (2 * count))


def _revisited_scores(
    ranks: NDArray[np.int64], count: int, kappas: Sequence[int]
) -> dict[str, float]:
    """AP and P@k from the ranks (from 0, ascending) of retrieved positives, out of ``count``."""
    scores = {"AP": revisited_average_precision(ranks, count)}
    for k in kappas:
        _reject_depth(k)
        # Nothing follows the last positive, unless one is missing: that would come later still.
        depth = min(int(ranks[-1]) + 1, k) if len(ranks) == count else k
        scores[f"P@{k}"] = int((ranks < depth).sum()) / depth
    return scores


def _reject_overlap(*lists: Collection[Any]) -> None:
    if len(set().union(*lists)) < sum(map(len, lists)):
        raise ValueError("An image stands in two of a query's lists (easy, hard, junk).")


def revisited_split(
    truth: RevisitedTruth, difficulty: str
) -> tuple[frozenset[str], frozenset[str]]:
    """The right and the ignored ids of a query at a difficulty: "easy", "medium" or "hard".

    Raises:
        ValueError: no such difficulty, or an image stands in two lists.
    """
    if difficulty not in _REVISITED:
        raise ValueError(f"No difficulty {difficulty!r}; there are {', '.join(_REVISITED)}.")
    _reject_overlap(truth.easy, truth.hard, truth.junk)
    lists = {"easy": truth.easy, "hard": truth.hard, "junk": truth.junk}
    right, ignored = _REVISITED[difficulty]
    return (
        frozenset().union(*(lists[name] for name in right)),
        frozenset().union(*(lists[name] for name in ignored)),
    )


def revisited_query(
    ranking: Sequence[str],
    truth: RevisitedTruth,
    difficulty: str,
    kappas: Sequence[int] = (1, 5, 10),
) -> dict[str, float] | None:
    """Score one ranking of ids, with or without the ignored images, at one difficulty.

    Returns:
        "AP" and "P@k" for each k; see :func:`revisited_metrics`. None for a query without
        positives, which the means leave out.

    Raises:
        ValueError: no such difficulty, an image stands in two lists, or k < 1.
    """
    right, ignored = revisited_split(truth, difficulty)
    if not right:
        return None
    kept = [image for image in ranking if image not in ignored]
    ranks = np.array(_hit_ranks(kept, right, None), np.int64) - 1
    return _revisited_scores(ranks, len(right), kappas)


def revisited_metrics(
    ranks: NDArray[np.integer],
    gnd: Sequence[Mapping[str, Any]],
    kappas: Sequence[int] = (1, 5, 10),
) -> dict[str, dict[str, Any]]:
    """Revisited Oxford/Paris: mAP and mP@k at each difficulty (arXiv 1803.11285).

    Easy: easy images are right, hard and junk ignored; medium: easy and hard right, junk ignored;
    hard: hard right, easy and junk ignored. Ignored images leave the ranking before ranks are
    counted. AP is :func:`revisited_average_precision`; P@k divides by k, or by the rank of the last
    positive if that comes earlier. Queries without positives are left out of the means.

    Args:
        ranks: integers (images, queries); a column ranks a query's database indices, best first. It
            may be shorter than the database: positives that it lacks are missed, and P@k then
            divides by k.
        gnd: for each query "easy", "hard" and "junk", its database indices.
        kappas: each k of P@k.

    Returns:
        For "easy", "medium" and "hard": "mAP" and each "mP@k" (NaN where no query has positives);
        "AP" and each "P@k" by query, float64 (queries,), NaN where it has no positives.

    Raises:
        ValueError: the shapes disagree, an image stands in two lists of a query, or k < 1.
    """
    ranks = np.asarray(ranks)
    if ranks.ndim != 2 or ranks.shape[1] != len(gnd):
        raise ValueError(f"ranks {ranks.shape} must be (images, queries), with {len(gnd)} queries.")
    names = ["AP", *(f"P@{k}" for k in kappas)]
    values = {level: {name: np.full(len(gnd), np.nan) for name in names} for level in _REVISITED}
    for query, (column, truth) in enumerate(zip(ranks.T, gnd, strict=True)):
        lists = {name: np.unique(truth[name]).astype(np.int64) for name in ("easy", "hard", "junk")}
        _reject_overlap(*(listed.tolist() for listed in lists.values()))
        # The many images in no list only take up ranks: only the positions of the others matter.
        positions = np.flatnonzero(np.isin(column, np.concatenate(list(lists.values()))))
        images = column[positions]
        for level, (right, ignored) in _REVISITED.items():
            positives = np.concatenate([lists[name] for name in right])
            if not len(positives):
                continue
            is_ignored = np.isin(images, np.concatenate([lists[name] for name in ignored]))
            kept = images[~is_ignored]
            first = np.sort(np.unique(kept, return_index=True)[1])
            positive_ranks = (positions - np.cumsum(is_ignored))[~is_ignored][first]
            for name, value in _revisited_scores(positive_ranks, len(positives), kappas).items():
                values[level][name][query] = value
    return {
        level: {**{f"m{name}": _mean(scores[name]) for name in names}, **scores}
        for level, scores in values.items()
    }


def _mean(values: NDArray[np.float64]) -> float:
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if len(kept) else math.nan

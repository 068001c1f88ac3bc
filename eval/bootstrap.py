"""How sure a mean is, and whether two runs differ: resampling of queries.

Intervals are percentile bootstraps (Efron & Tibshirani, An Introduction to the Bootstrap, 1993,
chapter 13): draw as many queries with replacement, compute the metric, repeat, take quantiles. They
say how the number would vary with other queries of the same kind, and nothing of another gallery.
Two runs are compared on their common queries by a randomisation test (Smucker, Allan & Carterette,
"A Comparison of Statistical Significance Tests for Information Retrieval Evaluation", CIKM 2007).

All randomness comes from ``seed``: the same values give the same answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eval.metrics import Labels, Predictions, gap_of_ranked, rank_predictions

# Random numbers held at once: 32 MB.
_CHUNK = 4_000_000
# With more queries GAP is drawn less often: its interval is narrow then, and each draw slow.
_MANY_QUERIES = 20_000
_DRAWS_FOR_MANY = 500
# Up to so many queries that differ, every assignment of signs is tried: 2 ** 12.
_EXACT = 12
# Differences below this are rounding.
_EQUAL = 1e-12


def _reject_settings(level: float, draws: int) -> None:
    if not 0 < level < 1:
        raise ValueError(f"The level is {level}; it must lie between 0 and 1.")
    if draws < 1:
        raise ValueError(f"{draws} draws; at least 1 is needed.")


def _chunks(draws: int, count: int) -> Iterator[int]:
    """Numbers of draws that add up to ``draws``, of ``count`` random numbers each."""
    size = max(1, _CHUNK // count)
    for start in range(0, draws, size):
        yield min(size, draws - start)


def _between(statistics: NDArray[np.float64], level: float) -> tuple[float, float]:
    low, high = np.quantile(statistics, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mean_interval(
    values: ArrayLike, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean over queries.

    Args:
        values: one a query; NaN (a query that does not count) is dropped.
        level: the part of the draws that the interval holds.

    Returns:
        Low and high; both NaN without values.

    Raises:
        ValueError: level is not within (0, 1), or draws < 1.
    """
    _reject_settings(level, draws)
    numbers = np.asarray(values, np.float64).ravel()
    numbers = numbers[~np.isnan(numbers)]
    if not len(numbers):
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    means = [
        numbers[rng.integers(len(numbers), size=(rows, len(numbers)))].mean(axis=1)
        for rows in _chunks(draws, len(numbers))
    ]
    return _between(np.concatenate(means), level)


def gap_interval(
    predictions: Predictions,
    truth: Labels,
    ignore_without_label: bool = False,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of :func:`eval.metrics.global_average_precision`.

    The queries of the truth are drawn, with or without a prediction, and GAP is computed anew; a
    query drawn twice stands in the ranking twice. Above 20,000 queries there are at most 500 draws.

    Returns:
        Low and high; both NaN if no draw holds a query with a label.

    Raises:
        ValueError: as global_average_precision and :func:`mean_interval`, except for queries
            without labels.
    """
    _reject_settings(level, draws)
    correct, labelled = rank_predictions(predictions, truth, ignore_without_label)
    count = len(labelled)
    if not labelled.any():
        return math.nan, math.nan
    if count > _MANY_QUERIES:
        draws = min(draws, _DRAWS_FOR_MANY)
    rng = np.random.default_rng(seed)
    gaps = []
    for _ in range(draws):
        times = np.bincount(rng.integers(count, size=count), minlength=count)
        positives = int(times[labelled].sum())
        if positives:  # GAP is undefined for a draw without.
            gaps.append(gap_of_ranked(np.repeat(correct, times[: len(correct)]), positives))
    return _between(np.array(gaps), level) if gaps else (math.nan, math.nan)


@dataclass(frozen=True)
class PairedDifference:
    """What changed from run a to run b, over the queries that both scored.

    Attributes:
        mean: of b − a.
        low, high: its bootstrap interval.
        p_value: how often a mean difference as large, either way, would come of chance if the runs
            were equally good.
        better, worse, equal: queries whose value rose, fell, stayed.
    """

    mean: float
    low: float
    high: float
    p_value: float
    better: int
    worse: int
    equal: int


def _sign_flip(differences: NDArray[np.float64], draws: int, seed: int) -> float:
    """Two-sided p of a mean of 0, by giving every difference a sign by chance.

    Exact for up to 12 differences; else by draws, counting the observed signs as one more (Phipson
    & Smyth, "Permutation P-values Should Never Be Zero", arXiv 1603.05766).
    """
    count = len(differences)
    observed = abs(differences.sum()) - _EQUAL * max(count, 1)
    if count <= _EXACT:
        bits = np.arange(2**count)[:, None] >> np.arange(count) & 1
        return float((abs((1 - 2 * bits) @ differences) >= observed).mean())
    rng = np.random.default_rng(seed)
    as_large = 0
    for rows in _chunks(draws, count):
        signs = 1 - 2 * rng.integers(2, size=(rows, count), dtype=np.int8)
        as_large += int((abs(signs @ differences) >= observed).sum())
    return (as_large + 1) / (draws + 1)


def paired_difference(
    a: Mapping[str, float],
    b: Mapping[str, float],
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> PairedDifference:
    """Compare run b with run a, query by query: percentile bootstrap and sign-flip test.

    Args:
        a, b: query id -> value. Queries that only one has, or where either is NaN, are left out.

    Raises:
        ValueError: no query has a value in both; level is not within (0, 1), or draws < 1.
    """
    _reject_settings(level, draws)
    common = sorted(a.keys() & b.keys())
    differences = np.array([b[query] - a[query] for query in common], np.float64)
    differences = differences[~np.isnan(differences)]
    if not len(differences):
        raise ValueError("The two runs have no scored query in common.")
    changed = differences[abs(differences) > _EQUAL]
    low, high = mean_interval(differences, level, draws, seed)
    return PairedDifference(
        mean=float(differences.mean()),
        low=low,
        high=high,
        p_value=_sign_flip(changed, draws, seed),
        better=int((changed > 0).sum()),
        worse=int((changed < 0).sum()),
        equal=len(differences) - len(changed),
    )

"""How sure a mean is, and whether two runs differ: resampling of queries, by SciPy.

Intervals are percentile bootstraps (Efron & Tibshirani, An Introduction to the Bootstrap, 1993,
chapter 13). They say how the number would vary with other queries of the same kind, and nothing of
another gallery. Two runs are compared on their common queries by a randomisation test (Smucker,
Allan & Carterette, "A Comparison of Statistical Significance Tests for Information Retrieval
Evaluation", CIKM 2007).

All randomness comes from ``seed``: the same values give the same answer.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eval.metrics import Labels, Predictions, gap_of_ranked, rank_predictions

# Random numbers in memory at once: 32 MB.
_CHUNK = 4_000_000
# With more queries GAP is drawn less often: its interval is narrow then, and each draw slow.
_MANY_QUERIES = 20_000
_DRAWS_FOR_MANY = 500
# Differences below this are rounding.
_EQUAL = 1e-12


def _reject_settings(level: float, draws: int) -> None:
    if not 0 < level < 1:
        raise ValueError(f"The level is {level}; it must lie between 0 and 1.")
    if draws < 1:
        raise ValueError(f"{draws} draws; at least 1 is needed.")


def _resample(
    values: NDArray[Any], statistic: Callable[..., Any], draws: int, seed: int, vectorized: bool
) -> NDArray[np.float64]:
    """The statistic of ``draws`` samples of the values, as many with replacement, (draws,)."""
    from scipy.stats import bootstrap

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It warns where a sample's statistic is NaN.
        drawn = bootstrap(
            (values,),
            statistic,
            n_resamples=draws,
            batch=max(1, _CHUNK // len(values)),
            vectorized=vectorized,
            method="percentile",
            rng=np.random.default_rng(seed),
        )
    return np.asarray(drawn.bootstrap_distribution, np.float64)


def _interval(statistics: NDArray[np.float64], level: float) -> tuple[float, float]:
    low, high = np.nanquantile(statistics, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mean_interval(
    values: ArrayLike, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean over queries.

    Args:
        values: one per query; NaN (a query that does not count) is dropped.
        level: the share of the draws that the interval covers.
        draws: samples to draw.

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
    if len(numbers) == 1:  # SciPy wants two.
        return float(numbers[0]), float(numbers[0])
    return _interval(_resample(numbers, np.mean, draws, seed, vectorized=True), level)


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
    places = np.arange(count)

    def gap(sample: NDArray[np.int64]) -> float:
        times = np.bincount(sample, minlength=count)
        positives = int(times[labelled].sum())
        if not positives:
            return math.nan  # GAP is undefined without.
        return gap_of_ranked(np.repeat(correct, times[: len(correct)]), positives)

    if count == 1:
        return gap(places), gap(places)
    return _interval(_resample(places, gap, draws, seed, vectorized=False), level)


@dataclass(frozen=True)
class PairedDifference:
    """What changed from run a to run b, over the queries that both scored.

    Attributes:
        mean: of b − a.
        low, high: its bootstrap interval.
        p_value: how often chance alone would give a mean difference as large, either way, if the
            runs were equally good.
        better, worse, equal: queries whose value rose, fell, stayed.
    """

    mean: float
    low: float
    high: float
    p_value: float
    better: int
    worse: int
    equal: int


def _sign_flip_p(differences: NDArray[np.float64], draws: int, seed: int) -> float:
    """Two-sided p of a mean of 0, by giving the differences random signs.

    Exact where there are no more assignments of signs than draws; otherwise the observed one counts
    as one more draw (Phipson & Smyth, "Permutation P-values Should Never Be Zero", arXiv
    1603.05766).
    """
    from scipy.stats import monte_carlo_test, permutation_test

    def size_of_sum(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        return np.asarray(abs(values.sum(axis=axis)))

    if len(differences) < 2:  # SciPy wants two; of one, both signs are as large.
        return 1.0
    if 2 ** len(differences) <= draws:
        test = permutation_test(
            (differences,), size_of_sum, permutation_type="samples", n_resamples=draws,
            vectorized=True, alternative="greater",
        )  # fmt: skip
        return float(test.pvalue)
    rng = np.random.default_rng(seed)
    test = monte_carlo_test(
        differences,
        lambda size: differences * (1 - 2 * rng.integers(2, size=size, dtype=np.int8)),
        size_of_sum,
        n_resamples=draws,
        batch=max(1, _CHUNK // len(differences)),
        vectorized=True,
        alternative="greater",
    )
    return float(test.pvalue)


def paired_difference(
    a: Mapping[str, float],
    b: Mapping[str, float],
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> PairedDifference:
    """Compare run b with run a, query by query: percentile bootstrap and sign-flip test.

    Args:
        a, b: query id -> value. Queries that only one run has, or where either is NaN, are
            left out.

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
        p_value=_sign_flip_p(changed, draws, seed),
        better=int((changed > 0).sum()),
        worse=int((changed < 0).sum()),
        equal=len(differences) - len(changed),
    )

"""Matching: which local descriptors of two photos are nearest to each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from delg.compiled import compiled
from index.settings import MatchingSettings
from index.verification.int8_matmul import DescriptorProducts, Descriptors

# Products computed at a time; that many fit into the cache.
_BLOCK = 1 << 20
# Below any product.
_LOWEST = np.iinfo(np.int32).min


class DescriptorMatches(NamedTuple):
    """Which descriptors of two photos match.

    Attributes:
        pairs: int32 (K, 2), indices into the query's and the other photo's, in the query's order.
        nearest: int32 (N,), the other photo's descriptor that is nearest to each of the query's,
            whether the two match or not; of equally near ones the first.
    """

    pairs: NDArray[np.int32]
    nearest: NDArray[np.int32]


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Limit BLAS to one thread per product, where photos are already worked on in parallel."""
    with _blas().limit(limits=1, user_api="blas"):
        yield


def match_descriptors(
    query: Descriptors, other: Descriptors, settings: MatchingSettings
) -> DescriptorMatches:
    """Match each of the query's descriptors to its nearest neighbour in another photo.

    Distances come from inner products: |a − b|² = 2 − 2 a·b for unit vectors.

    Args:
        query, other: (N, d) and (M, d), unit vectors as float32, or quantised to int8 (see
            :func:`index.verification.int8_matmul.quantize`).
        settings: the filters: mutual neighbours only, the ratio of the distances to the nearest
            and second nearest neighbour, and the largest distance.

    Returns:
        The matches that pass the filters, and all nearest neighbours; if one of the photos has no
        descriptors, neither.
    """
    if not len(query) or not len(other):
        return DescriptorMatches(np.zeros((0, 2), np.int32), np.zeros(0, np.int32))
    products = DescriptorProducts(query, other)
    nearest = np.zeros(len(query), np.int32)
    best: np.ndarray = np.full(len(query), _LOWEST, products.dtype)
    second = best.copy()
    best_of_other: np.ndarray = np.empty(len(other), products.dtype)
    block = max(2, _BLOCK // len(query))
    for start in range(0, len(other), block):
        rows = products.rows(slice(start, start + block))
        _update_neighbours(rows, start, nearest, best, second, best_of_other)
    pairs = _filter_matches(
        nearest,
        best,
        second,
        best_of_other,
        products.unit_product,
        settings.max_distance,
        settings.ratio,
        settings.mutual,
    )
    return DescriptorMatches(pairs, nearest)


@compiled
def _update_neighbours(
    products: np.ndarray,
    start: int,
    nearest: NDArray[np.int32],
    best: np.ndarray,
    second: np.ndarray,
    best_of_other: np.ndarray,
) -> None:
    """Update the nearest neighbours, in place, with a block of the other photo's descriptors.

    Args:
        products: (m, N), of the other's descriptors from ``start`` on with all of the query's.
        nearest: (N,), index of each query descriptor's nearest neighbour so far.
        best, second: (N,), its product and the second highest product.
        best_of_other: (M,), the highest product of each of the other's descriptors.
    """
    rows, columns = products.shape
    padding = np.full(columns, _LOWEST, products.dtype)
    # Two rows at a time halve the reads and writes of what is known of the query's descriptors.
    for row in range(0, rows, 2):
        upper = products[row]
        lower = products[row + 1] if row + 1 < rows else padding
        number = np.int32(start + row)
        upper_best, lower_best = upper[0], lower[0]
        for column in range(columns):
            a, b, known = upper[column], lower[column], best[column]
            upper_best = a if a > upper_best else upper_best
            lower_best = b if b > lower_best else lower_best
            upper_wins = a >= b
            high, low = (a, b) if upper_wins else (b, a)
            closer = high > known
            # The highest of those that are not the best.
            runner_up = known if closer else high
            runner_up = runner_up if runner_up > low else low
            second[column] = runner_up if runner_up > second[column] else second[column]
            winner = number if upper_wins else np.int32(number + 1)
            nearest[column] = winner if closer else nearest[column]
            best[column] = high if closer else known
        best_of_other[start + row] = upper_best
        if row + 1 < rows:
            best_of_other[start + row + 1] = lower_best


@compiled
def _filter_matches(
    nearest: NDArray[np.int32],
    best: np.ndarray,
    second: np.ndarray,
    best_of_other: np.ndarray,
    unit_product: float,
    max_distance: float,
    ratio: float,
    mutual: bool,
) -> NDArray[np.int32]:
    """The matches (K, 2) that pass the filters."""
    matches = np.empty((len(nearest), 2), np.int32)
    count, lowest = 0, unit_product * (1 - max_distance**2 / 2)
    matched = np.zeros(len(best_of_other), np.bool_)
    for feature in range(len(nearest)):
        neighbour = nearest[feature]
        if best[feature] < lowest:
            continue
        if mutual and (best[feature] != best_of_other[neighbour] or matched[neighbour]):
            continue
        near = max(unit_product - np.float64(best[feature]), 0.0)
        far = max(unit_product - np.float64(second[feature]), 0.0)
        if ratio < 1 and near >= ratio**2 * far:
            continue
        matched[neighbour] = True
        matches[count, 0], matches[count, 1] = feature, neighbour
        count += 1
    selected: NDArray[np.int32] = matches[:count].copy()
    return selected

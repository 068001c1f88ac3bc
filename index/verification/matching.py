"""Matching: which local descriptors of two photos are nearest to each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from delg.compiled import compiled
from index.settings import MatchingSettings
from index.verification.int8_matmul import Descriptors, Products

# So many products at a time, which the cache holds.
_CELLS = 1 << 20
# Less than any product.
_LEAST = np.iinfo(np.int32).min


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Products made inside take one thread.

    Candidates already run side by side; more threads inside each product only contend.
    """
    with _blas().limit(limits=1, user_api="blas"):
        yield


def match_descriptors(
    query: Descriptors, other: Descriptors, settings: MatchingSettings
) -> NDArray[np.int32]:
    """Nearest neighbours from the query to another photo that pass the filters.

    All distances come from matrix products, as |a − b|² = 2 − 2 a·b for unit vectors.

    Args:
        query, other: (N, d) and (M, d), unit vectors as float32, or as int8 in whole steps (see
            :mod:`index.verification.int8_matmul`).
        settings: mutual nearest neighbours only, the ratio to the second neighbour, and the
            largest distance.

    Returns:
        int32 (K, 2), indices into ``query`` and ``other``, in the query's order.
    """
    if not len(query) or not len(other):
        return np.zeros((0, 2), np.int32)
    products = Products(query, other)
    nearest = np.zeros(len(query), np.int32)
    best: np.ndarray = np.full(len(query), _LEAST, products.kind)
    second = best.copy()
    theirs: np.ndarray = np.empty(len(other), products.kind)
    rows = max(2, _CELLS // len(query))
    for start in range(0, len(other), rows):
        _look_through(
            products.rows(slice(start, start + rows)), start, nearest, best, second, theirs
        )
    return _kept(
        nearest,
        best,
        second,
        theirs,
        products.one,
        settings.max_distance,
        settings.ratio,
        settings.mutual,
    )


@compiled
def _look_through(
    products: np.ndarray,
    start: int,
    nearest: NDArray[np.int32],
    best: np.ndarray,
    second: np.ndarray,
    theirs: np.ndarray,
) -> None:
    """Look through products (m, N) of the query's with the other's features from ``start`` on.

    Args:
        nearest: of each of the query's features the nearest so far, (N,); ``best``, ``second``: its
            product and the second best.
        theirs: (M,), of each of the other's features the best product.
    """
    rows, columns = products.shape
    nothing = np.full(columns, _LEAST, products.dtype)
    # Two at a time: what the query's features have so far is read and written half as often.
    for row in range(0, rows, 2):
        one = products[row]
        two = products[row + 1] if row + 1 < rows else nothing
        number = np.int32(start + row)
        top, other_top = one[0], two[0]
        for column in range(columns):
            a, b, known = one[column], two[column], best[column]
            top = a if a > top else top
            other_top = b if b > other_top else other_top
            ahead = a >= b
            high, low = (a, b) if ahead else (b, a)
            closer = high > known
            # The best of those that are not the very best.
            behind = known if closer else high
            behind = behind if behind > low else low
            second[column] = behind if behind > second[column] else second[column]
            place = number if ahead else np.int32(number + 1)
            nearest[column] = place if closer else nearest[column]
            best[column] = high if closer else known
        theirs[start + row] = top
        if row + 1 < rows:
            theirs[start + row + 1] = other_top


@compiled
def _kept(
    nearest: NDArray[np.int32],
    best: np.ndarray,
    second: np.ndarray,
    theirs: np.ndarray,
    one: float,
    max_distance: float,
    ratio: float,
    mutual: bool,
) -> NDArray[np.int32]:
    """The pairs (K, 2) that pass the filters."""
    pairs = np.empty((len(nearest), 2), np.int32)
    count, least = 0, one * (1 - max_distance**2 / 2)
    taken = np.zeros(len(theirs), np.bool_)
    for number in range(len(nearest)):
        place = nearest[number]
        if best[number] < least or (mutual and (best[number] != theirs[place] or taken[place])):
            continue
        near = max(one - np.float64(best[number]), 0.0)
        far = max(one - np.float64(second[number]), 0.0)
        if ratio < 1 and near >= ratio**2 * far:
            continue
        # Of the query's features that are as near, the first.
        taken[place] = True
        pairs[count, 0], pairs[count, 1] = number, place
        count += 1
    return pairs[:count].copy()

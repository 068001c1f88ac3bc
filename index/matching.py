"""Matching: which local descriptors of two photos are nearest to each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from index.products import Descriptors, Products
from index.settings import MatchingSettings

# Rows of a product that stay in a core's cache.
_ROWS = 500


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


@contextmanager
def one_thread() -> Iterator[None]:
    """FAISS's threads and BLAS's too keep to one, in whatever this thread does."""
    with _blas().limit(limits=1):
        yield


def match_descriptors(
    query: Descriptors,
    other: Descriptors,
    settings: MatchingSettings,
) -> NDArray[np.int32]:
    """Nearest neighbours from the query to the other photo that pass the filters.

    All distances come from matrix products, as |a − b|² = 2 − 2 a·b for unit vectors.

    Args:
        query, other: (N, d) and (M, d), unit vectors as float32, or as int8 in whole steps (see
            :mod:`index.products`).
        settings: mutual nearest neighbours only, the ratio to the second neighbour, and the
            largest distance.

    Returns:
        int32 (K, 2), indices into ``query`` and ``other``, in the query's order.
    """
    if len(query) == 0 or len(other) == 0:
        return np.zeros((0, 2), np.int32)
    products = Products(query, other)
    parts = [slice(start, start + _ROWS) for start in range(0, len(query), _ROWS)]
    found = [_neighbours(products, part) for part in parts]
    nearest, best, second = (np.concatenate([one[part] for one in found]) for part in range(3))
    keep = best >= products.one * (1 - settings.max_distance**2 / 2)
    if settings.mutual:
        # The maximum along columns is read row by row, ten times faster than their argmax.
        keep &= best == np.max([one[3] for one in found], axis=0)[nearest]
    if settings.ratio < 1 and len(other) > 1:
        near, far = ((products.one - one).clip(0) for one in (best, second))
        keep &= near < settings.ratio**2 * far
    kept = np.flatnonzero(keep)
    if settings.mutual:
        # Of query features that are as near, the first.
        first = np.zeros(len(other), np.intp)
        first[nearest[kept[::-1]]] = kept[::-1]
        kept = kept[first[nearest[kept]] == kept]
    return np.stack([kept, nearest[kept]], axis=1).astype(np.int32)


def _neighbours(products: Products, part: slice) -> tuple[np.ndarray, ...]:
    """Of each query feature the nearest, its product and the second best; the best by column."""
    found = products.rows(part)
    index = np.arange(len(found))
    nearest = found.argmax(axis=1)
    best = found[index, nearest]
    columns = found.max(axis=0)
    found[index, nearest] = np.iinfo(np.int32).min
    return nearest, best, found.max(axis=1), columns

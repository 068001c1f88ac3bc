"""Matching: which local descriptors of two photos are nearest to each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from index.products import Descriptors, Products
from index.settings import MatchingSettings

# So many products at a time, a part of the cache.
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


@contextmanager
def one_thread() -> Iterator[None]:
    """FAISS's threads and BLAS's too keep to one, in whatever this thread does."""
    with _blas().limit(limits=1):
        yield


def match_descriptors(
    query: Descriptors, other: Descriptors, settings: MatchingSettings
) -> NDArray[np.int32]:
    """:func:`match_many` of one photo."""
    return match_many(query, [other], settings)[0]


def match_many(
    query: Descriptors, others: Sequence[Descriptors], settings: MatchingSettings
) -> list[NDArray[np.int32]]:
    """Nearest neighbours from the query to each of the other photos that pass the filters.

    All distances come from matrix products, as |a − b|² = 2 − 2 a·b for unit vectors.

    Args:
        query, others: (N, d) and (M, d), unit vectors as float32, or as int8 in whole steps (see
            :mod:`index.products`).
        settings: mutual nearest neighbours only, the ratio to the second neighbour, and the
            largest distance.

    Returns:
        For each photo int32 (K, 2), indices into ``query`` and the other, in the query's order.
    """
    sizes = np.array([len(one) for one in others], np.intp)
    most = int(sizes.max(initial=0))
    if len(query) == 0 or most == 0:
        return [np.zeros((0, 2), np.int32)] * len(others)
    together = np.zeros((len(others), most, query.shape[1]), query.dtype)
    for place, one in zip(together, others, strict=True):
        place[: len(one)] = one
    products = Products(query, together.reshape(-1, query.shape[1]))
    missing = np.arange(most) >= sizes[:, None]
    rows = max(1, _CELLS // missing.size)
    parts = [slice(start, start + rows) for start in range(0, len(query), rows)]
    found = [_neighbours(products, part, missing) for part in parts]
    nearest, best, second = (np.concatenate([one[part] for one in found]) for part in range(3))
    keep = best >= products.one * (1 - settings.max_distance**2 / 2)
    if settings.mutual:
        # The maximum along columns is read row by row, ten times faster than their argmax.
        columns = np.max([one[3] for one in found], axis=0)
        keep &= best == np.take_along_axis(columns.T, nearest, axis=0)
    if settings.ratio < 1:
        near, far = ((products.one - one).clip(0) for one in (best, second))
        keep &= near < settings.ratio**2 * far
    return [
        _pairs(np.flatnonzero(kept), to, settings)
        for kept, to in zip(keep.T, nearest.T, strict=True)
    ]


def _neighbours(
    products: Products, part: slice, missing: NDArray[np.bool_]
) -> tuple[np.ndarray, ...]:
    """Of each query feature the nearest in each photo, its product and the second best, all of
    them (rows, photos); and the best of each of the photos' features, (photos, most)."""
    found = products.rows(part).reshape(-1, *missing.shape)
    if missing.any():
        found[:, missing] = _LEAST
    nearest = found.argmax(axis=2)
    best = np.take_along_axis(found, nearest[:, :, None], axis=2)[:, :, 0]
    columns = found.max(axis=0)
    np.put_along_axis(found, nearest[:, :, None], _LEAST, axis=2)
    return nearest, best, found.max(axis=2), columns


def _pairs(
    kept: NDArray[np.intp], nearest: NDArray[np.intp], settings: MatchingSettings
) -> NDArray[np.int32]:
    if settings.mutual:
        # Of query features that are as near, the first.
        first = np.zeros(nearest.max() + 1, np.intp)
        first[nearest[kept[::-1]]] = kept[::-1]
        kept = kept[first[nearest[kept]] == kept]
    return np.stack([kept, nearest[kept]], axis=1).astype(np.int32)

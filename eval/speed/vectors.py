"""Global descriptors by the million, made up: they cluster as photos of the same things do.

Centres and the deviations from them lie in the same 96 of the dimensions, with variances that fall
off, and everything is a little off in all dimensions. A photo is a centre and a deviation, drawn by
its number, so that any part of ten millions can be made again when it is wanted.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from delg.types import FloatArray

DIM = 512
CHUNK = 50_000
_INTRINSIC = 96
_PHOTOS_PER_CENTRE = 50
_MOST_CENTRES = 50_000
_DEVIATIONS = 32_768
# Lengths of a deviation, and of what is off in all dimensions, beside a centre's 1.
_DEVIATION, _OFF = 0.7, 0.25


def _unit(vectors: FloatArray) -> FloatArray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class Vectors:
    """Made-up descriptors of ``count`` photos.

    Args:
        count: how many.
        centres: float32 (C, D), unit length, of the things; made up too by default.
    """

    def __init__(self, count: int, centres: FloatArray | None = None) -> None:
        self.count = count
        rng = np.random.default_rng(0)
        basis = np.linalg.qr(rng.standard_normal((DIM, _INTRINSIC)))[0].T
        spread = np.arange(1, _INTRINSIC + 1) ** -0.5
        self._basis = (basis * (spread / np.linalg.norm(spread))[:, None]).astype(np.float32)
        if centres is None:
            wanted = max(1, min(count // _PHOTOS_PER_CENTRE, _MOST_CENTRES))
            centres = _unit(self._inside(rng, wanted))
        self._centres = centres
        off = rng.standard_normal((_DEVIATIONS, DIM), dtype=np.float32)
        off *= np.float32(_OFF / DIM**0.5)
        self._deviations = self._inside(rng, _DEVIATIONS) * np.float32(_DEVIATION) + off

    def _inside(self, rng: np.random.Generator, count: int) -> FloatArray:
        return rng.standard_normal((count, _INTRINSIC), dtype=np.float32) @ self._basis

    def _drawn(self, seed: tuple[int, int], count: int) -> FloatArray:
        rng = np.random.default_rng(seed)
        vectors = self._centres[rng.integers(0, len(self._centres), count)]
        vectors += self._deviations[rng.integers(0, _DEVIATIONS, count)]
        return _unit(vectors)

    def chunk(self, number: int) -> FloatArray:
        """Those of the ``number``-th ``CHUNK`` photos; the last may be shorter."""
        return self._drawn((1, number), min(CHUNK, self.count - number * CHUNK))

    def chunks(self) -> Iterator[tuple[int, FloatArray]]:
        """First photo and descriptors of each chunk."""
        for number in range(-(-self.count // CHUNK)):
            yield number * CHUNK, self.chunk(number)

    def sample(self, most: int) -> FloatArray:
        """Up to so many, from all over."""
        chunks = -(-self.count // CHUNK)
        each = -(-min(most, self.count) // chunks)
        # Copies, or the whole chunks would stay in memory.
        return np.concatenate([self.chunk(number)[:each].copy() for number in range(chunks)])

    def queries(self, count: int) -> FloatArray:
        """Further photos of the same things, float32 (count, D)."""
        return self._drawn((2, 0), count)

    def nearest(self, queries: FloatArray, count: int) -> NDArray[np.int64]:
        """The photos nearest to each query by brute force, int64 (len(queries), count)."""
        best = np.full((len(queries), 0), 0, np.float32)
        photos = np.zeros((len(queries), 0), np.int64)
        for start, vectors in self.chunks():
            rows = np.arange(start, start + len(vectors))
            similarities = np.concatenate([best, queries @ vectors.T], axis=1)
            numbers = np.concatenate([photos, np.tile(rows, (len(queries), 1))], axis=1)
            order = np.argpartition(-similarities, min(count, similarities.shape[1]) - 1)[:, :count]
            best = np.take_along_axis(similarities, order, axis=1)
            photos = np.take_along_axis(numbers, order, axis=1)
        return photos

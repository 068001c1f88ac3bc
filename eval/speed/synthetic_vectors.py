"""Synthetic global descriptors by the million, clustered like photos of the same instances.

Centres and deviations from them lie in the same 96-dimensional subspace, with decaying variances;
isotropic noise is added in all dimensions. A photo is the sum of a centre and a deviation, drawn by
its number, so that any chunk of ten million can be generated again when it is needed.
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
_MAX_CENTRES = 50_000
_DEVIATIONS = 32_768
_BLOCK = 256
# Lengths of a deviation and of the noise, relative to a centre's 1.
_DEVIATION, _NOISE = 0.7, 0.25


def _unit(vectors: FloatArray) -> FloatArray:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


class Vectors:
    """Synthetic descriptors of ``count`` photos.

    Args:
        count: number of photos.
        centres: float32 (C, D), unit length, of the instances; synthetic too by default.
        dim: D.
    """

    def __init__(self, count: int, centres: FloatArray | None = None, dim: int = DIM) -> None:
        self.count = count
        rng = np.random.default_rng(0)
        basis = np.linalg.qr(rng.standard_normal((dim, _INTRINSIC)))[0].T
        std = np.arange(1, _INTRINSIC + 1) ** -0.5
        self._basis = (basis * (std / np.linalg.norm(std))[:, None]).astype(np.float32)
        if centres is None:
            number = max(1, min(count // _PHOTOS_PER_CENTRE, _MAX_CENTRES))
            centres = _unit(self._in_subspace(rng, number))
        self._centres = centres
        noise = rng.standard_normal((_DEVIATIONS, dim), dtype=np.float32)
        noise *= np.float32(_NOISE / dim**0.5)
        self._deviations = self._in_subspace(rng, _DEVIATIONS) * np.float32(_DEVIATION) + noise

    def _in_subspace(self, rng: np.random.Generator, count: int) -> FloatArray:
        factors = rng.standard_normal((count, _INTRINSIC), dtype=np.float32)
        return np.asarray(factors @ self._basis)

    def _sample(self, seed: tuple[int, int], count: int) -> FloatArray:
        rng = np.random.default_rng(seed)
        centres = rng.integers(0, len(self._centres), count)
        deviations = rng.integers(0, _DEVIATIONS, count)
        vectors = np.empty((count, self._centres.shape[1]), np.float32)
        # In parts that a processor's cache holds.
        for start in range(0, count, _BLOCK):
            part = slice(start, start + _BLOCK)
            sums = self._centres[centres[part]] + self._deviations[deviations[part]]
            vectors[part] = _unit(sums)
        return vectors

    def chunk(self, number: int) -> FloatArray:
        """Descriptors of the ``number``-th ``CHUNK`` photos, float32 (N, D)."""
        return self._sample((1, number), min(CHUNK, self.count - number * CHUNK))

    def chunks(self) -> Iterator[tuple[int, FloatArray]]:
        """Number of the first photo, and descriptors, of each chunk."""
        for number in range(-(-self.count // CHUNK)):
            yield number * CHUNK, self.chunk(number)

    def sample(self, most: int) -> FloatArray:
        """Up to ``most`` descriptors, from all chunks."""
        chunks = -(-self.count // CHUNK)
        each = -(-min(most, self.count) // chunks)
        # Copies, or complete chunks would stay in memory.
        return np.concatenate([self.chunk(number)[:each].copy() for number in range(chunks)])

    def queries(self, count: int) -> FloatArray:
        """Further photos of the same instances, float32 (count, D)."""
        return self._sample((2, 0), count)

    def nearest(self, queries: FloatArray, count: int) -> NDArray[np.int64]:
        """The photos nearest to each query by brute force, int64 (len(queries), count)."""
        best = np.zeros((len(queries), 0), np.float32)
        photos = np.zeros((len(queries), 0), np.int64)
        for start, vectors in self.chunks():
            rows = np.arange(start, start + len(vectors))
            similarities = np.concatenate([best, queries @ vectors.T], axis=1)
            numbers = np.concatenate([photos, np.tile(rows, (len(queries), 1))], axis=1)
            order = np.argpartition(-similarities, min(count, similarities.shape[1]) - 1)[:, :count]
            best = np.take_along_axis(similarities, order, axis=1)
            photos = np.take_along_axis(numbers, order, axis=1)
        return photos

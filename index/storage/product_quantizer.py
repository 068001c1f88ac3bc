"""Local descriptors as a few bytes: a rotation to the directions that vary, then product codes.

Unit vectors are rotated to the leading principal directions of a sample, dealt out so that each
group of components varies about as much as the others, and each group is replaced by the nearest
of 256 centroids (Jégou et al., *Product quantization for nearest neighbor search*, PAMI 2011; Ge et
al., *Optimized product quantization*, CVPR 2013). A query is rotated, but not quantised.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from delg.compiled import compiled
from delg.types import FloatArray
from index.verification.int8_matmul import INT8_SCALE

CENTROIDS = 256
# Bytes a descriptor, and components kept for each of them, at most.
CODE_BYTES = 16
_WIDTH = 5
# It takes so many descriptors to learn from, and more than so many do not help.
MIN_TRAINING_VECTORS, MOST = 4_000, 20_000
_ROUNDS = 8
_TINY = 1e-12


@dataclass(frozen=True, eq=False)
class ProductQuantizer:
    """Learnt codes of unit vectors (N, d).

    Attributes:
        rotation: float16 (d, r), into the space that descriptors are compared in.
        centroids: float16 (m, 256, r / m), of the m bytes of a code.
    """

    rotation: NDArray[np.float16]
    centroids: NDArray[np.float16]

    @classmethod
    def train(cls, descriptors: FloatArray) -> ProductQuantizer:
        """Learn from a sample; the same one gives the same codes.

        Args:
            descriptors: float32 (N, d), unit length, ``MIN_TRAINING_VECTORS`` or more.
        """
        chance = np.random.default_rng(0)
        chosen = np.sort(chance.permutation(len(descriptors))[:MOST])
        sample = descriptors[chosen]
        groups = min(CODE_BYTES, sample.shape[1])
        width = max(1, min(_WIDTH, sample.shape[1] // groups))
        rotation = _rotation(sample, groups, width).astype(np.float16)
        vectors = _unit(sample @ rotation.astype(np.float32))
        parts = vectors.reshape(len(vectors), groups, width).transpose(1, 0, 2)
        # Small steps: threads that share one would mostly wait for each other.
        with threadpool_limits(1, "blas"), _by_products(), _single_threads() as threads:
            centroids = list(threads.map(_centroids, map(np.ascontiguousarray, parts)))
        return cls(rotation, np.stack(centroids).astype(np.float16))

    @property
    def code_bytes(self) -> int:
        """Bytes a descriptor."""
        return len(self.centroids)

    @cached_property
    def _turn(self) -> FloatArray:
        return self.rotation.astype(np.float32)

    @cached_property
    def _vectors(self) -> tuple[FloatArray, FloatArray]:
        """The centroids in float32, and their squared lengths (m, 256)."""
        centroids = self.centroids.astype(np.float32)
        return centroids, (centroids**2).sum(axis=2)

    def is_same(self, other: ProductQuantizer) -> bool:
        """Whether codes of the one are codes of the other."""
        return self is other or (
            np.array_equal(self.rotation, other.rotation)
            and np.array_equal(self.centroids, other.centroids)
        )

    def project(self, descriptors: FloatArray) -> FloatArray:
        """Unit vectors (N, d) in the space of comparison: float32 (N, r), unit length."""
        return _unit(descriptors @ self._turn)

    def encode(self, descriptors: FloatArray) -> NDArray[np.uint8]:
        """Unit vectors (N, d) as codes (N, m)."""
        if not len(descriptors):
            return np.zeros((0, self.code_bytes), np.uint8)
        centroids, lengths = self._vectors
        groups, _, width = centroids.shape
        parts = self.project(descriptors).reshape(len(descriptors), groups, width)
        # The nearest centroid c of x has the largest x·c − |c|²/2.
        fit = parts.transpose(1, 0, 2) @ centroids.transpose(0, 2, 1)
        fit -= lengths[:, None] / 2
        return fit.argmax(axis=2).T.astype(np.uint8, order="C")

    def decode(self, codes: NDArray[np.uint8]) -> FloatArray:
        """Codes (N, m) in the space of comparison: float32 (N, r), unit length."""
        return _unit(self._look_up(codes))

    def decode_int8(self, codes: NDArray[np.uint8]) -> NDArray[np.int8]:
        """The same in whole steps, see :mod:`index.verification.int8_matmul`: int8 (N, r)."""
        return _steps(codes, *self._vectors)

    def _look_up(self, codes: NDArray[np.uint8]) -> FloatArray:
        centroids, _ = self._vectors
        places = centroids[np.arange(self.code_bytes), codes]
        return places.reshape(len(codes), self.rotation.shape[1])

    def reconstruct(self, codes: NDArray[np.uint8]) -> FloatArray:
        """Codes (N, m) as unit vectors (N, d) again, about where they were."""
        return _unit(self.decode(codes) @ self._turn.T)


@compiled
def _steps(
    codes: NDArray[np.uint8], centroids: FloatArray, lengths: FloatArray
) -> NDArray[np.int8]:
    count, groups = codes.shape
    width = centroids.shape[2]
    found = np.empty((count, groups * width), np.int8)
    vector = np.empty(groups * width, np.float32)
    for number in range(count):
        length = np.float32(_TINY**2)
        for group in range(groups):
            code = codes[number, group]
            length += lengths[group, code]
            for part in range(width):
                vector[group * width + part] = centroids[group, code, part]
        steps = np.float32(INT8_SCALE) / np.sqrt(length)
        for part in range(groups * width):
            found[number, part] = np.int8(np.rint(vector[part] * steps))
    return found


@contextmanager
def _by_products() -> Iterator[None]:
    """FAISS finds nearest neighbours by matrix products, also of few and short vectors.

    Recent versions go through those one by one, which takes ten times as long here.
    """
    import faiss

    usual = faiss.cvar.distance_compute_blas_threshold
    faiss.cvar.distance_compute_blas_threshold = 1
    try:
        yield
    finally:
        faiss.cvar.distance_compute_blas_threshold = usual


def _single_threads() -> ThreadPoolExecutor:
    """One a core, each of which FAISS uses alone."""
    import faiss

    return ThreadPoolExecutor(os.cpu_count(), initializer=faiss.omp_set_num_threads, initargs=(1,))


def _centroids(vectors: FloatArray) -> FloatArray:
    """Of vectors (N, width): float32 (256, width)."""
    import faiss

    width = vectors.shape[1]
    asked = faiss.ClusteringParameters()
    asked.niter, asked.min_points_per_centroid = _ROUNDS, 1
    found = faiss.Clustering(width, CENTROIDS, asked)
    found.train(vectors, faiss.IndexFlatL2(width))
    return np.asarray(faiss.vector_to_array(found.centroids)).reshape(CENTROIDS, width)


def _rotation(sample: FloatArray, groups: int, width: int) -> NDArray[np.float64]:
    """The leading principal directions, each next one to the group that varies least so far."""
    variances, directions = np.linalg.eigh(sample.T.astype(np.float64) @ sample / len(sample))
    order = np.argsort(-variances)[: groups * width]
    # Groups of equal product, as bytes are well spent when all groups are equally hard to code.
    bits = np.log(np.maximum(variances[order], _TINY))
    dealt: list[list[int]] = [[] for _ in range(groups)]
    sums = np.zeros(groups)
    for place, cost in zip(order, bits - bits.min() + 1, strict=True):
        room = [number for number in range(groups) if len(dealt[number]) < width]
        chosen = min(room, key=lambda number: sums[number])
        dealt[chosen].append(int(place))
        sums[chosen] += cost
    return np.asarray(directions[:, [place for group in dealt for place in group]])


def _unit(vectors: FloatArray) -> FloatArray:
    return np.asarray(vectors / _norms(vectors), np.float32)


def _norms(vectors: FloatArray) -> FloatArray:
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None]
    return np.asarray(np.maximum(norms, _TINY), np.float32)

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
# At most: bytes per descriptor, and components kept for each of them.
CODE_BYTES = 16
_GROUP_WIDTH = 6
# Fewer descriptors are too few to learn from; more than the maximum do not help.
MIN_TRAINING_VECTORS, MAX_TRAINING_VECTORS = 4_000, 50_000
_KMEANS_ITERATIONS = 16
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
        """Learn codes from a sample; the same sample gives the same codes.

        Args:
            descriptors: float32 (N, d), unit length, N at least ``MIN_TRAINING_VECTORS``.
        """
        rng = np.random.default_rng(0)
        chosen = np.sort(rng.permutation(len(descriptors))[:MAX_TRAINING_VECTORS])
        sample = descriptors[chosen]
        groups = min(CODE_BYTES, sample.shape[1])
        width = max(1, min(_GROUP_WIDTH, sample.shape[1] // groups))
        rotation = _balanced_rotation(sample, groups, width).astype(np.float16)
        vectors = _unit(sample @ rotation.astype(np.float32))
        parts = vectors.reshape(len(vectors), groups, width).transpose(1, 0, 2)
        # Small steps: threads that share one would mostly wait for each other.
        with threadpool_limits(1, "blas"), _faiss_by_blas(), _single_threads() as threads:
            centroids = list(threads.map(_kmeans, map(np.ascontiguousarray, parts)))
        return cls(rotation, np.stack(centroids).astype(np.float16))

    @property
    def code_bytes(self) -> int:
        """Bytes per descriptor, m."""
        return len(self.centroids)

    @cached_property
    def _float_rotation(self) -> FloatArray:
        return self.rotation.astype(np.float32)

    @cached_property
    def _float_centroids(self) -> tuple[FloatArray, FloatArray]:
        """The centroids in float32 (m, 256, r / m), and their squared lengths (m, 256)."""
        centroids = self.centroids.astype(np.float32)
        return centroids, (centroids**2).sum(axis=2)

    def is_same(self, other: ProductQuantizer) -> bool:
        """Whether codes of one are codes of the other."""
        return self is other or (
            np.array_equal(self.rotation, other.rotation)
            and np.array_equal(self.centroids, other.centroids)
        )

    def project(self, descriptors: FloatArray) -> FloatArray:
        """Unit vectors (N, d) in the space of comparison: float32 (N, r), unit length."""
        return _unit(descriptors @ self._float_rotation)

    def encode(self, descriptors: FloatArray) -> NDArray[np.uint8]:
        """Unit vectors float32 (N, d) as codes uint8 (N, m)."""
        if not len(descriptors):
            return np.zeros((0, self.code_bytes), np.uint8)
        centroids, squared_lengths = self._float_centroids
        groups, _, width = centroids.shape
        parts = self.project(descriptors).reshape(len(descriptors), groups, width)
        # The nearest centroid c of x has the largest x·c − |c|²/2.
        affinities = parts.transpose(1, 0, 2) @ centroids.transpose(0, 2, 1)
        affinities -= squared_lengths[:, None] / 2
        return affinities.argmax(axis=2).T.astype(np.uint8, order="C")

    def decode(self, codes: NDArray[np.uint8]) -> FloatArray:
        """Codes (N, m) in the space of comparison: float32 (N, r), unit length."""
        centroids, _ = self._float_centroids
        chosen = centroids[np.arange(self.code_bytes), codes]
        return _unit(chosen.reshape(len(codes), self.rotation.shape[1]))

    def decode_int8(self, codes: NDArray[np.uint8]) -> NDArray[np.int8]:
        """The same as int8 (N, r), scaled as in :mod:`index.verification.int8_matmul`."""
        return _decode_int8(codes, *self._float_centroids)

    def reconstruct(self, codes: NDArray[np.uint8]) -> FloatArray:
        """Codes (N, m) as unit vectors float32 (N, d), about what was encoded."""
        return _unit(self.decode(codes) @ self._float_rotation.T)


@compiled
def _decode_int8(
    codes: NDArray[np.uint8], centroids: FloatArray, squared_lengths: FloatArray
) -> NDArray[np.int8]:
    count, groups = codes.shape
    width = centroids.shape[2]
    decoded = np.empty((count, groups * width), np.int8)
    vector = np.empty(groups * width, np.float32)
    for number in range(count):
        squared_length = np.float32(_TINY**2)
        for group in range(groups):
            code = codes[number, group]
            squared_length += squared_lengths[group, code]
            for component in range(width):
                vector[group * width + component] = centroids[group, code, component]
        scale = np.float32(INT8_SCALE) / np.sqrt(squared_length)
        for component in range(groups * width):
            decoded[number, component] = np.int8(np.rint(vector[component] * scale))
    return decoded


@contextmanager
def _faiss_by_blas() -> Iterator[None]:
    """FAISS finds nearest neighbours by matrix products, also among few and short vectors.

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
    """One thread per core, in each of which FAISS takes no others."""
    import faiss

    return ThreadPoolExecutor(os.cpu_count(), initializer=faiss.omp_set_num_threads, initargs=(1,))


def _kmeans(vectors: FloatArray) -> FloatArray:
    """Centroids float32 (256, width) of vectors (N, width)."""
    import faiss

    width = vectors.shape[1]
    parameters = faiss.ClusteringParameters()
    parameters.niter, parameters.min_points_per_centroid = _KMEANS_ITERATIONS, 1
    clustering = faiss.Clustering(width, CENTROIDS, parameters)
    clustering.train(vectors, faiss.IndexFlatL2(width))
    return np.asarray(faiss.vector_to_array(clustering.centroids)).reshape(CENTROIDS, width)


def _balanced_rotation(sample: FloatArray, groups: int, width: int) -> NDArray[np.float64]:
    """The leading principal directions, each next one to the group that varies least so far."""
    variances, directions = np.linalg.eigh(sample.T.astype(np.float64) @ sample / len(sample))
    leading = np.argsort(-variances)[: groups * width]
    # Groups of equal product, as bytes are well spent when all groups are equally hard to code.
    bits = np.log(np.maximum(variances[leading], _TINY))
    members: list[list[int]] = [[] for _ in range(groups)]
    sums = np.zeros(groups)
    for direction, cost in zip(leading, bits - bits.min() + 1, strict=True):
        open_groups = [group for group in range(groups) if len(members[group]) < width]
        group = min(open_groups, key=lambda number: sums[number])
        members[group].append(int(direction))
        sums[group] += cost
    order = [direction for group_members in members for direction in group_members]
    return np.asarray(directions[:, order])


def _unit(vectors: FloatArray) -> FloatArray:
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None]
    return np.asarray(vectors / np.maximum(norms, _TINY), np.float32)

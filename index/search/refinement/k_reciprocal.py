"""Re-ranking with k-reciprocal encoding (Zhong et al., CVPR 2017, arXiv 1701.08398).

Each photo, and the query, is described by the set of its k-reciprocal neighbours: the photos that
are among its k₁ nearest and have it among theirs. The set takes in the k₁/2-reciprocal neighbours
of a member with which it shares two thirds of them. Members weigh exp(−d), d the distance of
descriptors; sets are averaged over the k₂ nearest photos. The final distance
is 1 − λ times the Jaccard distance of the sets plus λ times the distance of the descriptors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from delg.types import FloatArray
from index.search.refinement.base import Neighbourhood, neighbour_mask

_MIN_SHARE = 2 / 3


@dataclass(frozen=True)
class KReciprocal:
    """See :class:`index.search.refinement.base.Refinement`.

    Attributes:
        k1, k2, distance_weight: k₁, k₂ and λ above.
    """

    k1: int = 20
    k2: int = 6
    distance_weight: float = 0.3

    def refine(self, neighbourhood: Neighbourhood) -> FloatArray:
        """The final distance, negative."""
        similarities = neighbourhood.with_query()
        distances = np.maximum(2 - 2 * similarities, 0)
        # As published: relative to the farthest photo from each.
        distances /= np.maximum(distances.max(axis=1, keepdims=True), 1e-12)
        sets = _reciprocal_sets(similarities, self.k1)
        encoding = np.where(sets, np.exp(-distances), 0).astype(np.float32)
        encoding /= encoding.sum(axis=1, keepdims=True)
        # SciPy takes as long to import as the rest of a search.
        from scipy.sparse import csr_array

        nearest = csr_array(neighbour_mask(similarities, self.k2).astype(np.float32))
        encoding = (nearest @ encoding) / nearest.sum(axis=1)[:, None]
        shared = np.minimum(encoding[1:], encoding[0]).sum(axis=1)
        jaccard = 1 - shared / (2 - shared)
        weight = self.distance_weight
        final = (1 - weight) * jaccard + weight * distances[0, 1:]
        return np.asarray(-final, np.float32)


def _reciprocal_sets(similarities: FloatArray, k: int) -> NDArray[np.bool_]:
    """The members of each photo's set of k-reciprocal neighbours, taken wider, bool (N, N)."""
    sets = _mutual(similarities, k)
    from scipy.sparse import csr_array

    halves = _mutual(similarities, max(1, round(k / 2)))
    sparse_halves = csr_array(halves.astype(np.float32))
    shared = (sparse_halves @ sets.T.astype(np.float32)).T
    admits = sets & (shared >= _MIN_SHARE * halves.sum(axis=1))
    added = csr_array(admits.astype(np.float32)) @ sparse_halves
    return np.asarray(sets | (added.toarray() > 0))


def _mutual(similarities: FloatArray, k: int) -> NDArray[np.bool_]:
    """Which photos are among each other's k nearest; each photo is of its own, besides them."""
    near = neighbour_mask(similarities, k + 1)
    return np.asarray(near & near.T)

"""Diffusion on the graph of mutual neighbours (Iscen et al., CVPR 2017, arXiv 1611.05113).

    A: simᵢⱼ^γ where i and j are among each other's k nearest, else 0
    S = D^−½ A D^−½                D = diag(A 1)
    f: (I − α S) f = y              y: (q · xⱼ)^γ for the photos nearest to the query, else 0

f orders the photos. Within a shortlist the system is small enough to solve as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from delg.types import FloatArray
from index.search.refinement.base import Neighbourhood, nearest, neighbour_mask


@dataclass(frozen=True)
class Diffusion:
    """See :class:`index.search.refinement.base.Refinement`.

    Attributes:
        neighbours: k of the graph.
        query_neighbours: photos at which the walk starts.
        alpha: share of a step that follows the graph; the rest goes back to the start.
        gamma: power of the similarities.
    """

    neighbours: int = 50
    query_neighbours: int = 10
    alpha: float = 0.99
    gamma: float = 3.0

    def refine(self, neighbourhood: Neighbourhood) -> FloatArray:
        """The stationary state of the random walk that starts at the query."""
        # SciPy takes as long to import as the rest of a search.
        from scipy.linalg import solve

        gram, similarities = neighbourhood.gram, neighbourhood.similarities
        near = neighbour_mask(gram, self.neighbours + 1)
        affinity = np.where(near & near.T, np.maximum(gram, 0) ** self.gamma, 0)
        np.fill_diagonal(affinity, 0)
        degree = np.sqrt(np.maximum(affinity.sum(axis=1), 1e-12))
        system = np.eye(len(gram)) - self.alpha * affinity / np.outer(degree, degree)
        start = np.zeros(len(gram))
        leaders = nearest(similarities, self.query_neighbours)
        start[leaders] = np.maximum(similarities[leaders], 0) ** self.gamma
        return np.asarray(solve(system, start, assume_a="pos"), np.float32)

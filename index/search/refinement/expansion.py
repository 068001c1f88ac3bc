"""Query expansion: the photos nearest to the query join it.

    q' = q + Σⱼ wⱼ xⱼ   over the ``expand`` nearest photos j

With wⱼ = 1 it is average query expansion (Chum et al., ICCV 2007), with wⱼ = (q · xⱼ)^α α-query
expansion (Radenović et al., arXiv 1711.02512). A photo for which geometry speaks weighs at least
the probability that this gives it: the first of these papers expands by what was verified.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from delg.types import FloatArray
from index.search.refinement.base import Neighbourhood, nearest


def expansion_weights(
    similarities: FloatArray, proof: FloatArray, count: int, alpha: float
) -> FloatArray:
    """What each photo weighs in the expanded query, float32 (M,), next to 1 for the query itself.

    Args:
        similarities: float32 (M,), to the query.
        proof: see :class:`index.search.refinement.base.Neighbourhood`.
        count, alpha: see :class:`QueryExpansion`.
    """
    weights = np.zeros(len(similarities), np.float32)
    chosen = nearest(similarities, count)
    weights[chosen] = np.maximum(similarities[chosen], 0) ** alpha
    return np.maximum(weights, proof)


@dataclass(frozen=True)
class QueryExpansion:
    """See :class:`index.search.refinement.base.Refinement`.

    Attributes:
        expand: photos that join the query.
        alpha: power of their similarities that they weigh; 0 is average query expansion.
    """

    expand: int = 10
    alpha: float = 3.0

    def refine(self, neighbourhood: Neighbourhood) -> FloatArray:
        """Similarities to the expanded query, which is not scaled to unit length."""
        similarities = neighbourhood.similarities
        weights = expansion_weights(similarities, neighbourhood.proof, self.expand, self.alpha)
        expanded = neighbourhood.query + weights @ neighbourhood.descriptors
        return neighbourhood.descriptors @ expanded

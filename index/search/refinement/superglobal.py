"""Re-ranking by refined global descriptors (Shao et al., SuperGlobal, ICCV 2023, arXiv 2308.06954).

Each photo is averaged with its K = 9 nearest, which weigh β · similarity (β = .15). The query is
replaced by the element-wise maximum of the refined descriptors of the photos nearest to it. A photo
scores the mean of the inner products of its refined descriptor with both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from delg.types import FloatArray
from index.search.refinement.base import Neighbourhood, nearest, neighbour_mask


@dataclass(frozen=True)
class SuperGlobal:
    """See :class:`index.search.refinement.base.Refinement`.

    Attributes:
        neighbours: K, besides the photo itself.
        beta: weight of a neighbour's similarity.
    """

    neighbours: int = 9
    beta: float = 0.15

    def refine(self, neighbourhood: Neighbourhood) -> FloatArray:
        """The mean of both inner products; refined descriptors are not scaled to unit length."""
        count, gram = self.neighbours + 1, neighbourhood.gram
        weights = np.where(neighbour_mask(gram, count), self.beta * gram, 0)
        np.fill_diagonal(weights, 1)
        refined = (weights @ neighbourhood.descriptors) / weights.sum(axis=1, keepdims=True)
        similarities: FloatArray = refined @ neighbourhood.query
        leaders = nearest(similarities, count)
        maximum = refined[leaders].max(axis=0)
        return np.asarray((similarities + refined @ maximum) / 2)

"""What refinement works on: the photos nearest to a query, and their similarities to each other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from delg.types import FloatArray

Indices = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """The M photos at the top of a shortlist.

    Attributes:
        query: float32 (D,), the query's global descriptor, unit length.
        descriptors: float32 (M, D), the photos', unit length.
        proof: float32 (M,), the probability by geometry that each photo shows the same thing as the
            query; 0 where nothing speaks for it.
    """

    query: FloatArray
    descriptors: FloatArray
    proof: FloatArray

    def __len__(self) -> int:
        return len(self.descriptors)

    @cached_property
    def similarities(self) -> FloatArray:
        """Similarity of each photo to the query, float32 (M,)."""
        return np.asarray(self.descriptors @ self.query)

    @cached_property
    def gram(self) -> FloatArray:
        """Similarities of the photos to each other, float32 (M, M)."""
        return np.asarray(self.descriptors @ self.descriptors.T)

    def with_query(self) -> FloatArray:
        """Similarities of query and photos to each other, float32 (1 + M, 1 + M); the query is
        number 0."""
        joint = np.empty((len(self) + 1, len(self) + 1), np.float32)
        joint[0, 0], joint[1:, 1:] = 1, self.gram
        joint[0, 1:] = joint[1:, 0] = self.similarities
        return joint


class Refinement(Protocol):
    """Finds out from the photos' neighbours which of them show the same thing as the query."""

    def refine(self, neighbourhood: Neighbourhood) -> FloatArray:
        """How near the photos are to the query, given what is near to each of them.

        Args:
            neighbourhood: of one photo or more, in any order.

        Returns:
            Float32 (M,), higher is nearer. Only the order counts: the unit is the method's own.
        """


def nearest(similarities: FloatArray, count: int) -> Indices:
    """The ``count`` most similar ones of each row, or all if there are fewer, in no order.

    Args:
        similarities: float32 (…, N).

    Returns:
        Columns (…, min(count, N)).
    """
    size = similarities.shape[-1]
    if count >= size:
        return np.broadcast_to(np.arange(size), similarities.shape)
    first = size - count
    return np.argpartition(similarities, min(first, size - 1), axis=-1)[..., first:]


def neighbour_mask(similarities: FloatArray, count: int) -> NDArray[np.bool_]:
    """Which photos are among the ``count`` nearest of each photo, bool (N, N).

    Args:
        similarities: float32 (N, N).
    """
    mask = np.zeros(similarities.shape, bool)
    np.put_along_axis(mask, nearest(similarities, count), True, axis=-1)
    return mask

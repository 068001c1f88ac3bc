"""The default: neighbours speak for the candidates, and the nearest candidates for the query.

Database-side feature augmentation (Turcot and Lowe, ICCV workshops 2009; Gordo et al., arXiv
1610.07940) within the shortlist, followed by α-query expansion (Radenović et al., arXiv 1711.02512)
with the augmented descriptors:

    x'ᵢ = Σⱼ simᵢⱼ^α xⱼ / ‖·‖     over the ``augment`` nearest photos j of photo i, itself included
    q'  = q + Σⱼ (q · x'ⱼ)^α x'ⱼ  over the ``expand`` nearest photos to the query
    refined similarity = q' · x'ᵢ / ‖q'‖

A photo joins the query only if the query is one of its ``reciprocal`` nearest in turn: around a
query whose thing few photos show, or none, photos are nearer to each other than to the query, and
would lead it away. One for which geometry speaks weighs at least the probability that this gives.

All of it is worked out on the photos' similarities to each other, which are known once; the
augmented descriptors are never written down.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from delg.types import FloatArray
from index.search.refinement.base import Indices, Neighbourhood, nearest
from index.search.refinement.expansion import expansion_weights


@dataclass(frozen=True, eq=False)
class Augmentation:
    """Augmented descriptors, each as a weighted sum of photos.

    Attributes:
        columns: (M, k), the photos that each is a sum of.
        weights: float32 (M, k), such that the sums have unit length.
    """

    columns: Indices
    weights: FloatArray

    def products(self, values: FloatArray) -> FloatArray:
        """Inner products (M,) of the augmented descriptors with a vector whose inner products with
        the photos are ``values`` (M,)."""
        return np.asarray(np.einsum("ij,ij->i", self.weights, values[self.columns]))

    def combine(self, coefficients: FloatArray) -> FloatArray:
        """The sum of augmented descriptors with those coefficients (M,), as coefficients (M,) of
        the photos."""
        terms = self.weights * coefficients[:, None]
        size = len(coefficients)
        return np.bincount(self.columns.ravel(), terms.ravel(), size).astype(np.float32)


def augment(gram: FloatArray, count: int, power: float) -> Augmentation:
    """Augment each photo by its ``count`` nearest, itself included, weighted by similarity.

    Args:
        gram: float32 (M, M), similarities of the photos to each other.
        power: of the similarity; negative similarities weigh nothing.
    """
    columns = nearest(gram, count)
    weights = np.maximum(np.take_along_axis(gram, columns, axis=1), 0) ** power
    among = gram[columns[:, :, None], columns[:, None, :]]
    squares = (weights[:, None, :] @ among @ weights[:, :, None]).ravel()
    lengths = np.sqrt(np.maximum(squares, 1e-12))[:, None]
    return Augmentation(columns, np.asarray(weights / lengths, np.float32))


def is_reciprocal(neighbourhood: Neighbourhood, count: int) -> NDArray[np.bool_]:
    """Whether the query would be among the ``count`` nearest of each photo, bool (M,)."""
    is_nearer = neighbourhood.gram > neighbourhood.similarities[:, None]
    np.fill_diagonal(is_nearer, False)
    return np.asarray(is_nearer.sum(axis=1) < count)


@dataclass(frozen=True)
class NeighbourAugmentation:
    """See :class:`index.search.refinement.base.Refinement`.

    Attributes:
        augment: photos that each photo is a sum of.
        expand: photos that join the query.
        alpha: power of the similarities, in both.
        reciprocal: neighbours of a photo among which the query must be for the photo to join it.
    """

    augment: int = 20
    expand: int = 20
    alpha: float = 3.0
    reciprocal: int = 10

    def refine(self, neighbourhood: Neighbourhood) -> FloatArray:
        """Similarities of the augmented photos to the expanded query."""
        gram = neighbourhood.gram
        augmentation = augment(gram, self.augment, self.alpha)
        similarities = augmentation.products(neighbourhood.similarities)
        proof = neighbourhood.proof
        weights = expansion_weights(similarities, proof, self.expand, self.alpha)
        weights = np.where(is_reciprocal(neighbourhood, self.reciprocal), weights, proof)
        return similarities + augmentation.products(gram @ augmentation.combine(weights))

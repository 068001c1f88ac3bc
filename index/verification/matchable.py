"""What it takes to match and verify two photos, however their descriptors are stored.

Descriptors of a photo may lie in the space of a codebook (:mod:`index.storage.product_quantizer`);
a query is projected into that space before both are compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import Protocol

import numpy as np

from delg.types import FloatArray, ImageFeatures
from index.verification.int8_matmul import Descriptors, quantize


class Codebook(Protocol):
    """Learnt codes of descriptors, and the space that they are compared in."""

    def project(self, descriptors: FloatArray) -> FloatArray:
        """Unit vectors float32 (N, d) in the codebook's space: float32 (N, r), unit length."""


@dataclass(frozen=True, eq=False)
class MatchableFeatures:
    """The local features of one photo, ready for matching and verification.

    Attributes:
        keypoints: float32 (N, 2), (x, y), pixels of the upright photo.
        descriptors: with a codebook int8 (N, r), unit vectors in its space, as
            :func:`index.verification.int8_matmul.quantize` gives them; without one float32 (N, d),
            as extracted.
        scales: float32 (N,), see :class:`delg.types.LocalFeatures`.
        size: width and height of the upright photo, pixels.
        codebook: in whose space the descriptors lie; None: as extracted.
    """

    keypoints: FloatArray
    descriptors: Descriptors
    scales: FloatArray
    size: tuple[int, int]
    codebook: Codebook | None = None

    @classmethod
    def of(cls, features: ImageFeatures) -> MatchableFeatures:
        """A photo's features as they were extracted."""
        local = features.local
        size = features.width, features.height
        return cls(local.keypoints, local.descriptors, local.scales, size)


class MatchableQuery:
    """Features of a query, ready to be compared with stored photos.

    Args:
        features: as extracted.
    """

    def __init__(self, features: ImageFeatures) -> None:
        self.features = features
        self._matchable = MatchableFeatures.of(features)
        self._projected: dict[Codebook, MatchableFeatures] = {}
        self._lock = Lock()

    def __reduce__(self) -> tuple[type[MatchableQuery], tuple[ImageFeatures]]:
        # Projections are made where it arrives.
        return MatchableQuery, (self.features,)

    def in_codebook_of(self, other: MatchableFeatures) -> MatchableFeatures:
        """The query in the space of the other photo's descriptors."""
        codebook, query = other.codebook, self._matchable
        if codebook is None:
            return query
        # Threads that verify at once wait for one of them to project.
        with self._lock:
            if codebook not in self._projected:
                steps = quantize(codebook.project(self.features.local.descriptors))
                # Column by column, as the matrix product reads the query.
                steps = np.asfortranarray(steps)
                self._projected[codebook] = MatchableFeatures(
                    query.keypoints, steps, query.scales, query.size, codebook
                )
        return self._projected[codebook]

"""Correspondences: the points of two photos whose descriptors match."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from delg.compiled import compiled
from delg.types import FloatArray
from index.settings import VerificationSettings
from index.verification.int8_matmul import Descriptors

Size = tuple[int, int]
# The longest side, in pixels, that the model reduces photos to, where the settings give none: they
# are of an index made before 0.2.
_DEFAULT_SIDE = 1024


@dataclass(frozen=True, eq=False)
class PointMatches:
    """Matched points of two photos.

    Attributes:
        query, other: float32 (N, 2), (x, y); row i of one matches row i of the other.
        scale_ratios: float32 (N,), zoom from the query to the other photo according to the scales
            of the matched features; a match whose ratio contradicts a transform is no inlier of
            it. None: unknown.
        precisions: float32 (N,), weights of the matches where a transform is fitted, by how exactly
            their features lie. None: all weigh the same.
    """

    query: FloatArray
    other: FloatArray
    scale_ratios: FloatArray | None = None
    precisions: FloatArray | None = None


@dataclass(frozen=True, eq=False)
class Correspondences:
    """The keypoints of two photos, and which of them match.

    Attributes:
        query, other: float32 (N, 2) and (M, 2), (x, y), pixels of each upright photo.
        matches: int32 (K, 2), indices into both.
        nearest: int32 (N,), the other photo's feature that is nearest to each of the query's.
        query_size, other_size: (width, height) of the upright photos, pixels.
        descriptors: of the other photo (M, r), of one length.
        scales: of both photos' features, float32 (N,) and (M,), see
            :class:`delg.types.LocalFeatures`; None: unknown.
    """

    query: FloatArray
    other: FloatArray
    matches: NDArray[np.int32]
    nearest: NDArray[np.int32]
    query_size: Size
    other_size: Size
    descriptors: Descriptors
    scales: tuple[FloatArray, FloatArray] | None = None

    def units(self, settings: VerificationSettings) -> tuple[float, float]:
        """The factors that turn pixels of the query and of the other photo into pixels of photos
        whose longest side is ``settings.reference_side``; 1 if that is None."""
        return reference_unit(self.query_size, settings), reference_unit(self.other_size, settings)

    def point_matches(self, settings: VerificationSettings) -> PointMatches:
        """The matches in pixels of the reference side, with their scale ratios."""
        query_unit, other_unit = self.units(settings)
        return PointMatches(
            _gather(self.query, self.matches[:, 0], query_unit),
            _gather(self.other, self.matches[:, 1], other_unit),
            self._scale_ratios(settings),
            self._precisions(),
        )

    def _precisions(self) -> FloatArray | None:
        """A feature of a level of half the size lies half as exactly, and counts a quarter; in the
        other photo's pixels, that goes for the query's as well."""
        if self.scales is None:
            return None
        precisions = np.square(self.scales[1][self.matches[:, 1]], dtype=np.float32)
        return precisions / max(precisions.mean(), np.float32(1e-6)) if len(precisions) else None

    def _scale_ratios(self, settings: VerificationSettings) -> FloatArray | None:
        """The zoom of each match by its features' scales, between photos of the reference side."""
        if self.scales is None or settings.scales not in ("enlarged", "shrunk"):
            return None
        # Scales that are all equal say nothing.
        if not all(len(scales) and scales.min() < scales.max() for scales in self.scales):
            return None
        query, other = self.scales
        sides = (_model_side(size, settings) for size in (self.query_size, self.other_size))
        query_side, other_side = sides
        ratios = query[self.matches[:, 0]] / other[self.matches[:, 1]]
        return np.asarray(ratios * np.float32(query_side / other_side), np.float32)


def reference_unit(size: Size, settings: VerificationSettings) -> float:
    """The factor that turns pixels of a photo of that size into pixels of one whose longest side is
    ``settings.reference_side``; 1 if that is None."""
    return 1.0 if settings.reference_side is None else settings.reference_side / max(size)


def _model_side(size: Size, settings: VerificationSettings) -> float:
    """The longest side of a photo as the model sees it at scale 1, up to a common factor."""
    if settings.scales == "enlarged":
        return 1.0
    return min(max(size), settings.model_side or settings.reference_side or _DEFAULT_SIDE)


@compiled
def _gather(points: NDArray[np.floating], indices: NDArray[np.int32], unit: float) -> FloatArray:
    """The points (N, 2) at those indices, times the unit."""
    gathered = np.empty((len(indices), 2), np.float32)
    for row in range(len(indices)):
        for axis in range(2):
            gathered[row, axis] = np.float32(points[indices[row], axis]) * np.float32(unit)
    return gathered

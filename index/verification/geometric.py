"""Geometric verification: do the matches of two photos agree on one plausible transform?

The transform comes from one of :mod:`index.verification.estimators`. A transform that many matches
support can still be an accident; the checks here reject those that no change of viewpoint makes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from delg.compiled import compiled
from delg.types import FloatArray
from index.results import Evidence
from index.settings import VerificationSettings
from index.verification.correspondences import Correspondences, PointMatches
from index.verification.estimators import ESTIMATORS
from index.verification.evidence import gather_evidence
from index.verification.ransac import RansacResult


@dataclass(frozen=True, eq=False)
class GeometricMatch:
    """A transform on which matches of two photos agree.

    Attributes:
        transform: float64 (3, 3), maps homogeneous (x, y, 1) in the query's pixels to the other
            photo's.
        inliers: int32 (K, 2), the matches that agree, indices into both photos' features.
        evidence: what speaks for and against it; None: too few inliers to say.
    """

    transform: NDArray[np.float64]
    inliers: NDArray[np.int32]
    evidence: Evidence | None


def estimate_transform(
    correspondences: Correspondences, settings: VerificationSettings, evidence_from: int
) -> GeometricMatch | None:
    """Look for one transform that explains the matches of two photos; the same every time.

    Unless ``settings.check_plausibility`` is off, there is none if the inliers are too few of the
    matches, if they lie on a line or in one spot of either photo (any transform fits those), or if
    the transform mirrors, collapses or shears the photo.

    Args:
        evidence_from: inliers from which the evidence is gathered.
    """
    estimator = ESTIMATORS[settings.method]
    if len(correspondences.matches) <= estimator.sample_size:
        return None
    matches = correspondences.point_matches(settings)
    result = estimator.estimate(matches, settings)
    if result is None:
        return None
    if settings.check_plausibility and not _is_plausible(
        result, matches, estimator.sample_size, settings
    ):
        return None
    inliers = correspondences.matches[result.inliers]
    transform = _in_pixels(result.transform, *correspondences.units(settings))
    evidence = None
    if len(inliers) >= evidence_from:
        radius = settings.threshold / correspondences.units(settings)[1]
        evidence = gather_evidence(correspondences, transform, inliers, radius)
    return GeometricMatch(transform, inliers, evidence)


def _in_pixels(
    transform: NDArray[np.float64], query_unit: float, other_unit: float
) -> NDArray[np.float64]:
    """A transform (3, 3) between photos of the reference side, in the photos' own pixels."""
    scaled = (
        transform
        * np.array([query_unit, query_unit, 1])
        / np.array([[other_unit], [other_unit], [1]])
    )
    return np.asarray(scaled / scaled[2, 2], np.float64)


def transform_points(
    transform: NDArray[np.float64], points: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Points (N, 2), (x, y), mapped by a projective transform (3, 3)."""
    mapped = np.c_[points, np.ones(len(points))] @ transform.T
    return np.asarray(mapped[:, :2] / mapped[:, 2:], np.float64)


def _is_plausible(
    result: RansacResult,
    matches: PointMatches,
    sample_size: int,
    settings: VerificationSettings,
) -> bool:
    """Whether there are enough inliers, spread widely enough, and the transform is plausible."""
    inliers = result.inliers
    if inliers.sum() <= max(sample_size, settings.min_inlier_rate * len(inliers)):
        return False
    query, other = matches.query[inliers], matches.other[inliers]
    # Within half the threshold any transform fits.
    if min(minor_axis_std(query), minor_axis_std(other)) < settings.threshold / 2:
        return False
    return is_plausible_transform(
        result.transform, query, settings.max_zoom, settings.max_anisotropy
    )


@compiled
def is_plausible_transform(
    transform: NDArray[np.float64], points: FloatArray, max_zoom: float, max_anisotropy: float
) -> bool:
    """Whether a transform (3, 3) is one that a change of viewpoint could make.

    Judged by its derivative at the mean of the points (N, 2), (x, y): it must not mirror, and its
    singular values, the zooms along and across, must lie within 1 / ``max_zoom`` and ``max_zoom``
    and differ by less than the factor ``max_anisotropy``. No point may lie beyond the horizon.
    """
    h20, h21, h22 = transform[2]
    x = y = 0.0
    for point in range(len(points)):
        if points[point, 0] * h20 + points[point, 1] * h21 + h22 <= 0:
            return False
        x += points[point, 0] / len(points)
        y += points[point, 1] / len(points)
    depth = x * h20 + y * h21 + h22
    (a, b, u), (c, d, v) = transform[0], transform[1]
    u, v = (a * x + b * y + u) / depth, (c * x + d * y + v) / depth
    # The derivative [[a, b], [c, d]], and its singular values.
    a, b = (a - u * h20) / depth, (b - u * h21) / depth
    c, d = (c - v * h20) / depth, (d - v * h21) / depth
    rotation, reflection = math.hypot(a + d, c - b) / 2, math.hypot(a - d, c + b) / 2
    largest, smallest = rotation + reflection, rotation - reflection
    return smallest > 1 / max_zoom and largest < max_zoom and largest < max_anisotropy * smallest


@compiled
def minor_axis_std(points: NDArray[np.floating]) -> float:
    """The standard deviation of points (N, 2) along their minor axis, in their unit."""
    count = len(points)
    x = y = xx = xy = yy = 0.0
    for point in range(count):
        x += points[point, 0] / count
        y += points[point, 1] / count
    for point in range(count):
        dx, dy = points[point, 0] - x, points[point, 1] - y
        xx += dx * dx
        xy += dx * dy
        yy += dy * dy
    # The smaller eigenvalue of the scatter matrix.
    smallest = (xx + yy - math.hypot(xx - yy, 2 * xy)) / 2
    return math.sqrt(max(smallest, 0.0) / count)

"""The matches behind a hit that do not fit its geometric transform."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from delg.types import FloatArray, ImageFeatures
from index.settings import IndexSettings
from index.verification.correspondences import reference_unit
from index.verification.geometric import transform_points
from index.verification.matching import match_descriptors


def find_outliers(
    query: ImageFeatures,
    hit: ImageFeatures,
    transform: NDArray[np.float64] | None,
    settings: IndexSettings,
) -> tuple[FloatArray, FloatArray]:
    """Points of query and hit whose descriptors match, but whose positions do not.

    Args:
        query: features of the query, rotated as the transform says.
        hit: features of the hit.
        transform: (3, 3), from the query's pixels to the hit's; None: all matches are outliers.

    Returns:
        float32 (N, 2) each, (x, y), in the upright pixels of query and hit.
    """
    descriptors = query.local.descriptors, hit.local.descriptors
    matches = match_descriptors(*descriptors, settings.matching).pairs
    query_points = query.local.keypoints[matches[:, 0]]
    hit_points = hit.local.keypoints[matches[:, 1]]
    if transform is None or not len(matches):
        return query_points, hit_points
    spec = settings.verification
    reach = spec.threshold / reference_unit((hit.width, hit.height), spec)
    with np.errstate(all="ignore"):
        residuals = np.linalg.norm(transform_points(transform, query_points) - hit_points, axis=1)
    # Written so that a point mapped to infinity (NaN) is an outlier too.
    is_outlier = ~(residuals <= reach)
    return query_points[is_outlier], hit_points[is_outlier]

"""The matches behind a hit that do not agree with it: what geometry threw out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from delg.types import FloatArray, ImageFeatures
from index.settings import IndexSettings
from index.verification.geometric import transform_points
from index.verification.matching import match_descriptors


def outliers(
    query: ImageFeatures,
    other: ImageFeatures,
    transform: NDArray[np.float64] | None,
    settings: IndexSettings,
) -> tuple[FloatArray, FloatArray]:
    """Nearest descriptors of the query and a hit whose points do not fit the hit's transform.

    Args:
        query: features of the query, turned as the transform says.
        other: features of the hit.
        transform: (3, 3), from the query's pixels to the hit's; None: no match fits.

    Returns:
        float32 (N, 2) each, (x, y), in the upright pixels of query and hit.
    """
    matches = match_descriptors(query.local.descriptors, other.local.descriptors, settings.matching)
    ends = query.local.keypoints[matches[:, 0]], other.local.keypoints[matches[:, 1]]
    if transform is None or not len(matches):
        return ends
    spec = settings.verification
    unit = (
        1.0 if spec.reference_side is None else max(other.width, other.height) / spec.reference_side
    )
    with np.errstate(all="ignore"):
        miss = np.linalg.norm(transform_points(transform, ends[0]) - ends[1], axis=1)
    # A point that goes to infinity fits nothing.
    wrong = ~(miss <= spec.threshold * unit)
    return ends[0][wrong], ends[1][wrong]

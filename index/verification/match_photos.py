"""Match two photos as a query would: as it is, then rotated, then by a second look."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from delg.extraction.extractor import Extractor
from delg.types import ImageFeatures
from index.settings import IndexSettings
from index.verification.calibration import DEFAULT_CALIBRATION, Calibration
from index.verification.matchable import MatchableFeatures
from index.verification.pair import PairResult, similarity_of, verify_features
from index.verification.reverify import QueryPhoto, reverify_warped


def match_photos(
    extractor: Extractor,
    pixels: NDArray[np.uint8],
    other: ImageFeatures,
    settings: IndexSettings,
    calibration: Calibration = DEFAULT_CALIBRATION,
) -> PairResult:
    """Match and verify a photo against another one, in any of four orientations.

    Args:
        extractor: of the model that made ``other``.
        pixels: uint8 (H, W, 3), RGB, upright: the query.
        other: features of the other photo.
        calibration: of the model.

    Returns:
        The first orientation that is verified, else the more probable of the best orientation and
        of a second look at it.
    """
    photo, results = QueryPhoto(extractor, pixels), []
    for rotations in range(4):
        query = photo.extract(rotations)
        result = PairResult(verify_features(query, other, settings, calibration), query)
        if result.verification.verified:
            return result
        results.append(result)
    best = max(results, key=lambda result: result.verification.log_odds)
    transform, inliers = best.verification.transform, best.verification.inliers
    if transform is None or inliers < settings.reverification.from_inliers:
        return best
    similarity = similarity_of(best.query, other)
    again = reverify_warped(
        photo, MatchableFeatures.of(other), transform, similarity, settings, calibration
    )
    if again.verification.log_odds <= best.verification.log_odds:
        return best
    global_descriptor = best.query.global_descriptor
    return replace(again, query=replace(again.query, global_descriptor=global_descriptor))

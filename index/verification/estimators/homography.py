"""A homography by OpenCV's USAC with MAGSAC++ scores (Baráth et al., arXiv 1912.05909)."""

from __future__ import annotations

import cv2
import numpy as np

from index.settings import VerificationSettings
from index.verification.correspondences import PointMatches
from index.verification.estimators.base import CONFIDENCE, required_trials
from index.verification.ransac import RansacResult

_TINY = 1e-9


class HomographyEstimator:
    """See :class:`index.verification.estimators.base.Estimator`."""

    sample_size, max_trials = 4, 10_000

    def estimate(
        self, matches: PointMatches, settings: VerificationSettings
    ) -> RansacResult | None:
        """The homography, its last number 1."""
        count = len(matches.query)
        transform, inliers = cv2.findHomography(
            matches.query,
            matches.other,
            cv2.USAC_MAGSAC,
            settings.threshold,
            maxIters=required_trials(count, self.sample_size, self.max_trials, settings),
            confidence=CONFIDENCE,
        )
        if transform is None or not np.isfinite(transform).all() or abs(transform[2, 2]) < _TINY:
            return None
        return RansacResult(
            np.asarray(transform / transform[2, 2], np.float64), np.asarray(inliers).ravel() > 0
        )

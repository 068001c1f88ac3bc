"""scikit-image's affine RANSAC: the reference implementation's setting (arXiv 1612.06321)."""

from __future__ import annotations

import warnings

import numpy as np

from index.settings import VerificationSettings
from index.verification.correspondences import PointMatches
from index.verification.ransac import RansacResult


class SkimageAffineEstimator:
    """See :class:`index.verification.estimators.base.Estimator`."""

    sample_size, max_trials = 3, 1000

    def estimate(
        self, matches: PointMatches, settings: VerificationSettings
    ) -> RansacResult | None:
        """The affine transform of the most inliers; residuals count in the query."""
        from skimage.measure import ransac
        from skimage.transform import AffineTransform

        with warnings.catch_warnings():
            # It warns if there is no consensus, which is an ordinary result here.
            warnings.simplefilter("ignore")
            model, inliers = ransac(  # type: ignore[no-untyped-call,unused-ignore]
                # From the other photo to the query, as the reference implementation does.
                (matches.other.astype(np.float64), matches.query.astype(np.float64)),
                AffineTransform,
                min_samples=self.sample_size,
                residual_threshold=settings.threshold,
                max_trials=settings.max_trials or self.max_trials,
                rng=np.random.default_rng(settings.seed),
            )
        if model is None or inliers is None or not np.isfinite(model.params).all():
            return None
        if np.linalg.cond(model.params) > 1 / np.finfo(np.float64).eps:
            return None
        inverse = np.linalg.inv(model.params)
        return RansacResult(np.asarray(inverse, np.float64), np.asarray(inliers, bool))

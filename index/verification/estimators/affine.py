"""The default: an affine transform by locally optimised RANSAC (:mod:`index.verification.ransac`).

DELG re-ranks by affine transforms (arXiv 2001.05027), as DELF did (arXiv 1612.06321): a plane seen
from elsewhere is nearly affine in each of its parts, and three matches fix the transform.
"""

from __future__ import annotations

import math

from index.settings import VerificationSettings
from index.verification.correspondences import PointMatches
from index.verification.estimators.base import required_trials
from index.verification.ransac import (
    RansacParams,
    RansacResult,
    estimate_affine_ransac,
)

# A pair of inliers is drawn much sooner than a triple.
_TRIPLES_PER_PAIR = 4


class AffineEstimator:
    """See :class:`index.verification.estimators.base.Estimator`."""

    sample_size, max_trials = 3, 4000

    def estimate(
        self, matches: PointMatches, settings: VerificationSettings
    ) -> RansacResult | None:
        """The affine transform of the lowest MSAC cost."""
        return estimate_affine_ransac(
            matches, settings.threshold, self._params(len(matches.query), settings)
        )

    def _params(self, count: int, settings: VerificationSettings) -> RansacParams:
        max_triples = settings.max_trials or self.max_trials
        pairs = required_trials(count, 2, self.max_trials, settings)
        return RansacParams(
            pairs=min(pairs, max(1, max_triples // _TRIPLES_PER_PAIR)),
            triples=required_trials(count, self.sample_size, self.max_trials, settings),
            max_zoom=settings.max_zoom if settings.check_plausibility else math.inf,
            allow_mirror=not settings.check_plausibility,
            seed=settings.seed,
        )

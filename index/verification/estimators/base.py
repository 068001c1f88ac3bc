"""What a robust estimator of a transform looks like, and how many samples it needs."""

from __future__ import annotations

import math
from typing import Protocol

from index.settings import VerificationSettings
from index.verification.correspondences import PointMatches
from index.verification.ransac import RansacResult

CONFIDENCE = 0.99
_MIN_TRIALS = 50


class Estimator(Protocol):
    """Finds the transform that the most matches support, the same one every time."""

    # Matches that fix a transform.
    sample_size: int
    # Samples at most, where the settings name no number.
    max_trials: int

    def estimate(
        self, matches: PointMatches, settings: VerificationSettings
    ) -> RansacResult | None:
        """Estimate the transform from the query to the other photo.

        Args:
            matches: more than ``sample_size``, in the unit of ``settings.threshold``.

        Returns:
            A finite transform and its inliers; None if there is none.
        """


def required_trials(
    matches: int, sample_size: int, max_trials: int, settings: VerificationSettings
) -> int:
    """Samples after which ``sought_inliers`` among so many matches would hardly have been missed.

    Few matches need few samples, so that most pairs that show different things end early.

    Args:
        matches: their number.
        sample_size: matches in a sample.
        max_trials: the most samples, where the settings name no number.

    Returns:
        The number that draws a sample of inliers only with a probability of ``CONFIDENCE``,
        within 50 and the maximum.
    """
    limit = settings.max_trials or max_trials
    rate = min(1.0, settings.sought_inliers / max(matches, 1)) ** sample_size
    needed = math.log(1 - CONFIDENCE) / math.log1p(-min(rate, 0.999))
    return int(min(max(needed, _MIN_TRIALS), limit))

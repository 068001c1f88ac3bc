"""Scoring: one number out of global similarity and geometric evidence.

    score = similarity + (1 − similarity) · n / (n + u)      not verified, u = ``soft_half_point``
    score = 1 + similarity + n / (n + h)                     verified, h = ``inlier_half_point``

with n inliers; fewer than ``min_soft_inliers`` inliers of an unverified photo count for nothing. As
similarity is at most 1, a verified photo comes before every unverified one; more inliers score
higher, with less gained from each; and where verification finds nothing the global order stays. No
part depends on the other candidates, so scores are comparable across queries: a score above 1 means
geometric proof.

With ``order: inliers``, as the reference implementation ranks, it is inliers + (1 + similarity) /
2.001, verified or not.
"""

from __future__ import annotations

from index.results import Verification
from index.settings import RankingSettings


def score(similarity: float, verification: Verification, settings: RankingSettings) -> float:
    """How surely a photo shows the same thing as the query; higher is surer.

    Args:
        similarity: inner product of the global descriptors, −1 to 1.
        verification: of the pair.
        settings: the weight of inliers.

    Returns:
        At most 1 for unverified photos, more than 1 and less than 3 for verified ones; with
        ``order: inliers`` any number that is not negative.
    """
    inliers = verification.inliers
    if settings.order == "inliers":
        return inliers + (1 + min(max(similarity, -1.0), 1.0)) / 2.001
    if verification.verified:
        # A negative similarity must not put a verified photo below an unverified one.
        return 1 + max(similarity, 0.0) + inliers / (inliers + settings.inlier_half_point)
    if inliers < settings.min_soft_inliers:
        return similarity
    return similarity + (1 - similarity) * inliers / (inliers + settings.soft_half_point)

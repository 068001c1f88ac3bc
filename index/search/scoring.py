"""Ranking: one score out of global similarity and geometric evidence.

    score = similarity + (1 - similarity) · n / (n + u)      not verified, u = ``soft_half_point``
    score = 1 + similarity + n / (n + h)                     verified, h = ``inlier_half_point``

with n inliers; of unverified photos fewer than ``min_soft_inliers`` count for nothing. Similarity
is at most 1, so a verified photo stands before every unverified one; more inliers weigh more, with
less gained from each further one; and where verification says nothing the global order stays. As
no part depends on the other candidates, scores compare across queries: from 1 up, a query is found
with geometric proof.

With ``order: inliers``, as published, it is inliers + (1 + similarity) / 2.001, verified or not.
"""

from __future__ import annotations

from index.results import Verification
from index.settings import RankingSettings


def score(similarity: float, verification: Verification, settings: RankingSettings) -> float:
    """How surely a photo shows the same thing as the query; higher is surer.

    Args:
        similarity: inner product of the global descriptors, −1 to 1.
        verification: what geometry says.
        settings: the weight of inliers.

    Returns:
        At most 1 for unverified photos, 0 to 3 for verified ones; with ``order: inliers`` any
        number that is not negative.
    """
    if settings.order == "inliers":
        return verification.inliers + (1 + min(max(similarity, -1.0), 1.0)) / 2.001
    inliers = verification.inliers
    if not verification.verified:
        if inliers < settings.min_soft_inliers:
            return similarity
        return similarity + (1 - similarity) * inliers / (inliers + settings.soft_half_point)
    evidence = inliers / (inliers + settings.inlier_half_point)
    # A verified photo with a negative similarity still belongs above every unverified one.
    return 1 + max(similarity, 0.0) + evidence

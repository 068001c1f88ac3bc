"""Scoring: one number that orders the hits of a query.

It is the log-odds that photo and query show the same thing, from the evidence of the verification
and the similarity of the global descriptors (:mod:`index.verification.calibration`). Without
evidence it rises with the similarity alone, so the global order changes only where evidence says
so. No part depends on the other candidates, so scores are comparable across queries.

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
        settings: what orders.

    Returns:
        Log-odds; with ``order: inliers`` a number that is not negative.
    """
    if settings.order == "inliers":
        return verification.inliers + (1 + min(max(similarity, -1.0), 1.0)) / 2.001
    return verification.log_odds

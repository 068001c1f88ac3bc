"""Match the features of two photos and verify the matches."""

from __future__ import annotations

from dataclasses import dataclass

from delg.types import ImageFeatures
from index.results import Verification
from index.settings import IndexSettings, VerificationSettings
from index.verification.correspondences import Correspondences
from index.verification.geometric import verify
from index.verification.matchable import MatchableFeatures
from index.verification.matching import match_descriptors, one_blas_thread


@dataclass(frozen=True, eq=False)
class PairResult:
    """A verification, and the features of the query that its matches index."""

    verification: Verification
    query: ImageFeatures


def verify_features(
    query: ImageFeatures,
    other: ImageFeatures,
    settings: IndexSettings,
    verification: VerificationSettings | None = None,
) -> Verification:
    """Match and verify two photos by their features as extracted; see :func:`verify_pair`."""
    with one_blas_thread():
        return verify_pair(
            MatchableFeatures.of(query), MatchableFeatures.of(other), settings, verification
        )


def verify_pair(
    query: MatchableFeatures,
    other: MatchableFeatures,
    settings: IndexSettings,
    verification: VerificationSettings | None = None,
) -> Verification:
    """Match and verify two photos.

    Products of float32 descriptors use as many threads as BLAS may; callers that verify pairs in
    parallel limit it (:func:`index.verification.matching.one_blas_thread`).

    Args:
        query, other: in the space of one codebook (:meth:`MatchableQuery.in_codebook_of`).
        verification: in place of ``settings.verification``.

    Returns:
        The transform from the query's pixels to the other photo's, and its inliers.
    """
    correspondences = Correspondences(
        query.keypoints,
        other.keypoints,
        match_descriptors(query.descriptors, other.descriptors, settings.matching),
        query.size,
        other.size,
        (query.scales, other.scales),
    )
    return verify(correspondences, verification or settings.verification)

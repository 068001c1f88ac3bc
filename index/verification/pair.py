"""Match the features of two photos and verify the matches."""

from __future__ import annotations

import math
from dataclasses import dataclass

from delg.types import ImageFeatures
from index.results import Verification
from index.settings import IndexSettings
from index.verification.calibration import DEFAULT_CALIBRATION, Calibration
from index.verification.correspondences import Correspondences
from index.verification.geometric import GeometricMatch, estimate_transform
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
    calibration: Calibration = DEFAULT_CALIBRATION,
) -> Verification:
    """Match and verify two photos by their features as extracted; see :func:`verify_pair`."""
    with one_blas_thread():
        return verify_pair(
            MatchableFeatures.of(query),
            MatchableFeatures.of(other),
            similarity_of(query, other),
            settings,
            calibration,
        )


def similarity_of(query: ImageFeatures, other: ImageFeatures) -> float:
    """The inner product of two photos' global descriptors; NaN if one has none."""
    if not len(query.global_descriptor) or not len(other.global_descriptor):
        return math.nan
    return float(query.global_descriptor @ other.global_descriptor)


def verify_pair(
    query: MatchableFeatures,
    other: MatchableFeatures,
    similarity: float,
    settings: IndexSettings,
    calibration: Calibration = DEFAULT_CALIBRATION,
) -> Verification:
    """Match and verify two photos.

    Products of float32 descriptors use as many threads as BLAS may; callers that verify pairs in
    parallel limit it (:func:`index.verification.matching.one_blas_thread`).

    Args:
        query, other: in the space of one codebook (:meth:`MatchableQuery.in_codebook_of`).
        similarity: of their global descriptors; NaN if there are none.
        calibration: of the model that made the features.

    Returns:
        The transform from the query's pixels to the other photo's, its inliers, and how probable
        they make it that both photos show the same thing.
    """
    match = match_pair(query, other, settings, calibration.min_inliers)
    return calibration.verify(similarity, match, settings.verification.min_probability)


def match_pair(
    query: MatchableFeatures, other: MatchableFeatures, settings: IndexSettings, evidence_from: int
) -> GeometricMatch | None:
    """The transform on which two photos' features agree, and the evidence for it; see
    :func:`verify_pair` and :func:`index.verification.geometric.estimate_transform`."""
    correspondences = Correspondences(
        query.keypoints,
        other.keypoints,
        *match_descriptors(query.descriptors, other.descriptors, settings.matching),
        query.size,
        other.size,
        other.descriptors,
        (query.scales, other.scales),
    )
    return estimate_transform(correspondences, settings.verification, evidence_from)

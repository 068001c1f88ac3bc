"""Geometric verification of the candidates of one query, and the second look at the best."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from delg.types import ImageFeatures
from index.results import Verification
from index.search.candidates import Candidate, ImageKey, Match, sort_by_score
from index.storage.store import Store
from index.verification.calibration import Calibration
from index.verification.matchable import MatchableFeatures, MatchableQuery
from index.verification.matching import one_blas_thread
from index.verification.pair import verify_pair
from index.verification.reverify import QueryPhoto, reverify_warped


class Reranker:
    """Verifies candidates of one query, each of them once.

    Args:
        stores: of the candidates, all of one model; the first one's settings are used.
        photo: the query; None for features made elsewhere, which get no second look.
        calibration: of that model.
    """

    def __init__(
        self, stores: Sequence[Store], photo: QueryPhoto | None, calibration: Calibration
    ) -> None:
        self._stores, self._photo, self._calibration = stores, photo, calibration
        self._settings = stores[0].settings
        # By quarter turns of the query, and image.
        self._matches: dict[tuple[int, ImageKey], Match] = {}
        self._second_matches: dict[tuple[int, ImageKey], Match] = {}

    def verify(
        self, features: ImageFeatures, rotations: int, similarities: Mapping[ImageKey, float]
    ) -> dict[ImageKey, Match]:
        """Match and verify images, in parallel.

        Args:
            features: of the query after that many quarter turns (``rotations``).
            similarities: of the images' global descriptors to the query's.
        """
        query = MatchableQuery(features)
        remaining = [image for image in similarities if (rotations, image) not in self._matches]

        def verify(image: ImageKey) -> Match:
            other = self._matchable(image)
            verification = verify_pair(
                query.in_codebook_of(other),
                other,
                similarities[image],
                self._settings,
                self._calibration,
            )
            return _match(verification, features, other)

        with one_blas_thread(), ThreadPoolExecutor(os.cpu_count()) as threads:
            for image, match in zip(remaining, threads.map(verify, remaining), strict=True):
                self._matches[rotations, image] = match
        return {image: self._matches[rotations, image] for image in similarities}

    def reverify(
        self, ranked: Sequence[Candidate], candidates: Iterable[Candidate]
    ) -> list[Candidate]:
        """Rank again after a second look at those with the most inliers.

        Args:
            ranked: the ranking so far.
            candidates: of all rotations; those with too few inliers are passed over.
        """
        if self._photo is None:
            return list(ranked)
        by_image = {candidate.image: candidate for candidate in ranked}
        for candidate in self._promising(candidates):
            match = self._second_look(candidate, self._photo)
            if match.verification.verified:
                by_image[candidate.image] = Candidate.scored(
                    candidate.image,
                    candidate.similarity,
                    match,
                    candidate.rotations,
                    self._settings.ranking,
                )
        return sort_by_score(by_image.values())

    def _promising(self, candidates: Iterable[Candidate]) -> list[Candidate]:
        """The candidates that deserve a second look, each image in its best rotation."""
        spec = self._settings.reverification
        best: dict[ImageKey, Candidate] = {}
        for candidate in candidates:
            known = best.get(candidate.image)
            if candidate.inliers >= spec.from_inliers and (
                known is None or candidate.inliers > known.inliers
            ):
                best[candidate.image] = candidate
        ordered = sorted(best.values(), key=lambda candidate: (-candidate.inliers, candidate.image))
        return ordered[: spec.candidates]

    def _second_look(self, candidate: Candidate, photo: QueryPhoto) -> Match:
        key = candidate.rotations, candidate.image
        transform = candidate.match.verification.transform
        if key not in self._second_matches and transform is not None:
            other = self._matchable(candidate.image)
            result = reverify_warped(
                photo, other, transform, candidate.similarity, self._settings, self._calibration
            )
            self._second_matches[key] = _match(result.verification, result.query, other)
        return self._second_matches.get(key, Match.none())

    def _matchable(self, image: ImageKey) -> MatchableFeatures:
        return self._stores[image.store].matchable(image.row)


def _match(verification: Verification, query: ImageFeatures, other: MatchableFeatures) -> Match:
    matches = verification.matches
    return Match(verification, query.local.keypoints[matches[:, 0]], other.keypoints[matches[:, 1]])

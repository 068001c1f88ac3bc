"""Geometric verification of the candidates of one query, and the second look at the best."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from delg.types import Box, ImageFeatures
from index.search.candidates import Candidate, ImageKey, Match, sort_by_score
from index.search.requests import VerifyRequest
from index.search.scatter import Scatter, by_shard
from index.verification.calibration import Calibration
from index.verification.matchable import MatchableQuery
from index.verification.matching import one_blas_thread
from index.verification.reverify import QueryPhoto, extract_warped, is_enough

_WHOLE: Mapping[ImageKey, Box] = {}


class Reranker:
    """Verifies candidates of one query, each of them once, where their features lie.

    Args:
        shards: of the candidates.
        photo: the query; None for features made elsewhere, which get no second look.
        calibration: of the model.
    """

    def __init__(self, shards: Scatter, photo: QueryPhoto | None, calibration: Calibration) -> None:
        self._shards, self._photo, self._calibration = shards, photo, calibration
        self._settings = shards.context.settings
        # By quarter turns of the query.
        self._queries: dict[int, MatchableQuery] = {}
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
        query = self._queries.setdefault(rotations, MatchableQuery(features))
        remaining = {
            image: similarity
            for image, similarity in similarities.items()
            if (rotations, image) not in self._matches
        }
        for image, match in self._verify(query, remaining, self._calibration).items():
            self._matches[rotations, image] = match
        return {image: self._matches[rotations, image] for image in similarities}

    def _verify(
        self,
        query: MatchableQuery,
        similarities: Mapping[ImageKey, float],
        calibration: Calibration,
        parts: Mapping[ImageKey, Box] = _WHOLE,
    ) -> dict[ImageKey, Match]:
        """Each image, or the stored part of it that is named, at its shard."""
        images = list(similarities)
        requests = {
            number: VerifyRequest(
                query,
                {images[place].row: similarities[images[place]] for place in inside},
                self._settings,
                calibration,
                {image.row: part for image, part in parts.items() if image.store == number},
            )
            for number, inside in by_shard(images).items()
        }
        # Around all shards of this process: each of them would give back another's limit.
        with one_blas_thread():
            answers = self._shards.ask(requests)
        return {image: answers[image.store][image.row] for image in images}

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
            known = by_image.get(candidate.image, candidate).match.verification
            if match.verification.log_odds > known.log_odds:
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
        if key not in self._second_matches:
            self._second_matches[key] = self._verify_warped(candidate, photo)
        return self._second_matches[key]

    def _verify_warped(self, candidate: Candidate, photo: QueryPhoto) -> Match:
        """The match with the query warped into the candidate's pose; see
        :mod:`index.verification.reverify`."""
        transform, size = _transform_into_part(candidate.match)
        if transform is None:
            return Match.none()
        query = extract_warped(photo, size, transform)
        if query is None:
            return Match.none()
        similarities = {candidate.image: candidate.similarity}
        region, again = candidate.match.region, self._calibration.of_second_look
        parts = {} if region is None else {candidate.image: region}
        match = self._verify(MatchableQuery(query), similarities, again, parts)[candidate.image]
        return match if is_enough(match.verification.inliers, self._settings) else Match.none()


def _transform_into_part(match: Match) -> tuple[NDArray[np.float64] | None, tuple[int, int]]:
    """The transform from the query into the part that was compared, and the size of that part."""
    transform = match.verification.transform
    if transform is None or match.region is None:
        return transform, match.size
    x, y, width, height = match.region
    shift = np.array([[1, 0, -x], [0, 1, -y], [0, 0, 1]])
    return shift @ transform, (round(width), round(height))

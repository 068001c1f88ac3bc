"""Candidates: the photos whose global descriptors are most similar to the query's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from delg.types import FloatArray
from index.results import Verification
from index.search.scoring import score
from index.selection import Selection
from index.settings import RankingSettings
from index.storage.store import Store


class ImageKey(NamedTuple):
    """An image among several indexes: the number of its store, and its row there."""

    store: int
    row: int


@dataclass(frozen=True, eq=False)
class Match:
    """A verification, and the points that agree: float32 (inliers, 2), (x, y), in the pixels of
    the query and of the candidate."""

    verification: Verification
    query_points: FloatArray
    points: FloatArray

    @classmethod
    def none(cls, log_odds: float = -math.inf) -> Match:
        """No points that agree.

        Args:
            log_odds: by the similarity alone.
        """
        return cls(Verification.none(log_odds), _NO_POINTS, _NO_POINTS)


_NO_POINTS = np.zeros((0, 2), np.float32)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A photo on the shortlist.

    Attributes:
        similarity: inner product of the global descriptors.
        score: see :mod:`index.search.scoring`.
        rotations: quarter turns counter-clockwise of the query that found it.
    """

    image: ImageKey
    similarity: float
    score: float
    match: Match
    rotations: int

    @classmethod
    def scored(
        cls,
        image: ImageKey,
        similarity: float,
        match: Match,
        rotations: int,
        settings: RankingSettings,
    ) -> Candidate:
        """A candidate with its score."""
        value = score(similarity, match.verification, settings)
        return cls(image, similarity, value, match, rotations)

    @property
    def inliers(self) -> int:
        """Matches that agree with one transform."""
        return self.match.verification.inliers

    @property
    def probability(self) -> float:
        """That query and image show the same thing."""
        return self.match.verification.probability

    @property
    def verified(self) -> bool:
        """Whether it is probable enough that both show the same thing."""
        return self.match.verification.verified


def shortlist(
    stores: Sequence[Store], descriptor: FloatArray, count: int, selection: Selection
) -> dict[ImageKey, float]:
    """The images most similar to the query, with their similarities, the most similar first.

    Args:
        stores: all of one model.
        descriptor: float32 (D,), the query's global descriptor, unit length.
        count: images at most, over all stores.
        selection: of the images.
    """
    similarities = [
        (ImageKey(number, int(row)), float(similarity))
        for number, store in enumerate(stores)
        for row, similarity in zip(*store.nearest(descriptor, count, selection), strict=True)
    ]
    if len(stores) > 1:
        similarities.sort(key=lambda item: (-item[1], item[0]))
    return dict(similarities[:count])


def sort_by_score(candidates: Iterable[Candidate]) -> list[Candidate]:
    """The highest score first; of equal scores the image that was added first."""
    return sorted(candidates, key=lambda candidate: (-candidate.score, candidate.image))


def any_verified(candidates: Iterable[Candidate]) -> bool:
    """Whether at least one is verified."""
    return any(candidate.verified for candidate in candidates)

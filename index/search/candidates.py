"""Candidates: the photos whose global descriptors are most similar to the query's."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from delg.types import Box, FloatArray
from index.results import Verification
from index.search.scoring import score
from index.settings import RankingSettings


class ImageKey(NamedTuple):
    """An image among several shards: its row number, and the number of its shard.

    Rows of one sharded index are unique in all its shards and count in the order of addition, so
    that of equal images the same one comes first as in one big index.
    """

    row: int
    store: int


@dataclass(frozen=True, eq=False)
class Match:
    """A verification, and the points that agree: float32 (inliers, 2), (x, y), in the pixels of
    the query and of the candidate, whose width and height is ``size``.

    ``region`` is the stored part of the candidate that was compared, (x, y, width, height) in its
    pixels; None: all of it was.
    """

    verification: Verification
    query_points: FloatArray
    points: FloatArray
    size: tuple[int, int] = (0, 0)
    region: Box | None = None

    @classmethod
    def none(cls, log_odds: float = -math.inf) -> Match:
        """No points that agree.

        Args:
            log_odds: by the similarity alone.
        """
        return cls(Verification.none(log_odds), _NO_POINTS, _NO_POINTS)


def place_in_image(part: Match, box: Box, size: tuple[int, int]) -> Match:
    """A match with a part of an image, with points and transform in pixels of the image.

    Args:
        part: in pixels of the part.
        box: the part, (x, y, width, height) in pixels of the image.
        size: width and height of the image.
    """
    origin, verification = np.array(box[:2]), part.verification
    if verification.transform is not None:
        shift = np.eye(3)
        shift[:2, 2] = origin
        verification = replace(verification, transform=shift @ verification.transform)
    points = part.points + origin.astype(np.float32)
    return Match(verification, part.query_points, points, size, box)


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


def sort_by_score(candidates: Iterable[Candidate]) -> list[Candidate]:
    """The highest score first; of equal scores the image that was added first."""
    return sorted(candidates, key=lambda candidate: (-candidate.score, candidate.image))


def any_verified(candidates: Iterable[Candidate]) -> bool:
    """Whether at least one is verified."""
    return any(candidate.verified for candidate in candidates)

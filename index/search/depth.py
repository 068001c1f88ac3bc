"""Depth: how many of the candidates are verified.

Verification takes its candidates in portions. Once a photo is proven beyond doubt, those that are
nearest to the proven photos come first, and verification ends with the first portion that proves
nothing more (``ranking.patience``). Where nothing at all is proven it goes on to candidates further
down, twice as many at a time (``ranking.deepen``, ``ranking.seconds``).

Ending early can leave a right photo unverified that is near neither to the query nor to any proven
photo; it still ranks by its similarity and its neighbours. The first hit can change only if a
photo passed over is surer than one that is beyond doubt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from index.search.candidates import ImageKey, Match
from index.search.scatter import Scatter
from index.settings import RankingSettings

# Log-odds beyond doubt: a probability of .9.
_SURE = 2.2
# Candidates at most where only time limits them.
_MAX_DEPTH = 10_000

Verify = Callable[[Mapping[ImageKey, float]], Mapping[ImageKey, Match]]


def verify_until_settled(
    verify: Verify, shards: Scatter, similarities: Mapping[ImageKey, float], patience: int
) -> dict[ImageKey, Match]:
    """Verify candidates until nothing more is to be expected.

    Args:
        verify: called with candidates and their similarities, gives their matches.
        shards: of the images.
        similarities: of the candidates to the query, the most promising candidate first.
        patience: candidates per portion; 0 verifies all of them.

    Returns:
        The matches of those that were verified.
    """
    matches: dict[ImageKey, Match] = {}
    remaining = list(similarities)
    while remaining:
        portion, remaining = _split(remaining, patience or len(remaining))
        found = verify({image: similarities[image] for image in portion})
        matches |= found
        if not any(match.verification.log_odds >= _SURE for match in _proofs(matches)):
            continue
        if not any(_proofs(found)):
            break
        proven = [image for image, match in matches.items() if match.verification.verified]
        remaining = _nearest_first(shards, proven, remaining)
    return matches


def further_depths(rerank: int, settings: RankingSettings) -> Iterator[int]:
    """Numbers of candidates to verify, one after the other, while nothing is proven.

    Args:
        rerank: candidates that have been verified.
        settings: the limits; that of time is for the caller to keep.
    """
    limit = settings.deepen if settings.seconds is None else _MAX_DEPTH
    depth = rerank
    while depth < limit:
        depth = min(2 * depth, limit)
        yield depth


def _split(images: list[ImageKey], size: int) -> tuple[list[ImageKey], list[ImageKey]]:
    return images[:size], images[size:]


def _proofs(matches: Mapping[ImageKey, Match]) -> list[Match]:
    return [match for match in matches.values() if match.verification.verified]


def _nearest_first(
    shards: Scatter, proven: list[ImageKey], images: list[ImageKey]
) -> list[ImageKey]:
    """Images by their similarity to the nearest of the proven ones."""
    if not images:
        return images
    descriptors = shards.read_descriptors([*images, *proven])
    others, references = descriptors[: len(images)], descriptors[len(images) :]
    nearness = (others @ references.T).max(axis=1)
    return [images[place] for place in (-nearness).argsort(kind="stable")]

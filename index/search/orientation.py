"""Orientation: which quarter turns of the query to search, and how their results are merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from delg.errors import UsageError
from index.search.candidates import Candidate, sort_by_score

# "1": the query as it is. "4": also rotated by 90°, 180° and 270°. "auto": rotated when nothing is
# likely as it is, or when the best match says that it lies on its side.
Orientations = Literal["auto", "1", "4", 1, 4]
_CHOICES: dict[str, Literal["auto", "1", "4"]] = {"auto": "auto", "1": "1", "4": "4"}
# A rotation leads the ranking if its best candidate has this many times the inliers of the best
# upright one.
_MIN_INLIER_RATIO = 1.5
# Log-odds by evidence, of a probability of .2, from which rotations are needless.
_LIKELY = -1.4


def parse_orientations(value: Orientations) -> Literal["auto", "1", "4"]:
    """The choice as text; numbers are accepted.

    Raises:
        UsageError: it is none of the choices.
    """
    chosen = _CHOICES.get(str(value))
    if chosen is None:
        raise UsageError(f"orientations={value!r}: must be one of {', '.join(_CHOICES)}")
    return chosen


def further_rotations(upright: Sequence[Candidate], orientations: Orientations) -> tuple[int, ...]:
    """The quarter turns to search after the query has been searched as it is.

    Args:
        upright: the candidates of the query as it is, best first.
    """
    if orientations == "1":
        return ()
    if orientations == "4" or not any(_is_likely(candidate) for candidate in upright):
        return (1, 2, 3)
    # Found although it lies on its side: upright it has more matches.
    best = max(upright, key=lambda candidate: candidate.probability)
    transform = best.match.verification.transform
    rotations = 0 if transform is None else quarter_rotations(transform)
    return (rotations,) if rotations else ()


def _is_likely(candidate: Candidate) -> bool:
    """Whether there is evidence, be it short of proof: a second look tells more than rotations."""
    return candidate.verified or candidate.match.verification.log_odds_by_evidence >= _LIKELY


def quarter_rotations(transform: NDArray[np.float64]) -> int:
    """Quarter turns counter-clockwise, 0 to 3, that bring the query nearest to the other photo's
    pose; ``transform`` (3, 3) maps the query's pixels to the other's."""
    (a, b), (c, d) = transform[:2, :2]
    clockwise = np.degrees(np.arctan2(c - b, a + d))
    return round(-float(clockwise) / 90) % 4


def merge_rotations(candidates: Mapping[int, Sequence[Candidate]]) -> list[Candidate]:
    """Merge the candidates of several rotations, best first each, by quarter turns.

    The rotation with the best candidate leads. Likely candidates of the others join it, each photo
    with its best score; what no rotation makes likely keeps the order of the leading one.
    """
    leader = _leading_rotation(candidates)
    merged = {candidate.image: candidate for candidate in candidates[leader]}
    for of_rotation in candidates.values():
        for candidate in of_rotation:
            known = merged.get(candidate.image)
            if _is_likely(candidate) and (known is None or candidate.score > known.score):
                merged[candidate.image] = candidate
    return sort_by_score(merged.values())


def _leading_rotation(candidates: Mapping[int, Sequence[Candidate]]) -> int:
    best = max(candidates, key=lambda rotations: (_best_score(candidates[rotations]), -rotations))
    # The query counts as upright, unless a rotation has a likely photo with clearly more inliers.
    inliers, upright = _most_inliers(candidates[best]), _most_inliers(candidates[0])
    is_likely = any(_is_likely(candidate) for candidate in candidates[best])
    return best if is_likely and inliers >= _MIN_INLIER_RATIO * upright else 0


def _best_score(candidates: Sequence[Candidate]) -> float:
    return candidates[0].score if candidates else float("-inf")


def _most_inliers(candidates: Sequence[Candidate]) -> int:
    return max((candidate.inliers for candidate in candidates), default=0)

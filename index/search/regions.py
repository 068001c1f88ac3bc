"""Regions: photos of small things, and of several.

What fills a tenth of a photo has too few features for proof, and few pixels in what the network
sees. So where nothing is proven by the whole photo, the boxes that stand out
(:mod:`delg.extraction.regions`) are searched for as photos of their own: cut out, enlarged and
extracted again (Detect-to-Retrieve, Teichmann et al., CVPR 2019, with proposals by attention). A
candidate that is likely, but not proven, says best where to look closer. And where something is
proven, the region that the answer explains is put aside, and what stands out of the rest is
searched for in the same way, until nothing more is proven.

Each answer has a region: the frame of the photo that answers, as the transform puts it into the
query, as far as the points that agree reach.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from delg.extraction.regions import (
    grow_box,
    overlap,
    overlap_share,
    propose_regions,
)
from delg.types import Box, ImageFeatures, LocalFeatures
from index.results import Region
from index.search.candidates import Candidate, ImageKey, any_verified, sort_by_score
from index.settings import RegionsSettings
from index.verification.geometric import transform_points

# Share of the smaller of two answers' boxes in the larger one from which both are one region.
_SAME = 0.4
# Share of a proposal that an answer may explain, and its overlap (intersection over union) with a
# box that was searched, at most.
_MAX_EXPLAINED, _MAX_SEARCHED = 0.3, 0.5
# Log-odds by evidence, of a probability of .1, from which an unproven candidate says where to look
# closer, and part of its sides by which that box grows on either side.
_LIKELY, _CLOSER_MARGIN = -2.2, 0.1
# Part of its sides by which the box of the points that agree may be exceeded by the frame.
_REACH = 0.5
# Pixels of the shorter side, and share of the photo's area, between which a region is searched.
_MIN_SIDE, _MAX_SHARE = 32, 0.7
# Proposals that are looked through, for each that is searched.
_PROPOSALS = 3


@dataclass(eq=False)
class RegionSearch:
    """Finds further answers in the regions of one query.

    Attributes:
        features: of the query, upright.
        settings: how many regions are searched.
        search: called with a box, gives the candidates of that part of the query, with points and
            transforms in pixels of the whole.
        given: boxes to search, in place of those that stand out.
        until: time, by the clock of ``time.perf_counter``, from which no further one is searched.
        searched: boxes that were searched, in order.
    """

    features: ImageFeatures
    settings: RegionsSettings
    search: Callable[[Box], Sequence[Candidate]]
    given: Sequence[Box] | None = None
    until: float = math.inf
    searched: list[Box] = field(default_factory=list)

    @property
    def _size(self) -> tuple[int, int]:
        return self.features.width, self.features.height

    def extend(self, ranked: Sequence[Candidate]) -> list[Candidate]:
        """The candidates together with those verified in a region only, best first.

        Args:
            ranked: candidates of the whole photo, best first.
        """
        by_image = {candidate.image: candidate for candidate in ranked}
        remaining = self._limit(by_image.values())
        latest: Sequence[Candidate] = ranked
        while remaining > 0 and time.perf_counter() < self.until:
            # Where nothing is proven, what is likely says where to look before attention does.
            closer = None if any_verified(latest) else self._closer(latest)
            box = closer or next(iter(self._proposals(by_image.values())), None)
            if box is None:
                break
            self.searched.append(box)
            remaining -= closer is None
            latest = self.search(box)
            if _take_verified(latest, by_image):
                remaining = max(remaining, self.settings.further)
        return sort_by_score(by_image.values())

    def _closer(self, candidates: Sequence[Candidate]) -> Box | None:
        """The box that the likeliest candidate explains, if it is worth a search of its own."""
        best = max(candidates, key=_log_odds_by_evidence, default=None)
        if best is None or _log_odds_by_evidence(best) < _LIKELY:
            return None
        box = grow_box(explained_box(best, self._size), _CLOSER_MARGIN, self._size)
        return box if self._is_worthwhile(box, ()) else None

    def _limit(self, candidates: Iterable[Candidate]) -> int:
        if self.given is not None:
            return len(self.given)
        is_answered = any(candidate.verified for candidate in candidates)
        return self.settings.further if is_answered else self.settings.searches

    def unexplained(self, candidates: Iterable[Candidate]) -> list[Box]:
        """Boxes for which nothing is verified: those given, or some that stand out."""
        boxes = self._proposals(candidates)
        return boxes if self.given is not None else boxes[: self.settings.searches]

    def _proposals(self, candidates: Iterable[Candidate]) -> list[Box]:
        """What to search of the part of the query that no verified candidate explains, best first:
        boxes that were not searched."""
        explained = [explained_box(c, self._size) for c in candidates if c.verified]
        if self.given is not None:
            boxes = [grow_box(box, 0.0, self._size) for box in self.given]
            return [box for box in boxes if self._is_new(box, explained)]
        left = _outside(self.features.local, explained)
        count = _PROPOSALS * (self.settings.searches + len(self.searched))
        boxes = [proposal.box for proposal in propose_regions(left, self._size, count)]
        return [box for box in boxes if self._is_worthwhile(box, explained)]

    def _is_worthwhile(self, box: Box, explained: Sequence[Box]) -> bool:
        width, height = self._size
        return (
            min(box[2:]) >= _MIN_SIDE
            and box[2] * box[3] <= _MAX_SHARE * width * height
            and self._is_new(box, explained)
        )

    def _is_new(self, box: Box, explained: Sequence[Box]) -> bool:
        return (
            min(box[2:]) >= 1
            and all(overlap_share(box, other) <= _MAX_EXPLAINED for other in explained)
            and all(overlap(box, other) <= _MAX_SEARCHED for other in self.searched)
        )


def _log_odds_by_evidence(candidate: Candidate) -> float:
    return candidate.match.verification.log_odds_by_evidence


def _take_verified(candidates: Iterable[Candidate], by_image: dict[ImageKey, Candidate]) -> bool:
    """Put verified candidates in, where they are surer than what is known of their images.

    Returns:
        Whether there is an image that was not verified before.
    """
    is_new = False
    for candidate in candidates:
        known = by_image.get(candidate.image)
        if not candidate.verified:
            continue
        is_new |= known is None or not known.verified
        if known is None or candidate.score > known.score:
            by_image[candidate.image] = candidate
    return is_new


def group_by_region(candidates: Iterable[Candidate], size: tuple[int, int]) -> list[Region]:
    """The verified candidates by the region of the query that they explain.

    Args:
        candidates: of the first rank, the second, and so on.
        size: (width, height) of the query, pixels.

    Returns:
        The regions, by their best candidate; the box is that candidate's.
    """
    regions: list[Region] = []
    for rank, candidate in enumerate(candidates, 1):
        if not candidate.verified:
            continue
        box = explained_box(candidate, size)
        places = [n for n, region in enumerate(regions) if _is_same(region.box, box)]
        if places:
            region = regions[places[0]]
            regions[places[0]] = replace(region, ranks=(*region.ranks, rank))
        else:
            regions.append(Region(box, (rank,)))
    return regions


def _is_same(box: Box, other: Box) -> bool:
    return max(overlap_share(box, other), overlap_share(other, box)) >= _SAME


def explained_box(candidate: Candidate, size: tuple[int, int]) -> Box:
    """The part of the query that a verified candidate explains, (x, y, width, height) in pixels.

    It is the box around the candidate's frame, mapped into the query. Where no points agree a
    transform is a guess, so the box reaches no further than half the extent of the points beyond
    them, and never out of the photo.

    Args:
        size: (width, height) of the query, pixels.
    """
    points = candidate.match.query_points.astype(np.float64)
    low, high = points.min(axis=0), points.max(axis=0)
    reach = _REACH * (high - low)
    corners = _mapped_frame(candidate)
    if corners is not None:
        frame_low, frame_high = corners.min(axis=0), corners.max(axis=0)
        low, high = (
            np.minimum(low, np.maximum(frame_low, low - reach)),
            np.maximum(high, np.minimum(frame_high, high + reach)),
        )
    x, y, right, bottom = map(float, (*low, *high))
    return grow_box((x, y, right - x, bottom - y), 0.0, size)


def _mapped_frame(candidate: Candidate) -> np.ndarray | None:
    """The corners (4, 2) of the candidate's photo in the query; None where they lie beyond the
    horizon."""
    transform = candidate.match.verification.transform
    if transform is None or not all(candidate.match.size):
        return None
    width, height = candidate.match.size
    frame = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
    inverse = np.asarray(np.linalg.inv(transform), np.float64)
    depths = np.c_[frame, np.ones(4)] @ inverse[2]
    return transform_points(inverse, frame) if (depths * inverse[2, 2] > 0).all() else None


def _outside(features: LocalFeatures, boxes: Sequence[Box]) -> LocalFeatures:
    """The features that lie in none of the boxes."""
    keep = np.ones(len(features), bool)
    for x, y, width, height in boxes:
        inside = (features.keypoints >= [x, y]) & (features.keypoints <= [x + width, y + height])
        keep &= ~inside.all(axis=1)
    return LocalFeatures(
        features.keypoints[keep],
        features.descriptors[keep],
        features.scales[keep],
        features.scores[keep],
    )


def place_in_photo(candidate: Candidate, origin: tuple[int, int]) -> Candidate:
    """A candidate of a part of the query, with points and transform in pixels of the whole.

    Args:
        origin: (x, y) of the part's top left pixel.
    """
    match, verification = candidate.match, candidate.match.verification
    if verification.transform is None:
        return candidate
    to_part = np.array([[1, 0, -origin[0]], [0, 1, -origin[1]], [0, 0, 1]], np.float64)
    transform = verification.transform @ to_part
    placed = replace(
        match,
        verification=replace(verification, transform=transform / transform[2, 2]),
        query_points=match.query_points + np.array(origin, np.float32),
    )
    return replace(candidate, match=placed)

"""Pairs of photos with the transform between them, from which attention learns what matches.

Some are made: a photo, and a photograph of it that is tilted, cropped, lit unevenly, blurred and
lies amid other things. Others are found: two photos of one label that geometric verification
proves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import cv2
import numpy as np
from numpy.typing import NDArray

from delg.extraction.cells import CellExtractor, Cells
from delg.extraction.extractor import best
from delg.training.augment import view
from delg.types import LocalFeatures
from index.calibrate.composites import PHOTOGRAPH
from index.calibrate.surroundings import KINDS, Pixels, surround
from index.settings import COMPACT_FEATURES, IndexSettings
from index.storage.feature_selection import top_k
from index.verification.matchable import MatchableFeatures
from index.verification.pair import match_pair

# Local features of a photo, of which an index keeps some.
_FEATURES = 1000
# Inliers that prove a pair, and the share of all features beyond which both are copies of one
# photo, from which there is nothing to learn.
_MIN_INLIERS = 20
_COPIES = 0.5
_PAIRS_PER_LABEL = 15
# Photos that lend textures and backgrounds.
_TEXTURES = 40
# Side of a photo among others, in pixels.
_TILE = 320


@dataclass(frozen=True, eq=False)
class CellPair:
    """The cells of two photos that show the same thing.

    Attributes:
        first, second: of the photos.
        transform: float64 (3, 3), from the first photo's pixels to the second's.
        is_made: the second was made from the first, so that what lies outside of the other photo
            may be as good as anything else; in photos that were found it is mostly sky, people,
            trees and streets.
    """

    first: Cells
    second: Cells
    transform: NDArray[np.float64]
    is_made: bool


def make_pairs(
    photos: Sequence[Pixels], extractor: CellExtractor, seed: int = 0
) -> Iterator[CellPair]:
    """A pair from each photo, by turns as it is, as one of four side by side, and in surroundings
    such as frames, screens and shelves.

    Four small photos side by side are as sharp as one large photo, which enlarged ones are not.

    Args:
        photos: uint8 (H, W, 3) each.
        extractor: of the model.
        seed: of all that is drawn by chance.
    """
    rng = np.random.default_rng(seed)
    textures = [photos[n] for n in rng.permutation(len(photos))[:_TEXTURES]]
    kinds = list(KINDS)
    for number, photo in enumerate(photos):
        scene = photo
        if number % 3:
            others = [photos[int(n)] for n in rng.integers(0, len(photos), 3)]
            scene = _mosaic([photo, *others])
        if number % 3 == 2:
            kind = kinds[int(rng.integers(len(kinds)))]
            scene = surround(scene, kind, int(rng.integers(1 << 31)), textures)
        background = textures[int(rng.integers(len(textures)))]
        photographed = view(scene, PHOTOGRAPH, rng, background)
        transform = np.asarray(photographed.homography, np.float64)
        first, second = extractor.extract(scene), extractor.extract(photographed.pixels)
        yield CellPair(first, second, transform, is_made=True)


def _mosaic(photos: Sequence[Pixels]) -> Pixels:
    """Four photos in two rows."""
    tiles = [
        np.asarray(cv2.resize(photo, (_TILE, _TILE), interpolation=cv2.INTER_AREA), np.uint8)
        for photo in photos
    ]
    return np.vstack([np.hstack(tiles[:2]), np.hstack(tiles[2:])])


def find_pairs(photos: Sequence[Cells], settings: IndexSettings) -> Iterator[CellPair]:
    """The pairs of photos of one label that verification proves, at most ``_PAIRS_PER_LABEL``.

    Args:
        photos: of the label.
        settings: of matching and verification.
    """
    matchable = [_best_features(cells) for cells in photos]
    pairs = list(combinations(range(len(photos)), 2))
    proven = 0
    for number in np.random.default_rng(0).permutation(len(pairs)):
        first, second = pairs[number]
        match = match_pair(matchable[first], matchable[second], settings, evidence_from=1 << 30)
        inliers = 0 if match is None else len(match.inliers)
        if match is None or not _MIN_INLIERS <= inliers <= _COPIES * len(
            matchable[second].keypoints
        ):
            continue
        yield CellPair(photos[first], photos[second], match.transform, is_made=False)
        proven += 1
        if proven == _PAIRS_PER_LABEL:
            return


def _best_features(cells: Cells) -> MatchableFeatures:
    """Those that an index would keep."""
    kept = best(cells.scores, _FEATURES)
    features = LocalFeatures(
        cells.keypoints[kept], cells.descriptors[kept], cells.scales[kept], cells.scores[kept]
    )
    features = top_k(features, COMPACT_FEATURES, max(cells.size))
    return MatchableFeatures(features.keypoints, features.descriptors, features.scales, cells.size)

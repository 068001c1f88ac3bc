"""Regions: where in a photo single things are likely to be, by its attention.

A thing that stands out has local features that the network scores higher than those around it. So
every box of some sizes and shapes is rated by its mean attention less that of its surroundings
(centre-surround contrast; Itti, Koch, Niebur, PAMI 1998), times a power of its area, and the best
that hardly overlap are proposed. Where nothing stands out, a coarse grid stands in. No second
network is needed; boxes of a detector can take the place of proposals.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from delg.types import Box, FloatArray, LocalFeatures

# Cells along the photo's longer side on which attention is summed.
_CELLS = 44
# Standard deviation that the logarithms of the scores are given: those of learnt attention differ
# tenfold, and a few features would outweigh all others.
_LOG_SPREAD = 0.25
# Cells over which a feature's score spreads.
_SPREAD = 0.8
# Sides of the boxes that are rated, in parts of the photo's (the root of its area), and their
# heights in parts of their widths.
_SIDES = (0.16, 0.22, 0.3, 0.4, 0.55)
_SHAPES = (0.6, 0.8, 1.0, 1.25, 1.7)
# The surroundings are a ring that is so many parts of the box's shorter side wide.
_RING = 0.25
# Power of a box's area that its contrast is multiplied by.
_AREA_POWER = 0.25
# Overlap (intersection over union) up to which the worse of two boxes is proposed too: below .3.
_MAX_OVERLAP = 0.3 - 1e-6
# The best boxes that are looked at.
_LOOKED_AT = 4000
# Part of its sides by which a proposal grows on either side: edges are found to a cell or two.
_MARGIN = 0.2
# Sides of the coarse grid's boxes, in parts of the photo's, overlapping by half.
_GRID_SIDE = 0.5


class Proposal(NamedTuple):
    """A box in which a thing is likely to be.

    Attributes:
        box: (x, y, width, height) in pixels of the upright photo.
        contrast: attention inside over that around it; 0 where nothing is known of it.
    """

    box: Box
    contrast: float


def propose_regions(features: LocalFeatures, size: tuple[int, int], count: int) -> list[Proposal]:
    """The boxes of a photo that stand out most, best first.

    Args:
        features: of the photo, with their scores.
        size: (width, height) of the upright photo, pixels.
        count: boxes at most.
    """
    attention = _attention(features, size)
    cells, ratings = _rate_boxes(attention)
    best = np.argsort(-ratings, kind="stable")[:_LOOKED_AT]
    cells, ratings = cells[best], ratings[best]
    boxes, scores = cells.astype(float).tolist(), ratings.tolist()
    chosen = cv2.dnn.NMSBoxes(boxes, scores, 0.0, _MAX_OVERLAP)[:count]
    if not len(chosen):
        return [Proposal(box, 0.0) for box in coarse_grid(size)[:count]]
    rows, columns = attention.shape
    unit = np.array([size[0] / columns, size[1] / rows] * 2)
    spread = attention.std() or 1.0
    return [
        Proposal(grow_box(_as_box(cells[n] * unit), _MARGIN, size), float(ratings[n] / spread))
        for n in chosen
    ]


def coarse_grid(size: tuple[int, int]) -> list[Box]:
    """Nine boxes of half the photo's sides, overlapping by half, the middle one first."""
    width, height = size
    places = (0.5, 0.0, 1.0)
    return [
        (
            x * (1 - _GRID_SIDE) * width,
            y * (1 - _GRID_SIDE) * height,
            _GRID_SIDE * width,
            _GRID_SIDE * height,
        )
        for y, x in product(places, places)
    ]


def grow_box(box: Box, margin: float, size: tuple[int, int]) -> Box:
    """A box that is ``margin`` of its sides larger on either side, cut to a photo of that (width,
    height)."""
    x, y, width, height = box
    left, top = max(x - margin * width, 0.0), max(y - margin * height, 0.0)
    right = min(x + (1 + margin) * width, float(size[0]))
    bottom = min(y + (1 + margin) * height, float(size[1]))
    return left, top, max(right - left, 0.0), max(bottom - top, 0.0)


def overlap_share(box: Box, other: Box) -> float:
    """The share of a box's area that lies in another."""
    width = min(box[0] + box[2], other[0] + other[2]) - max(box[0], other[0])
    height = min(box[1] + box[3], other[1] + other[3]) - max(box[1], other[1])
    area = box[2] * box[3]
    return max(width, 0.0) * max(height, 0.0) / area if area > 0 else 0.0


def overlap(box: Box, other: Box) -> float:
    """Intersection over union of two boxes."""
    common = overlap_share(box, other) * box[2] * box[3]
    union = box[2] * box[3] + other[2] * other[3] - common
    return common / union if union > 0 else 0.0


def _as_box(values: NDArray[np.floating]) -> Box:
    x, y, width, height = map(float, values)
    return x, y, width, height


def _attention(features: LocalFeatures, size: tuple[int, int]) -> FloatArray:
    """Scores of the features summed by cell, (rows, columns)."""
    unit = max(size) / _CELLS
    columns, rows = (max(1, round(side / unit)) for side in size)
    attention = np.zeros((rows, columns), np.float32)
    places = ((features.keypoints + 0.5) * [columns / size[0], rows / size[1]]).astype(int)
    places = places.clip(0, [columns - 1, rows - 1])
    np.add.at(attention, (places[:, 1], places[:, 0]), _compress(features.scores))
    return np.asarray(cv2.GaussianBlur(attention, (0, 0), _SPREAD), np.float32)


def _compress(scores: FloatArray) -> FloatArray:
    """Scores whose logarithms have mean 0 and the same spread in every photo and of every model."""
    logarithms = np.log(np.maximum(scores, np.finfo(np.float32).tiny))
    spread = logarithms.std() if len(scores) else 0.0
    if spread == 0:
        return np.ones_like(scores)
    return np.asarray(np.exp((logarithms - logarithms.mean()) * (_LOG_SPREAD / spread)), np.float32)


def _rate_boxes(attention: FloatArray) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Boxes int64 (N, 4), (x, y, width, height) in cells, that stand out, and how much."""
    integral = np.asarray(cv2.integral(attention, sdepth=cv2.CV_64F), np.float64)
    parts = [_rate_places(integral, *shape) for shape in _box_shapes(*attention.shape)]
    cells = np.concatenate([np.zeros((0, 4), np.int64), *(cells for cells, _ in parts)])
    ratings = np.concatenate([np.zeros(0), *(ratings for _, ratings in parts)])
    stands_out = ratings > 0
    return cells[stands_out], ratings[stands_out]


def _box_shapes(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    """Heights and widths of boxes, in cells."""
    sides = np.array(_SIDES) * np.sqrt(rows * columns)
    shapes = {
        (round(side * np.sqrt(shape)), round(side / np.sqrt(shape)))
        for side, shape in product(sides, _SHAPES)
    }
    return ((h, w) for h, w in sorted(shapes) if 2 <= h <= rows and 2 <= w <= columns)


def _rate_places(
    integral: NDArray[np.float64], height: int, width: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Boxes of one shape at all places, and their ratings."""
    rows, columns = integral.shape[0] - 1, integral.shape[1] - 1
    grid = np.mgrid[: rows - height + 1, : columns - width + 1].reshape(2, -1)
    top, left = grid
    bottom, right = top + height, left + width
    ring = max(1, round(_RING * min(height, width)))
    outer = (
        np.maximum(top - ring, 0),
        np.maximum(left - ring, 0),
        np.minimum(bottom + ring, rows),
        np.minimum(right + ring, columns),
    )
    inside = _sums(integral, top, left, bottom, right)
    around = _sums(integral, *outer) - inside
    area = height * width
    ring_area = np.maximum((outer[2] - outer[0]) * (outer[3] - outer[1]) - area, 1)
    ratings = (inside / area - around / ring_area) * area**_AREA_POWER
    sizes = np.full_like(left, width), np.full_like(left, height)
    return np.stack([left, top, *sizes], axis=1), ratings


def _sums(
    integral: NDArray[np.float64],
    top: NDArray[np.int64],
    left: NDArray[np.int64],
    bottom: NDArray[np.int64],
    right: NDArray[np.int64],
) -> NDArray[np.float64]:
    sums = integral[bottom, right] - integral[top, right]
    return np.asarray(sums - integral[bottom, left] + integral[top, left])

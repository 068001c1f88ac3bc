"""Evidence: what the features say for and against two photos showing the same thing.

The number of inliers alone cannot tell a painting from another one in the same frame: frames,
mounts, mastheads and screens match too. What tells them apart is *where* features match. If the
transform is right, a feature of the query has its nearest neighbour where the transform leads it,
all over the region that both photos show; where two pictures share no more than their frame, the
features in the middle do not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from delg.compiled import compiled
from delg.types import FloatArray
from index.results import Evidence
from index.verification.correspondences import Correspondences
from index.verification.int8_matmul import Descriptors

# Cells along each side of the grids on which coverage and holes are judged.
GRID = 8
# Share of a region's side that counts as its border, at either end.
_BORDER = 0.2
# n log n of the counts that occur.
_TABLE = 4096
_N_LOG_N = np.arange(_TABLE) * np.log(np.maximum(np.arange(_TABLE), 1))
# Added to a rate that divides another, which may be 0.
_SMALL_RATE = 0.05
# Share of the inliers left out at either end of an axis: few may lie far from the others.
_TAIL = 0.05
# How sharply features that look alike are told from others: cosine to this power.
_SHARPNESS = 8
# Inliers that are compared with each other, at most.
_COMPARED = 128


def gather_evidence(
    correspondences: Correspondences,
    transform: NDArray[np.float64],
    inliers: NDArray[np.int32],
    radius: float,
) -> Evidence:
    """Gather the evidence of one pair.

    Args:
        transform: float64 (3, 3), from the query's pixels to the other photo's.
        inliers: int32 (K, 2), indices into both, of matches that agree with the transform.
        radius: pixels of the other photo by which a neighbour may miss the place to which the
            transform leads.
    """
    return Evidence(
        float(len(inliers)),
        len(inliers) / len(correspondences.matches),
        *_gather(
            correspondences.query,
            correspondences.other,
            correspondences.nearest,
            inliers,
            transform,
            correspondences.query_size,
            correspondences.other_size,
            radius,
        ),
        variety=_variety(correspondences.descriptors[inliers[:, 1]]),
    )


def _variety(descriptors: Descriptors) -> float:
    """Of descriptors (K, r), K at least 1, each of one length; see :class:`Evidence`."""
    compared = np.linspace(0, len(descriptors) - 1, min(len(descriptors), _COMPARED)).astype(int)
    vectors = descriptors[compared].astype(np.float32)
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    vectors /= np.maximum(lengths, np.float32(1e-9))[:, None]
    alike = np.maximum(vectors @ vectors.T, 0) ** _SHARPNESS
    return float(len(alike) / alike.sum(dtype=np.float64))


@compiled
def _gather(
    query: FloatArray,
    other: FloatArray,
    nearest: NDArray[np.int32],
    inliers: NDArray[np.int32],
    transform: NDArray[np.float64],
    query_size: tuple[int, int],
    size: tuple[int, int],
    radius: float,
) -> tuple[float, float, float, float]:
    """Agreement, contrast, hole and coverage of :class:`Evidence`."""
    count = len(query)
    x, y = np.empty(count), np.empty(count)
    agrees = np.zeros(count, np.bool_)
    for feature in range(count):
        u, v = query[feature, 0], query[feature, 1]
        depth = transform[2, 0] * u + transform[2, 1] * v + transform[2, 2]
        if depth <= 0:
            x[feature] = y[feature] = np.inf
            continue
        x[feature] = (transform[0, 0] * u + transform[0, 1] * v + transform[0, 2]) / depth
        y[feature] = (transform[1, 0] * u + transform[1, 1] * v + transform[1, 2]) / depth
        neighbour = nearest[feature]
        dx, dy = other[neighbour, 0] - x[feature], other[neighbour, 1] - y[feature]
        agrees[feature] = dx * dx + dy * dy <= radius * radius
    # The region that both photos show, in the other photo's pixels.
    width, height = float(size[0]), float(size[1])
    left, top, right, bottom = width, height, 0.0, 0.0
    for corner in range(4):
        u, v = query_size[0] * (corner % 2), query_size[1] * (corner // 2)
        depth = max(transform[2, 0] * u + transform[2, 1] * v + transform[2, 2], 1e-6)
        a = (transform[0, 0] * u + transform[0, 1] * v + transform[0, 2]) / depth
        b = (transform[1, 0] * u + transform[1, 1] * v + transform[1, 2]) / depth
        left, right = min(left, max(a, 0.0)), max(right, min(a, width))
        top, bottom = min(top, max(b, 0.0)), max(bottom, min(b, height))
    middle = _rate_inside(x, y, agrees, left, top, right, bottom, _BORDER)
    xs, ys = np.sort(other[inliers[:, 1], 0]), np.sort(other[inliers[:, 1], 1])
    tail = int(len(xs) * _TAIL)
    left, right = xs[tail], xs[len(xs) - 1 - tail]
    top, bottom = ys[tail], ys[len(ys) - 1 - tail]
    core = _rate_inside(x, y, agrees, left, top, right, bottom, 0.0)
    inner = _rate_inside(x, y, agrees, left, top, right, bottom, _BORDER)
    seen = np.zeros((GRID + 1, GRID + 1), np.int64)
    hits = np.zeros((GRID + 1, GRID + 1), np.int64)
    scale_x, scale_y = GRID / max(right - left, 1e-6), GRID / max(bottom - top, 1e-6)
    for feature in range(count):
        if left <= x[feature] <= right and top <= y[feature] <= bottom:
            column = min(int((x[feature] - left) * scale_x), GRID - 1)
            row = min(int((y[feature] - top) * scale_y), GRID - 1)
            seen[row + 1, column + 1] += 1
            hits[row + 1, column + 1] += agrees[feature]
    agreement = min(middle, core, inner)
    contrast, hole = inner / (core + _SMALL_RATE), _deepest_hole(seen, hits)
    return agreement, contrast, hole, _cells(other, inliers[:, 1], size)


@compiled
def _rate_inside(
    x: np.ndarray,
    y: np.ndarray,
    agrees: np.ndarray,
    left: float,
    top: float,
    right: float,
    bottom: float,
    border: float,
) -> float:
    """Share of the points inside a box, without its border, that agree."""
    inset_x, inset_y = (right - left) * border, (bottom - top) * border
    seen = hits = 0
    for point in range(len(x)):
        if (
            left + inset_x <= x[point] <= right - inset_x
            and top + inset_y <= y[point] <= bottom - inset_y
        ):
            seen += 1
            hits += agrees[point]
    return hits / (seen + 4.0)


@compiled
def _cells(points: FloatArray, chosen: NDArray[np.int32], size: tuple[int, int]) -> float:
    """Cells of a grid over a photo that hold chosen points (N, 2), pixels."""
    held = np.zeros((GRID, GRID), np.bool_)
    for point in chosen:
        column = min(max(int(points[point, 0] * GRID / size[0]), 0), GRID - 1)
        row = min(max(int(points[point, 1] * GRID / size[1]), 0), GRID - 1)
        held[row, column] = True
    return float(held.sum())


@compiled
def _deepest_hole(seen: np.ndarray, hits: np.ndarray) -> float:
    """The highest log likelihood ratio of a window whose rate is lower than that around it.

    This is the spatial scan statistic (Kulldorff, 1997) over windows that touch at most one side
    of the grid: what lies inside a frame is surrounded by it.

    Args:
        seen, hits: (``GRID`` + 1, ``GRID`` + 1), features and those that agree, by cell, behind a
            row and a column of zeros; summed in place.
    """
    for row in range(1, GRID + 1):
        for column in range(1, GRID + 1):
            seen[row, column] += (
                seen[row - 1, column] + seen[row, column - 1] - seen[row - 1, column - 1]
            )
            hits[row, column] += (
                hits[row - 1, column] + hits[row, column - 1] - hits[row - 1, column - 1]
            )
    all_seen, all_hits = seen[GRID, GRID], hits[GRID, GRID]
    overall = _log_likelihood(all_hits, all_seen)
    deepest = 0.0
    for top in range(GRID - 1):
        for bottom in range(top + 2, GRID + 1):
            for left in range(GRID - 1):
                for right in range(left + 2, GRID + 1):
                    sides = (top == 0) + (bottom == GRID) + (left == 0) + (right == GRID)
                    if sides > 1:
                        continue
                    n = (
                        seen[bottom, right]
                        - seen[top, right]
                        - seen[bottom, left]
                        + seen[top, left]
                    )
                    h = (
                        hits[bottom, right]
                        - hits[top, right]
                        - hits[bottom, left]
                        + hits[top, left]
                    )
                    around, around_hits = all_seen - n, all_hits - h
                    if n < 3 or h * around >= around_hits * n:
                        continue
                    ratio = _log_likelihood(h, n) + _log_likelihood(around_hits, around) - overall
                    deepest = max(deepest, ratio)
    return deepest


@compiled
def _log_likelihood(hits: int, seen: int) -> float:
    """Of so many hits among so many features, at their own rate."""
    if seen >= _TABLE:
        rate = min(max(hits / seen, 1e-12), 1 - 1e-12)
        return float(seen * (rate * np.log(rate) + (1 - rate) * np.log(1 - rate)))
    return float(_N_LOG_N[hits] + _N_LOG_N[seen - hits] - _N_LOG_N[seen])

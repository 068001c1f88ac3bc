"""Which cells of a photo match: the truth that attention learns."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from delg.extraction.cells import Cells
from delg.types import FloatArray
from index.settings import IndexSettings
from index.verification.correspondences import reference_unit
from index.verification.geometric import transform_points


def label_cells(
    cells: Cells,
    other: Cells,
    transform: NDArray[np.float64],
    elsewhere: FloatArray,
    settings: IndexSettings,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether the nearest neighbour of each cell lies where it should, and nothing else is as near.

    Judged by the settings of matching and verification: no further than the threshold of an
    inlier, and by the ratio nearer than all cells at other places and of other photos.

    Args:
        cells: of one photo, N of them.
        other: of a photo that shows the same thing.
        transform: float64 (3, 3), from the first photo's pixels to the other's.
        elsewhere: float32 (K, d), descriptors of other photos.
        settings: of an index.

    Returns:
        bool (N,), whether they match, and bool (N,), whether they can, as the other photo shows
        their place.
    """
    places = transform_points(transform, cells.keypoints)
    width, height = other.size
    visible = ((places >= 0) & (places <= (width - 1, height - 1))).all(axis=1)
    visible &= transform[2] @ np.c_[cells.keypoints, np.ones(len(cells))].T > 0
    verification, matching = settings.verification, settings.matching
    reach = verification.threshold / reference_unit(other.size, verification)
    is_near = _squared_distances(np.float32(places), other.keypoints) <= reach**2
    products = cells.descriptors @ other.descriptors.T
    right = np.where(is_near, products, -1).max(axis=1, initial=-1)
    wrong = np.where(is_near, -1, products).max(axis=1, initial=-1)
    if len(elsewhere):
        wrong = np.maximum(wrong, (cells.descriptors @ elsewhere.T).max(axis=1))
    near, far = (np.sqrt(np.maximum(2 - 2 * best, 0)) for best in (right, wrong))
    matches = (near < matching.ratio * far) & (near <= matching.max_distance)
    return visible & matches, visible


def _squared_distances(a: FloatArray, b: FloatArray) -> FloatArray:
    """Between points (N, 2) and (M, 2): (N, M)."""
    dx, dy = (a[:, None, axis] - b[None, :, axis] for axis in (0, 1))
    return np.asarray(dx * dx + dy * dy, np.float32)

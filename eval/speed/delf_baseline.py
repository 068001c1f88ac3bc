"""The published way, to be measured against: cKDTree neighbours and scikit-image's affine RANSAC.

As the public DELG code re-ranks (Cao et al., arXiv 2001.05027): float64, one file a photo, each
query feature's nearest neighbour if it is near enough, 1000 trials of three matches.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from skimage.measure import ransac
from skimage.transform import AffineTransform

from delg.delf_files import read_local, write_datum, write_local
from delg.types import ImageFeatures, LocalFeatures

_MAX_DISTANCE = 1.0
_RESIDUAL = 20.0
_TRIALS = 1000
_SAMPLES = 3


def inliers(query: LocalFeatures, other: LocalFeatures, seed: int = 0) -> NDArray[np.int64]:
    """The matches that agree on an affine transform.

    Returns:
        int64 (K, 2), indices into ``query`` and ``other``.
    """
    none = np.zeros((0, 2), np.int64)
    if not len(query) or not len(other):
        return none
    tree = cKDTree(other.descriptors.astype(np.float64))
    _, nearest = tree.query(
        query.descriptors.astype(np.float64), distance_upper_bound=_MAX_DISTANCE
    )
    found = np.flatnonzero(nearest < len(other))
    if len(found) <= _SAMPLES:
        return none
    matches = np.stack([found, nearest[found]], axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It warns when nothing agrees; that is an answer here.
        _, mask = ransac(
            (
                other.keypoints[matches[:, 1]].astype(np.float64),
                query.keypoints[matches[:, 0]].astype(np.float64),
            ),
            AffineTransform,
            min_samples=_SAMPLES,
            residual_threshold=_RESIDUAL,
            max_trials=_TRIALS,
            rng=np.random.default_rng(seed),
        )
    return none if mask is None else matches[mask]


def write_files(folder: Path, photos: Sequence[ImageFeatures]) -> int:
    """A ``.delg_local`` and a ``.delg_global`` file for each photo; returns their bytes in all."""
    for number, photo in enumerate(photos):
        write_local(folder / f"{number}.delg_local", photo.local)
        write_datum(folder / f"{number}.delg_global", photo.global_descriptor)
    return sum(path.stat().st_size for path in folder.glob("*.delg_*"))


def rerank(folder: Path, query: LocalFeatures, count: int) -> list[int]:
    """The photos whose files lie in the folder, most inliers first."""
    found = [
        len(inliers(query, read_local(folder / f"{number}.delg_local"))) for number in range(count)
    ]
    return sorted(range(count), key=lambda number: (-found[number], number))

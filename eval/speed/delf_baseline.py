"""Reference implementation of re-ranking: cKDTree neighbours and scikit-image's affine RANSAC.

As the public DELG code re-ranks (Cao et al., arXiv 2001.05027): float64, one file per photo, each
query feature's nearest neighbour within a distance, 1000 RANSAC trials of three matches.
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
_RESIDUAL_THRESHOLD = 20.0
_MAX_TRIALS = 1000
_MIN_SAMPLES = 3


def match_inliers(query: LocalFeatures, other: LocalFeatures, seed: int = 0) -> NDArray[np.int64]:
    """Match two photos and keep the inliers of an affine transform.

    Returns:
        int64 (K, 2), indices into ``query`` and ``other``.
    """
    no_matches = np.zeros((0, 2), np.int64)
    if not len(query) or not len(other):
        return no_matches
    tree = cKDTree(other.descriptors.astype(np.float64))
    _, nearest = tree.query(
        query.descriptors.astype(np.float64), distance_upper_bound=_MAX_DISTANCE
    )
    matched = np.flatnonzero(nearest < len(other))
    if len(matched) <= _MIN_SAMPLES:
        return no_matches
    matches = np.stack([matched, nearest[matched]], axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It warns without inliers, which is a valid result here.
        _, mask = ransac(  # type: ignore[no-untyped-call, unused-ignore]
            (
                other.keypoints[matches[:, 1]].astype(np.float64),
                query.keypoints[matches[:, 0]].astype(np.float64),
            ),
            AffineTransform,
            min_samples=_MIN_SAMPLES,
            residual_threshold=_RESIDUAL_THRESHOLD,
            max_trials=_MAX_TRIALS,
            rng=np.random.default_rng(seed),
        )
    return no_matches if mask is None else matches[mask]


def write_features(folder: Path, photos: Sequence[ImageFeatures]) -> int:
    """Write a ``.delg_local`` and a ``.delg_global`` file per photo; their total size in bytes."""
    for number, photo in enumerate(photos):
        write_local(folder / f"{number}.delg_local", photo.local)
        write_datum(folder / f"{number}.delg_global", photo.global_descriptor)
    return sum(path.stat().st_size for path in folder.glob("*.delg_*"))


def rerank(folder: Path, query: LocalFeatures, count: int) -> list[int]:
    """The numbers of the photos in the folder, most inliers first."""
    inliers = [
        len(match_inliers(query, read_local(folder / f"{number}.delg_local")))
        for number in range(count)
    ]
    return sorted(range(count), key=lambda number: (-inliers[number], number))

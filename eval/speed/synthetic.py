"""Synthetic photos of one scene: features with known correspondences; and indexes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delg.types import FloatArray, ImageFeatures, LocalFeatures
from index.feature_spec import FeatureSpec
from index.image_index import ImageIndex
from index.settings import IndexSettings
from index.storage.catalog_tables import ImageRow
from index.storage.product_quantizer import MIN_TRAINING_VECTORS, ProductQuantizer
from index.storage.store import Store

SIZE = (1024, 768)
# As with a model that resizes all photos to one size.
SCALES = {"verification": {"scales": "enlarged"}}
_SCALES = np.array([0.5, 0.7071, 1.0, 1.4142], np.float32)
# Variance of descriptors along their n-th principal direction: n + 2 to this power, as measured on
# real photos.
_DECAY = -0.75
# Standard deviation of a keypoint's position, in pixels.
_JITTER = 2.0
# A wall photographed from the right and from further away.
_AFFINE = np.array([[0.82, -0.18, 120.0], [0.15, 0.79, 40.0], [0.0, 0.0, 1.0]])
_PERSPECTIVE = np.array([[0.82, -0.18, 120.0], [0.15, 0.79, 40.0], [1.2e-4, 6e-5, 1.0]])


@dataclass(frozen=True, eq=False)
class Scene:
    """Two photos with their true correspondences.

    Attributes:
        pairs: int64 (K, 2), indices of the same points in ``query`` and ``other``.
    """

    query: ImageFeatures
    other: ImageFeatures
    pairs: NDArray[np.int64]

    def correct(self, matches: NDArray[Any]) -> int:
        """Number of the matches, (N, 2), that are true pairs."""
        return len(set(map(tuple, matches.tolist())) & set(map(tuple, self.pairs.tolist())))


def scene(
    rate: float,
    count: int = 1000,
    noise: float = 0.5,
    alike: float = 1.0,
    perspective: bool = False,
    dim: int = 128,
    seed: int = 0,
    other: int = 0,
) -> Scene:
    """Two photos with similar features, some of which truly correspond.

    Args:
        rate: share of the features that are inliers; the positions of the others are random,
            though their descriptors are as similar.
        count: features per photo.
        noise: length of the vector that is added to a descriptor before normalisation.
        alike: share of the features whose descriptor resembles one of the other photo.
        perspective: relate the photos by a homography, not by an affine transform.
        dim: of the descriptors.
        seed: of the query's keypoints and descriptors.
        other: seed of the second photo.
    """
    rng = np.random.default_rng(seed)
    keypoints = rng.uniform((0, 0), SIZE, (count, 2))
    descriptors = _descriptors(rng, count, dim)
    first = _photo(keypoints, descriptors, rng)
    rng = np.random.default_rng((seed, other))
    moved = np.c_[keypoints, np.ones(count)] @ (_PERSPECTIVE if perspective else _AFFINE).T
    positions = moved[:, :2] / moved[:, 2:] + rng.normal(0, _JITTER, (count, 2))
    inliers, outliers = np.split(rng.permutation(count), [round(rate * count)])
    positions[outliers] = rng.uniform((0, 0), SIZE, (len(outliers), 2))
    changed = _unit(descriptors + noise * _unit(rng.normal(size=(count, dim))))
    unlike = outliers[: round((1 - alike) * count)]
    changed[unlike] = _descriptors(rng, len(unlike), dim)
    order = rng.permutation(count)
    row_in_other = np.argsort(order)
    scales = rng.choice(_SCALES, count)
    scales[inliers] = _scales_in_other(first.local.scales, moved)[inliers]
    return Scene(
        first,
        _photo(positions[order], changed[order], rng, scales=scales[order]),
        np.stack([inliers, row_in_other[inliers]], axis=1),
    )


def _scales_in_other(scales: FloatArray, moved: NDArray[Any]) -> FloatArray:
    """The pyramid scales at which features appear in the other photo.

    Args:
        scales: of the features in the query.
        moved: (N, 3), their homogeneous keypoints in the other photo.
    """
    # What is further away appears smaller, in addition to the affine part's scale ratio.
    zooms = np.sqrt(abs(np.linalg.det(_AFFINE))) / moved[:, 2] ** 1.5
    octaves = np.log2(scales / zooms)
    nearest = np.abs(octaves[:, None] - np.log2(_SCALES)).argmin(axis=1)
    return np.asarray(_SCALES[nearest], np.float32)


def photo(count: int = 1000, dim: int = 128, global_dim: int = 512, seed: int = 0) -> ImageFeatures:
    """A photo with random features."""
    rng = np.random.default_rng(seed)
    keypoints = rng.uniform((0, 0), SIZE, (count, 2))
    return _photo(keypoints, _descriptors(rng, count, dim), rng, global_dim)


def make_index(
    folder: Path, photos: Sequence[ImageFeatures], settings: IndexSettings | None = None
) -> ImageIndex:
    """An index of synthetic photos, encoded by a codebook of theirs if that can be learnt."""
    global_dim, local_dim = len(photos[0].global_descriptor), photos[0].local.descriptors.shape[1]
    spec = FeatureSpec("made-up", global_dim, local_dim, aggregated=False)
    ImageIndex.create_for_features(folder, spec, settings).close()
    store = Store(folder)
    descriptors = np.concatenate([photo.local.descriptors for photo in photos])
    with store.lock():
        if len(descriptors) >= MIN_TRAINING_VECTORS:
            store.set_codebook(ProductQuantizer.train(descriptors))
        size = store.settings.store.segment_images
        for start in range(0, len(photos), size):
            batch = photos[start : start + size]
            rows = [
                ImageRow(f"{start + number}", "", 0, 0, "", width=photo.width, height=photo.height)
                for number, photo in enumerate(batch)
            ]
            store.commit(rows, batch)
        store.save_ann_index()
    store.close()
    return ImageIndex.open(folder)


def _photo(
    keypoints: NDArray[Any],
    descriptors: NDArray[Any],
    rng: np.random.Generator,
    global_dim: int = 512,
    scales: NDArray[Any] | None = None,
) -> ImageFeatures:
    count = len(keypoints)
    scales = rng.choice(_SCALES, count) if scales is None else scales
    local = LocalFeatures(
        keypoints.astype(np.float32),
        descriptors.astype(np.float32),
        scales.astype(np.float32),
        np.sort(rng.uniform(1, 30, count))[::-1].astype(np.float32),
    )
    vector: FloatArray = _unit(rng.normal(size=(1, global_dim)))[0].astype(np.float32)
    return ImageFeatures(vector, local, *SIZE)


def _descriptors(rng: np.random.Generator, count: int, dim: int) -> NDArray[Any]:
    variances = np.arange(2, dim + 2) ** (_DECAY / 2)
    return _unit(rng.normal(size=(count, dim)) * variances @ _rotation(dim))


@cache
def _rotation(dim: int) -> NDArray[Any]:
    return np.asarray(np.linalg.qr(np.random.default_rng(0).normal(size=(dim, dim)))[0])


def _unit(vectors: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))

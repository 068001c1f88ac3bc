"""Two photos: do they show the same thing?

At first sight, matched descriptors must agree on a transform. Where too few agree for proof but
more than chance gives, a second look warps the query by that transform into the pose of the other
photo and extracts features anew. Descriptors of a network bear little change of pose: taking it
away multiplies the inliers of a true pair, and a pair that agreed by chance falls apart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from delg.extraction.extractor import Extractor
from delg.images.decode import ImageError
from delg.images.geometry import crop_to_box
from delg.types import Box, FloatArray, ImageFeatures, LocalFeatures
from index.results import Verification
from index.settings import IndexSettings, VerificationSettings
from index.verification.geometric import Matched, transform_points, verify
from index.verification.matchable import MatchableFeatures, Query
from index.verification.matching import match_descriptors, one_blas_thread

# What lies outside the query in the warped photo: the grey that the network sees as nothing.
_GREY = (128, 128, 128)


@dataclass(frozen=True, eq=False)
class Sighting:
    """A verification, and the features of the query that its matches index."""

    verification: Verification
    query: ImageFeatures


def compare(
    query: ImageFeatures,
    other: ImageFeatures,
    settings: IndexSettings,
    verification: VerificationSettings | None = None,
) -> Verification:
    """Match and verify two photos; the transform maps the query's pixels to the other's."""
    with one_blas_thread():
        return compare_stored(
            MatchableFeatures.of(query), MatchableFeatures.of(other), settings, verification
        )


def compare_stored(
    one: MatchableFeatures,
    other: MatchableFeatures,
    settings: IndexSettings,
    verification: VerificationSettings | None = None,
) -> Verification:
    """The same of two photos in one space.

    Products of floats take as many threads as BLAS may use: one, where pairs run side by side.
    """
    matches = match_descriptors(one.descriptors, other.descriptors, settings.matching)
    matched = Matched(
        one.keypoints, other.keypoints, matches, one.size, other.size, (one.scales, other.scales)
    )
    return verify(matched, verification or settings.verification)


def second_look(
    extractor: Extractor,
    pixels: NDArray[np.uint8],
    box: Box | None,
    other: MatchableFeatures,
    transform: NDArray[np.float64],
    settings: IndexSettings,
) -> Sighting:
    """Verify again with the query warped into the other photo's pose.

    Args:
        extractor: of the model that made ``other``.
        pixels: uint8 (H, W, 3), the query, upright; box: the part of it that counts.
        other: the other photo.
        transform: (3, 3), from the query's pixels to the other's, as found at first sight.
        settings: ``reverification.min_inliers`` takes the place of the usual minimum.
    """
    crop, (x, y) = (pixels, (0, 0)) if box is None else crop_to_box(pixels, box)
    whole = other.size
    zoom = min(1.0, extractor.settings.extraction.longest_side / max(whole))
    size = max(1, round(whole[0] * zoom)), max(1, round(whole[1] * zoom))
    to_warped = np.diag([size[0] / whole[0], size[1] / whole[1], 1.0]) @ transform
    try:
        found = extractor.extract(_warp(crop, (x, y), to_warped, size))
    except ImageError:
        # Nothing is left to see in that pose.
        nothing = ImageFeatures(
            np.zeros(0, np.float32), LocalFeatures.empty(extractor.local_dim), *size
        )
        return Sighting(Verification.none(), nothing)
    to_query = np.asarray(np.linalg.inv(to_warped), np.float64)
    back = transform_points(to_query, found.local.keypoints).astype(np.float32)
    height, width = pixels.shape[:2]
    local = _inside(found, back, width, height)
    # Scales are of the photo that the model saw; the query is that photo's size times this.
    zoom = np.sqrt(abs(np.linalg.det(to_warped[:2, :2]))) * max(width, height) / max(size)
    local = replace(local, scales=local.scales * np.float32(zoom))
    query = replace(found, local=local, width=width, height=height)
    stricter = settings.verification.model_copy(
        update={"min_inliers": settings.reverification.min_inliers}
    )
    own = Query(query).in_codebook_of(other)
    return Sighting(compare_stored(own, other, settings, stricter), query)


def _warp(
    crop: NDArray[np.uint8],
    origin: tuple[int, int],
    transform: NDArray[np.float64],
    size: tuple[int, int],
) -> NDArray[np.uint8]:
    """The crop, whose top-left pixel lies at ``origin``, through ``transform``; ``size`` (w, h)."""
    shrink = float(np.clip(np.sqrt(abs(np.linalg.det(transform[:2, :2]))), 1e-3, 1))
    height, width = crop.shape[:2]
    small = max(1, round(width * shrink)), max(1, round(height * shrink))
    # Warping alone takes single pixels; shrinking by area first keeps fine patterns from aliasing.
    shrunk = cv2.resize(crop, small, interpolation=cv2.INTER_AREA)
    ratio = np.array([width / small[0], height / small[1]])
    to_photo = np.eye(3)
    to_photo[[0, 1], [0, 1]] = ratio
    to_photo[:2, 2] = ratio / 2 - 0.5 + np.array(origin)
    warped = cv2.warpPerspective(
        shrunk, transform @ to_photo, size, flags=cv2.INTER_LINEAR, borderValue=_GREY
    )
    return np.asarray(warped, np.uint8)


def _inside(found: ImageFeatures, keypoints: FloatArray, width: int, height: int) -> LocalFeatures:
    """The features whose place in the query lies inside it; the rest saw the grey around it."""
    keep = (keypoints >= -0.5).all(axis=1) & (keypoints < [width - 0.5, height - 0.5]).all(axis=1)
    local = found.local
    return LocalFeatures(
        keypoints[keep], local.descriptors[keep], local.scales[keep], local.scores[keep]
    )


def match_photos(
    extractor: Extractor,
    pixels: NDArray[np.uint8],
    other: ImageFeatures,
    settings: IndexSettings,
) -> Sighting:
    """Match one photo against another as a query would: upright, then turned, then a second look.

    Args:
        pixels: uint8 (H, W, 3), the query.
        other: features of the other photo.
    """
    sightings = []
    for turns in range(4):
        query = extractor.extract(pixels, turns=turns)
        sightings.append(Sighting(compare(query, other, settings), query))
        if sightings[-1].verification.verified:
            return sightings[-1]
    best = max(sightings, key=lambda one: one.verification.inliers)
    seen = best.verification
    if seen.transform is not None and seen.inliers >= settings.reverification.from_inliers:
        again = second_look(
            extractor, pixels, None, MatchableFeatures.of(other), seen.transform, settings
        )
        if again.verification.verified:
            whole = best.query.global_descriptor
            return replace(again, query=replace(again.query, global_descriptor=whole))
    return best

"""A second look at a pair: warp the query into the other photo's pose and extract it again.

Where too few matches agree for proof, but more than by chance, their transform tells how the poses
differ. Descriptors of a network bear little change of pose: taking it away multiplies the inliers
of a true pair, and a pair that agreed by chance falls apart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from delg.extraction.extractor import Extractor
from delg.images.decode import ImageError
from delg.images.geometry import crop_to_box
from delg.images.pyramid import base_side
from delg.types import Box, FloatArray, ImageFeatures, LocalFeatures
from index.results import Verification
from index.settings import IndexSettings
from index.verification.calibration import DEFAULT_CALIBRATION, Calibration
from index.verification.geometric import transform_points
from index.verification.matchable import MatchableFeatures, MatchableQuery
from index.verification.pair import PairResult, verify_pair

# What surrounds the warped query: the grey that the network sees as zero.
_GREY = (128, 128, 128)
# The query is resized to no less than this part of its size before it is warped.
_MIN_ZOOM = 1e-3


@dataclass(frozen=True, eq=False)
class QueryPhoto:
    """A query that can be extracted.

    Attributes:
        extractor: the model.
        pixels: uint8 (H, W, 3), RGB, upright.
        box: the part that counts, (x, y, width, height) in those pixels; None: all.
    """

    extractor: Extractor
    pixels: NDArray[np.uint8]
    box: Box | None = None

    def extract(self, rotations: int = 0) -> ImageFeatures:
        """Features of the query after that many quarter turns counter-clockwise, in its upright
        pixels.

        Raises:
            ImageError: the box has no area in the photo.
        """
        return self.extractor.extract(self.pixels, self.box, rotations)


def reverify_warped(
    photo: QueryPhoto,
    other: MatchableFeatures,
    transform: NDArray[np.float64],
    similarity: float,
    settings: IndexSettings,
    calibration: Calibration = DEFAULT_CALIBRATION,
) -> PairResult:
    """Verify again with the query warped into the other photo's pose.

    Args:
        photo: the query; its extractor is of the model that made ``other``.
        transform: (3, 3), from the query's pixels to the other photo's, of the first verification.
        similarity: of the photos' global descriptors, before any warp.
        calibration: of the model.

    Returns:
        The transform and the query's features in its own pixels, as always; none if there are
        fewer inliers than ``settings.reverification.min_inliers``.
    """
    query = extract_warped(photo, other.size, transform)
    if query is None:
        return _no_result(photo)
    matchable = MatchableQuery(query).in_codebook_of(other)
    again = calibration.of_second_look
    verification = verify_pair(matchable, other, similarity, settings, again)
    return (
        PairResult(verification, query)
        if is_enough(verification.inliers, settings)
        else _no_result(photo)
    )


def is_enough(inliers: int, settings: IndexSettings) -> bool:
    """Whether a second look has enough inliers: the poses agree by construction, so proof takes
    more of them."""
    return inliers >= settings.reverification.min_inliers


def _no_result(photo: QueryPhoto) -> PairResult:
    height, width = photo.pixels.shape[:2]
    local = LocalFeatures.empty(photo.extractor.local_dim)
    features = ImageFeatures(np.zeros(0, np.float32), local, width, height)
    return PairResult(Verification.none(), features)


def extract_warped(
    photo: QueryPhoto, other_size: tuple[int, int], transform: NDArray[np.float64]
) -> ImageFeatures | None:
    """Features of the query warped into another photo's pose, mapped back into its own pixels; None
    if nothing is left.

    Args:
        other_size: width and height of the other photo, pixels.
        transform: (3, 3), from the query's pixels to the other photo's.
    """
    extraction = photo.extractor.settings.extraction
    resize = min(1.0, extraction.longest_side / max(other_size))
    warped_size = max(1, round(other_size[0] * resize)), max(1, round(other_size[1] * resize))
    to_size = np.diag([warped_size[0] / other_size[0], warped_size[1] / other_size[1], 1.0])
    to_warped = to_size @ transform
    warped = _warp(photo, to_warped, warped_size)
    try:
        features = photo.extractor.network_alone.extract(warped)
    except ImageError:
        return None
    to_query = np.asarray(np.linalg.inv(to_warped), np.float64)
    keypoints = transform_points(to_query, features.local.keypoints).astype(np.float32)
    height, width = photo.pixels.shape[:2]
    # Scales count from the warped photo as the model sees it; in the query a feature is larger or
    # smaller by this.
    pixels_of_query = max(width, height) / base_side(photo.pixels, extraction)
    pixels_of_warped = max(warped_size) / base_side(warped, extraction)
    zoom = np.sqrt(abs(np.linalg.det(to_warped[:2, :2]))) * pixels_of_query / pixels_of_warped
    local = _inside(features.local, keypoints, width, height)
    local = replace(local, scales=local.scales * np.float32(zoom))
    return replace(features, local=local, width=width, height=height)


def _warp(
    photo: QueryPhoto, transform: NDArray[np.float64], size: tuple[int, int]
) -> NDArray[np.uint8]:
    """The query's box mapped by ``transform`` into a photo of that (width, height)."""
    crop, origin = photo.pixels, (0, 0)
    if photo.box is not None:
        crop, origin = crop_to_box(photo.pixels, photo.box)
    zoom = float(np.clip(np.sqrt(abs(np.linalg.det(transform[:2, :2]))), _MIN_ZOOM, 1))
    height, width = crop.shape[:2]
    small = max(1, round(width * zoom)), max(1, round(height * zoom))
    # Warping samples single pixels; resizing by area first keeps fine patterns from aliasing.
    resized = cv2.resize(crop, small, interpolation=cv2.INTER_AREA)
    ratio = np.array([width / small[0], height / small[1]])
    to_photo = np.eye(3)
    to_photo[[0, 1], [0, 1]] = ratio
    to_photo[:2, 2] = ratio / 2 - 0.5 + np.array(origin)
    warped = cv2.warpPerspective(
        resized, transform @ to_photo, size, flags=cv2.INTER_LINEAR, borderValue=_GREY
    )
    return np.asarray(warped, np.uint8)


def _inside(local: LocalFeatures, keypoints: FloatArray, width: int, height: int) -> LocalFeatures:
    """The features whose keypoints in the query lie inside it; the others saw the grey around."""
    inside = (keypoints >= -0.5).all(axis=1) & (keypoints < [width - 0.5, height - 0.5]).all(axis=1)
    return LocalFeatures(
        keypoints[inside], local.descriptors[inside], local.scales[inside], local.scores[inside]
    )

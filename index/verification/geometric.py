"""Geometric verification: do the matches of two photos agree on one believable transform?

Affine by default, as DELG's own re-ranking (arXiv 2001.05027): a plane seen from elsewhere is
nearly affine in each of its parts, and three matches fix it. For homographies there is OpenCV's
USAC with MAGSAC scores (Baráth et al., arXiv 1912.05909); scikit-image's RANSAC is the published
setting. All of them repeat identically.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from delg.compiled import compiled
from delg.types import FloatArray
from index.results import Verification
from index.settings import VerificationSettings
from index.verification.ransac import Agreement, Matches, Trials, agree

Size = tuple[int, int]
# Matches that fix a transform, and trials where the settings name no number.
_SAMPLES = {"affine": 3, "homography": 4, "skimage-affine": 3}
_TRIALS = {"affine": 4000, "homography": 10_000, "skimage-affine": 1000}
# A pair is hit much sooner than a triple.
_TRIPLES_TO_A_PAIR = 4
_CONFIDENCE = 0.99
_FEWEST_TRIALS = 50
# To this many pixels photos are shrunk where no reference says otherwise.
_SHRUNK_TO = 1024


@dataclass(frozen=True, eq=False)
class Matched:
    """The points of two photos, and which of them look alike.

    Attributes:
        query, other: keypoints float32 (N, 2) and (M, 2), (x, y), pixels.
        matches: int32 (K, 2), indices into both.
        query_size, other_size: (width, height) of the upright photos.
        scales: of both photos' features, float32 (N,) and (M,), where the settings say what they
            tell; see :class:`delg.types.LocalFeatures`.
    """

    query: FloatArray
    other: FloatArray
    matches: NDArray[np.int32]
    query_size: Size
    other_size: Size
    scales: tuple[FloatArray, FloatArray] | None = None

    def units(self, settings: VerificationSettings) -> tuple[float, float]:
        """What makes pixels of both photos pixels of the reference side."""
        return _unit(self.query_size, settings), _unit(self.other_size, settings)

    def ends(self, settings: VerificationSettings) -> Matches:
        """The matches in pixels of the reference side."""
        query, other = (
            _taken(keypoints, self.matches[:, side], unit)
            for side, (keypoints, unit) in enumerate(
                zip((self.query, self.other), self.units(settings), strict=True)
            )
        )
        return Matches(query, other, self._zooms(settings))

    def _zooms(self, settings: VerificationSettings) -> FloatArray | None:
        """The zoom that each match's scales tell, between photos of the reference side."""
        if self.scales is None or settings.scales not in ("enlarged", "shrunk"):
            return None
        # Where all have the same scale, it tells nothing.
        if not all(len(one) and one.min() < one.max() for one in self.scales):
            return None
        query, other = self.scales
        sides = _seen_side(self.query_size, settings), _seen_side(self.other_size, settings)
        zooms = query[self.matches[:, 0]] / other[self.matches[:, 1]]
        return np.asarray(zooms * np.float32(sides[0] / sides[1]), np.float32)


@compiled
def _taken(points: NDArray, numbers: NDArray[np.int32], unit: float) -> FloatArray:
    """Some of the points, times a unit."""
    taken = np.empty((len(numbers), 2), np.float32)
    for place in range(len(numbers)):
        for side in range(2):
            taken[place, side] = np.float32(points[numbers[place], side]) * np.float32(unit)
    return taken


def _unit(size: Size, settings: VerificationSettings) -> float:
    return 1.0 if settings.reference_side is None else settings.reference_side / max(size)


def _seen_side(size: Size, settings: VerificationSettings) -> float:
    """How many pixels long the model sees a photo at scale 1, as far as photos differ in that."""
    if settings.scales == "enlarged":
        return 1.0
    return min(max(size), settings.reference_side or _SHRUNK_TO)


def trials(count: int, settings: VerificationSettings, samples: int | None = None) -> int:
    """Trials after which ``min_inliers`` among ``count`` matches would hardly have been missed.

    Few matches need few trials, which is where most pairs that show different things end early.

    Args:
        samples: matches that a trial takes; None: as many as fix the transform.
    """
    most = settings.max_trials or _TRIALS[settings.method]
    rate = min(1.0, settings.min_inliers / max(count, 1)) ** (samples or _SAMPLES[settings.method])
    needed = math.log(1 - _CONFIDENCE) / math.log1p(-min(rate, 0.999))
    return int(min(max(needed, _FEWEST_TRIALS), most))


def _estimate(ends: Matches, settings: VerificationSettings) -> Agreement | None:
    """The transform (3, 3) with the most support, and which matches support it."""
    if settings.method == "affine":
        return agree(ends, settings.threshold, _tries(len(ends.query), settings))
    estimate = _homography if settings.method == "homography" else _estimate_skimage
    return estimate(ends.query, ends.other, settings)


def _tries(count: int, settings: VerificationSettings) -> Trials:
    most = settings.max_trials or _TRIALS["affine"]
    return Trials(
        pairs=min(trials(count, settings, samples=2), max(1, most // _TRIPLES_TO_A_PAIR)),
        triples=trials(count, settings),
        max_zoom=settings.max_zoom if settings.check_plausibility else math.inf,
        mirrored=not settings.check_plausibility,
        seed=settings.seed,
    )


def _homography(
    query: FloatArray, other: FloatArray, settings: VerificationSettings
) -> Agreement | None:
    matrix, mask = cv2.findHomography(
        query,
        other,
        cv2.USAC_MAGSAC,
        settings.threshold,
        maxIters=trials(len(query), settings),
        confidence=_CONFIDENCE,
    )
    if matrix is None or not np.isfinite(matrix).all() or abs(matrix[2, 2]) < 1e-9:
        return None
    return np.asarray(matrix / matrix[2, 2], np.float64), np.asarray(mask).ravel() > 0


def _estimate_skimage(
    query: FloatArray, other: FloatArray, settings: VerificationSettings
) -> Agreement | None:
    from skimage.measure import ransac
    from skimage.transform import AffineTransform

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It warns when nothing agrees; that is an answer here.
        model, mask = ransac(
            # As published, from the other photo to the query, so pixels of the query count.
            (other.astype(np.float64), query.astype(np.float64)),
            AffineTransform,
            min_samples=3,
            residual_threshold=settings.threshold,
            max_trials=settings.max_trials or _TRIALS[settings.method],
            rng=np.random.default_rng(settings.seed),
        )
    if model is None or mask is None or not np.isfinite(model.params).all():
        return None
    if np.linalg.cond(model.params) > 1 / np.finfo(np.float64).eps:
        return None
    return np.asarray(np.linalg.inv(model.params), np.float64), np.asarray(mask, bool)


def transform_points(transform: NDArray[np.float64], points: NDArray) -> NDArray[np.float64]:
    """Points (N, 2), (x, y), through a projective transform (3, 3)."""
    mapped = np.c_[points, np.ones(len(points))] @ transform.T
    return mapped[:, :2] / mapped[:, 2:]


@compiled
def believable(
    transform: NDArray[np.float64], points: FloatArray, max_zoom: float, max_anisotropy: float
) -> bool:
    """Whether a transform (3, 3) keeps the photo's handedness and shape within the limits.

    Judged at the middle of the points (N, 2): no mirror, no collapse, zoom and shear within the
    limits; and no point on the far side of the horizon.
    """
    across, down, depth = transform[2]
    x = y = 0.0
    for point in range(len(points)):
        if points[point, 0] * across + points[point, 1] * down + depth <= 0:
            return False
        x += points[point, 0] / len(points)
        y += points[point, 1] / len(points)
    # The derivative there, whose singular values are the zooms along and across.
    one = x * across + y * down + depth
    (a, b, u), (c, d, v) = transform[0], transform[1]
    u, v = (a * x + b * y + u) / one, (c * x + d * y + v) / one
    a, b = (a - u * across) / one, (b - u * down) / one
    c, d = (c - v * across) / one, (d - v * down) / one
    even, odd = math.hypot(a + d, c - b) / 2, math.hypot(a - d, c + b) / 2
    large, small = even + odd, even - odd
    return small > 1 / max_zoom and large < max_zoom and large < max_anisotropy * small


@compiled
def spread(points: NDArray) -> float:
    """Standard deviation of points (N, 2) along their thinnest direction, in their unit."""
    count = len(points)
    x = y = xx = xy = yy = 0.0
    for point in range(count):
        x += points[point, 0] / count
        y += points[point, 1] / count
    for point in range(count):
        across, down = points[point, 0] - x, points[point, 1] - y
        xx += across * across
        xy += across * down
        yy += down * down
    # The smaller eigenvalue of their covariance.
    least = (xx + yy - math.hypot(xx - yy, 2 * xy)) / 2
    return math.sqrt(max(least, 0.0) / count)


def _holds(
    matrix: NDArray[np.float64],
    mask: NDArray[np.bool_],
    query: FloatArray,
    other: FloatArray,
    settings: VerificationSettings,
) -> bool:
    """Whether enough matches, spread wide enough, support a believable transform."""
    if mask.sum() <= max(_SAMPLES[settings.method], settings.min_inlier_rate * len(mask)):
        return False
    query, other = query[mask], other[mask]
    thinnest = min(spread(query), spread(other))
    return thinnest >= settings.threshold / 2 and believable(
        matrix, query, settings.max_zoom, settings.max_anisotropy
    )


def verify(pair: Matched, settings: VerificationSettings) -> Verification:
    """Look for one transform that explains the matches of two photos.

    Unless ``settings.check_plausibility`` is off, nothing is verified when the supporting points
    crowd along a line or in one spot, in either photo (within half the threshold any transform
    fits them), or when the transform mirrors, collapses or tears the photo.
    """
    if len(pair.matches) <= _SAMPLES[settings.method]:
        return Verification.none()
    ends = pair.ends(settings)
    estimate = _estimate(ends, settings)
    if estimate is None:
        return Verification.none()
    matrix, mask = estimate
    if settings.check_plausibility and not _holds(matrix, mask, ends.query, ends.other, settings):
        return Verification.none()
    # Back from the reference side's unit to each photo's own pixels.
    query, other = pair.units(settings)
    transform = matrix * np.array([query, query, 1]) / np.array([[other], [other], [1]])
    transform /= transform[2, 2]
    matches = pair.matches[mask]
    return Verification(len(matches), len(matches) >= settings.min_inliers, transform, matches)

"""Geometric verification: do the matches of two photos agree on one believable transform?

Affine by default, as DELG's own re-ranking (arXiv 2001.05027): a plane seen from elsewhere is
nearly affine in each of its parts, and three matches fix it. For homographies there is OpenCV's
USAC with MAGSAC scores (Baráth et al., arXiv 1912.05909); scikit-image's RANSAC is the published
setting. All of them repeat identically.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from delg.values import FloatArray
from index.consensus import Agreement, Matches, Trials, agree
from index.hits import Verification
from index.settings import VerificationSettings

Size = tuple[int, int]
# Matches that fix a transform, and trials where the settings name no number.
_SAMPLES = {"affine": 3, "homography": 4, "skimage-affine": 3}
_TRIALS = {"affine": 4000, "homography": 10_000, "skimage-affine": 1000}
# A pair is hit much sooner than a triple.
_TRIPLES_TO_A_PAIR = 4
# What memory holds, where settings ask for very many trials.
_SAMPLES_AT_ONCE = 200_000
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
            tell; see :class:`delg.values.LocalFeatures`.
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
        units = self.units(settings)
        return Matches(
            self.query[self.matches[:, 0]].astype(np.float32) * np.float32(units[0]),
            self.other[self.matches[:, 1]].astype(np.float32) * np.float32(units[1]),
            self._zooms(settings),
        )

    def _zooms(self, settings: VerificationSettings) -> FloatArray | None:
        """The zoom that each match's scales tell, between photos of the reference side."""
        if self.scales is None or settings.scales not in ("enlarged", "shrunk"):
            return None
        # Where all have the same scale, it tells nothing.
        if not all(len(one) and one.min() < one.max() for one in self.scales):
            return None
        sizes = self.query_size, self.other_size
        a, b = (
            one[self.matches[:, side]] * np.float32(_seen_side(size, settings))
            for side, (one, size) in enumerate(zip(self.scales, sizes, strict=True))
        )
        return np.asarray(a / b, np.float32)


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


def _estimate(
    pairs: Sequence[Matches], settings: VerificationSettings
) -> Sequence[Agreement | None]:
    """Each pair's transform (3, 3) with the most support, and which matches support it."""
    if settings.method == "affine":
        tries = [_tries(len(one.query), settings) for one in pairs]
        at_once = max(1, _SAMPLES_AT_ONCE // max((one.triples for one in tries), default=1))
        parts = [slice(start, start + at_once) for start in range(0, len(pairs), at_once)]
        return [
            answer
            for part in parts
            for answer in agree(pairs[part], settings.threshold, tries[part])
        ]
    estimate = _homography if settings.method == "homography" else _estimate_skimage
    return [estimate(one.query, one.other, settings) for one in pairs]


def _tries(count: int, settings: VerificationSettings) -> Trials:
    most = settings.max_trials or _TRIALS["affine"]
    return Trials(
        pairs=min(trials(count, settings, samples=2), max(1, most // _TRIPLES_TO_A_PAIR)),
        triples=trials(count, settings),
        max_zoom=settings.max_zoom if settings.believable else math.inf,
        mirrored=not settings.believable,
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


def believable(
    transform: NDArray[np.float64], points: NDArray, settings: VerificationSettings
) -> bool:
    """Whether a transform keeps the photo's handedness and shape within the limits.

    Judged at the middle of the points: no mirror, no collapse, zoom and shear within
    ``max_zoom`` and ``max_anisotropy``; and no point on the far side of the horizon.
    """
    depths = points @ transform[2, :2] + transform[2, 2]
    if (depths <= 0).any():
        return False
    # The derivative there, whose singular values are the zooms along and across.
    x, y, one = transform @ [*points.mean(axis=0), 1.0]
    (a, b), (c, d) = (
        (transform[:2, :2] - np.outer([x / one, y / one], transform[2, :2])) / one
    ).tolist()
    even, odd = math.hypot(a + d, c - b) / 2, math.hypot(a - d, c + b) / 2
    large, small = even + odd, even - odd
    return (
        small > 1 / settings.max_zoom
        and large < settings.max_zoom
        and large < settings.max_anisotropy * small
    )


def spread(points: NDArray) -> float:
    """Standard deviation of points (N, 2) along their thinnest direction, in their unit."""
    around = points.astype(np.float64)
    around -= around.sum(axis=0) / len(points)
    # The smaller eigenvalue of their covariance.
    (xx, xy), (_, yy) = (around.T @ around).tolist()
    least = (xx + yy - math.hypot(xx - yy, 2 * xy)) / 2
    return math.sqrt(max(least, 0.0) / len(points))


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
    return thinnest >= settings.threshold / 2 and believable(matrix, query, settings)


def verify(pairs: Sequence[Matched], settings: VerificationSettings) -> list[Verification]:
    """Look for one transform that explains the matches of two photos, for many pairs at a time.

    Unless ``settings.believable`` is off, nothing is verified when the supporting points crowd
    along a line or in one spot, in either photo (within half the threshold any transform fits
    them), or when the transform mirrors, collapses or tears the photo.
    """
    found = [Verification.none()] * len(pairs)
    tried = [
        number for number, one in enumerate(pairs) if len(one.matches) > _SAMPLES[settings.method]
    ]
    ends = [pairs[number].ends(settings) for number in tried]
    for number, points, estimate in zip(tried, ends, _estimate(ends, settings), strict=True):
        if estimate is not None:
            found[number] = _judge(pairs[number], points, *estimate, settings)
    return found


def _judge(
    pair: Matched,
    ends: Matches,
    matrix: NDArray[np.float64],
    mask: NDArray[np.bool_],
    settings: VerificationSettings,
) -> Verification:
    if settings.believable and not _holds(matrix, mask, ends.query, ends.other, settings):
        return Verification.none()
    # Back from the reference side's unit to each photo's own pixels.
    query, other = pair.units(settings)
    transform = np.diag([1 / other, 1 / other, 1]) @ matrix @ np.diag([query, query, 1])
    inliers = int(mask.sum())
    return Verification(
        inliers, inliers >= settings.min_inliers, transform / transform[2, 2], pair.matches[mask]
    )

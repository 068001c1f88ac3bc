"""Robust estimators of the transform between two photos, by the name of the setting
``verification.method``."""

from __future__ import annotations

from index.verification.estimators.affine import AffineEstimator
from index.verification.estimators.base import Estimator
from index.verification.estimators.homography import HomographyEstimator
from index.verification.estimators.skimage import SkimageAffineEstimator

ESTIMATORS: dict[str, Estimator] = {
    "affine": AffineEstimator(),
    "homography": HomographyEstimator(),
    "skimage-affine": SkimageAffineEstimator(),
}

__all__ = ["ESTIMATORS", "Estimator"]

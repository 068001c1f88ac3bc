"""RootSIFT local features: the classical baseline, behind the same interface as DELG's."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from delg.types import LocalFeatures

DIM = 128


def extract_sift(
    pixels: NDArray[np.uint8], longest_side: float, max_features: int
) -> LocalFeatures:
    """RootSIFT (Lowe 2004; Arandjelović & Zisserman 2012): SIFT, L1-normalised, square-rooted.

    Args:
        pixels: uint8 (H, W, 3), RGB.
        longest_side: larger photos are resized to it first.
        max_features: how many are kept, the strongest first.

    Returns:
        Features with keypoints in the photo's own pixels; scales are diameters in those pixels.
    """
    height, width = pixels.shape[:2]
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    ratio = min(1.0, longest_side / max(height, width))
    if ratio < 1:
        size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    detected, descriptors = cv2.SIFT.create(nfeatures=max_features).detectAndCompute(grey, None)
    if descriptors is None or not len(detected) or max_features == 0:
        return LocalFeatures.empty(DIM)
    # SIFT may return a few more than requested when responses tie.
    order = np.argsort([-keypoint.response for keypoint in detected], kind="stable")[:max_features]
    points = np.array([detected[i].pt for i in order], np.float32)
    ratios = np.array([width / grey.shape[1], height / grey.shape[0]], np.float32)
    values = descriptors[order].astype(np.float32)
    values /= np.maximum(values.sum(axis=1, keepdims=True), 1e-12)
    return LocalFeatures(
        keypoints=(points + 0.5) * ratios - 0.5,
        descriptors=np.sqrt(values),
        scales=np.array([detected[i].size for i in order], np.float32) * ratios[0],
        scores=np.array([detected[i].response for i in order], np.float32),
    )

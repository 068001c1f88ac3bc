"""The values that travel between stages: small, frozen, typed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
Box = tuple[float, float, float, float]
# Called as progress(done, total, failed) after every item of long work.
Progress = Callable[[int, int, int], None]


@dataclass(frozen=True, eq=False)
class LocalFeatures:
    """The local features of one image, best score first.

    Attributes:
        keypoints: float32 (N, 2), order (x, y), pixels of the upright original image; the centre
            of the top-left pixel is (0, 0).
        descriptors: float32 (N, d), unit length.
        scales: float32 (N,), the pyramid scale at which each feature was found: 1 is the resized
            photo, .5 half of it; 0: unknown. (For SIFT, the keypoint diameter in pixels.)
        scores: float32 (N,), attention (for SIFT, the contrast response).
    """

    keypoints: FloatArray
    descriptors: FloatArray
    scales: FloatArray
    scores: FloatArray

    def __post_init__(self) -> None:
        n = len(self.keypoints)
        if self.keypoints.shape != (n, 2) or self.descriptors.ndim != 2:
            raise ValueError(
                f"keypoints {self.keypoints.shape} and descriptors {self.descriptors.shape} "
                "must be (N, 2) and (N, d)"
            )
        if not len(self.descriptors) == len(self.scales) == len(self.scores) == n:
            raise ValueError("keypoints, descriptors, scales and scores must have equal length")

    def __len__(self) -> int:
        return len(self.keypoints)

    def best(self, count: int) -> LocalFeatures:
        """The first ``count`` of them."""
        return LocalFeatures(
            self.keypoints[:count],
            self.descriptors[:count],
            self.scales[:count],
            self.scores[:count],
        )

    @classmethod
    def empty(cls, dim: int) -> LocalFeatures:
        """No features, with descriptors of width ``dim``."""
        none = np.zeros(0, np.float32)
        return cls(np.zeros((0, 2), np.float32), np.zeros((0, dim), np.float32), none, none)


def invert_scales(scales: NDArray[np.floating]) -> FloatArray:
    """Pyramid scales (N,) as the published tools store them, 1 / scale, and back; float32.

    0, an unknown scale, stays 0.
    """
    exact = np.asarray(scales, np.float64)
    with np.errstate(over="ignore"):
        return np.divide(1, exact, out=np.zeros_like(exact), where=exact != 0).astype(np.float32)


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """Everything extracted from one image.

    Attributes:
        global_descriptor: float32 (D,), unit length.
        local: the local features.
        width, height: pixels of the upright original image.
        regions: parts of the image that were extracted as images of their own.
    """

    global_descriptor: FloatArray
    local: LocalFeatures
    width: int
    height: int
    regions: tuple[RegionFeatures, ...] = ()


@dataclass(frozen=True, eq=False)
class RegionFeatures:
    """A part of an image, extracted as an image of its own.

    Attributes:
        x, y: its top-left pixel in the upright image.
        features: with keypoints in pixels of the part; it has no regions of its own.
    """

    x: int
    y: int
    features: ImageFeatures

    @property
    def box(self) -> Box:
        """(x, y, width, height), pixels of the upright image."""
        return float(self.x), float(self.y), float(self.features.width), float(self.features.height)


@dataclass(frozen=True)
class Failure:
    """An input that could not be used, and why, in words for the person who owns it."""

    path: str
    reason: str

"""The image pyramid: one photo at several sizes, and the way back to its own pixels."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from delg.settings import ExtractionSettings
from delg.types import FloatArray

# Sides of every level are multiples of it, so that cells lie at the same places in each.
ALIGNMENT = 32


@dataclass(frozen=True, eq=False)
class Level:
    """The photo at one scale.

    Attributes:
        scale: the scale asked for, relative to the base size.
        pixels: uint8 (h, w, 3), h and w multiples of 32.
        width, height: of the photo it was made from.
    """

    scale: float
    pixels: NDArray[np.uint8]
    width: int
    height: int

    def to_photo(self, points: FloatArray) -> FloatArray:
        """Points (N, 2), (x, y), from this level's pixels to the photo's, both pixel-centred."""
        h, w = self.pixels.shape[:2]
        ratio = np.array([self.width / w, self.height / h], np.float32)
        return (points + 0.5) * ratio - 0.5


def base_side(pixels: NDArray[np.uint8], spec: ExtractionSettings) -> float:
    """The longest side at scale 1 of a photo (h, w, 3)."""
    return spec.longest_side if spec.enlarge else min(spec.longest_side, max(pixels.shape[:2]))


def _aligned(side: float) -> int:
    return max(ALIGNMENT, round(side / ALIGNMENT) * ALIGNMENT)


def level(pixels: NDArray[np.uint8], scale: float, longest_side: float) -> Level:
    """The photo resized so that its longest side is about ``scale * longest_side``.

    Each side is rounded to a multiple of 32 on its own; :meth:`Level.to_photo` knows both ratios.
    """
    height, width = pixels.shape[:2]
    ratio = scale * longest_side / max(height, width)
    size = (_aligned(width * ratio), _aligned(height * ratio))
    shrinks = size[0] < width and size[1] < height
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized = cv2.resize(pixels, size, interpolation=method)
    return Level(scale, np.asarray(resized, np.uint8), width, height)

"""Parts and quarter turns of photos, and the way back for points found in them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from delg.errors import UsageError
from delg.images.decode import ImageError
from delg.types import Box, FloatArray

# No photo has so many pixels in a row.
_MAX_SIDE = 1e9


def parse_box(values: Any) -> Box:
    """A box as people and programs write it.

    Args:
        values: x, y, width and height in pixels, as numbers or texts, or one text with commas.

    Raises:
        ValueError: they are none; the message says why.
    """
    try:
        x, y, width, height = map(float, values.split(",") if isinstance(values, str) else values)
    except (TypeError, ValueError):
        raise ValueError("expected four numbers in pixels: X,Y,WIDTH,HEIGHT") from None
    if not all(abs(value) < _MAX_SIDE for value in (x, y, width, height)):
        raise ValueError("expected four finite numbers of pixels")
    if width <= 0 or height <= 0:
        raise ValueError("width and height must be positive")
    return x, y, width, height


def crop_to_box(pixels: NDArray[np.uint8], box: Box) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """The part of a photo inside a box.

    Args:
        pixels: uint8 (height, width, 3).
        box: (x, y, width, height) in pixels; what lies outside the photo is cut off.

    Returns:
        A view of the pixels, and its top-left pixel (x, y) in the photo.

    Raises:
        ImageError: the box has no area inside the photo.
        UsageError: it is not four numbers.
    """
    height, width = pixels.shape[:2]
    try:
        x, y, box_width, box_height = map(float, box)
    except (TypeError, ValueError):
        raise UsageError(f"box {box!r}: must be (x, y, width, height) in pixels") from None
    numbers = x, y, box_width, box_height
    shown = ",".join(f"{value:g}" for value in numbers)
    if not np.isfinite(numbers).all():
        raise ImageError(f"the box {shown} must be four finite numbers")
    left, top = max(0, round(x)), max(0, round(y))
    right, bottom = min(width, round(x + box_width)), min(height, round(y + box_height))
    if right - left < 1 or bottom - top < 1:
        raise ImageError(f"the box {shown} has no area inside the photo of {width}×{height} pixels")
    return pixels[top:bottom, left:right], (left, top)


def rotate(pixels: NDArray[np.uint8], rotations: int) -> NDArray[np.uint8]:
    """Pixels (height, width, 3) after ``rotations`` quarter turns counter-clockwise."""
    return np.ascontiguousarray(np.rot90(pixels, rotations)) if rotations % 4 else pixels


def rotate_back(points: FloatArray, width: int, height: int, rotations: int) -> FloatArray:
    """Points found in a rotated photo, in pixels of the photo before.

    Args:
        points: float32 (N, 2) in (x, y), pixels of what :func:`rotate` returned.
        width, height: of the photo before.
        rotations: the quarter turns counter-clockwise it was given.

    Returns:
        float32 (N, 2) in (x, y).
    """
    x, y = points[:, 0], points[:, 1]
    before = {
        0: (x, y),
        1: (width - 1 - y, x),
        2: (width - 1 - x, height - 1 - y),
        3: (y, height - 1 - x),
    }[rotations % 4]
    return np.stack(before, axis=1).astype(np.float32)

"""Composites: flat things pasted into photos, with the truth about what is where.

Each thing covers a given share of the photo. It is tilted, turned a little, lit otherwise and
blended in at its edges; the whole is compressed as a camera would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from delg.types import Box

Pixels = NDArray[np.uint8]

# Longest side of a composite, pixels.
LONGEST_SIDE = 1024
# A corner moves by so much of the thing's side, and the thing turns by so many degrees, at most.
_TILT, _TURN = 0.06, 12.0
# Gain of the light on a thing, at least and at most.
_GAIN = (0.7, 1.15)
# Pixels over which its edge is blended in, and the quality of the JPEG.
_EDGE, _QUALITY = 1.0, 85
# Places tried for a thing before the photo counts as full.
_ATTEMPTS = 200


@dataclass(frozen=True, eq=False)
class Composite:
    """A photo with things in it.

    Attributes:
        pixels: uint8 (H, W, 3), RGB.
        boxes: of each thing, in the order given; None: there was no room for it.
    """

    pixels: Pixels
    boxes: tuple[Box | None, ...]


def compose(
    background: Pixels, things: Sequence[Pixels], share: float, rng: np.random.Generator
) -> Composite:
    """Paste things into a photo.

    Args:
        background: uint8 (H, W, 3), RGB, of any size.
        things: uint8 (h, w, 3) each, flat, seen from the front.
        share: of the photo's area that each of them covers, about.
        rng: of all that is drawn by chance.
    """
    scale = LONGEST_SIDE / max(background.shape[:2])
    resized = cv2.resize(background, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    canvas = np.asarray(resized, np.uint8)
    height, width = canvas.shape[:2]
    boxes: list[Box | None] = []
    for thing in things:
        corners = _corners(thing, share * width * height, rng)
        placed = _place(corners, (width, height), [box for box in boxes if box], rng)
        if placed is None:
            boxes.append(None)
            continue
        canvas = _paste(canvas, thing, placed, rng)
        low, high = placed.min(axis=0), placed.max(axis=0)
        (x, y), (box_width, box_height) = low.tolist(), (high - low).tolist()
        boxes.append((x, y, box_width, box_height))
    return Composite(_compress(canvas), tuple(boxes))


def _corners(thing: Pixels, area: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """The thing's corners (4, 2), (x, y), around (0, 0), for an area in pixels."""
    height, width = thing.shape[:2]
    zoom = np.sqrt(area / (width * height))
    rectangle = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [width, height] * zoom / 2
    tilted = rectangle + rng.uniform(-_TILT, _TILT, (4, 2)) * [width * zoom, height * zoom]
    angle = np.radians(rng.uniform(-_TURN, _TURN))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return np.asarray(tilted @ turn)


def _place(
    corners: NDArray[np.float64],
    size: tuple[int, int],
    taken: Sequence[Box],
    rng: np.random.Generator,
) -> NDArray[np.float64] | None:
    """The corners moved to a free place of the photo; None if none is found."""
    low, high = corners.min(axis=0), corners.max(axis=0)
    room = np.array(size) - 1 - (high - low)
    if (room < 0).any():
        return None
    for _ in range(_ATTEMPTS):
        origin = rng.uniform(0, 1, 2) * room
        box = (*origin, *(high - low))
        if not any(_overlap(box, other) for other in taken):
            return np.asarray(corners - low + origin)
    return None


def _overlap(a: Sequence[float], b: Sequence[float]) -> bool:
    return a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]


def _paste(
    canvas: Pixels, thing: Pixels, corners: NDArray[np.float64], rng: np.random.Generator
) -> Pixels:
    height, width = thing.shape[:2]
    source = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    size = canvas.shape[1], canvas.shape[0]
    # Reduced by area first: warping samples single pixels.
    zoom = min(1.0, float(np.linalg.norm(corners[1] - corners[0])) / width)
    reduced = cv2.resize(thing, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA)
    ratio = np.array([reduced.shape[1] / width, reduced.shape[0] / height], np.float32)
    transform = cv2.getPerspectiveTransform(source * ratio, corners.astype(np.float32))
    lit = np.clip(reduced * rng.uniform(*_GAIN), 0, 255).astype(np.uint8)
    warped = cv2.warpPerspective(lit, transform, size)
    opaque = np.full(reduced.shape[:2], 255, np.uint8)
    mask = cv2.GaussianBlur(cv2.warpPerspective(opaque, transform, size), (0, 0), _EDGE)
    weight = mask[..., None].astype(np.float32) / 255
    return np.asarray(np.rint(warped * weight + canvas * (1 - weight)), np.uint8)


def _compress(pixels: Pixels) -> Pixels:
    _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)

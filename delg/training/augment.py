"""Views of a photo: random crops as published, and beyond them warps, lighting and degradation.

Every view comes with the homography that made it, so that two views of a photo tell where each
point of one lies in the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from delg.training.settings import AugmentSettings
from delg.types import FloatArray

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class View:
    """One view.

    Attributes:
        pixels: uint8 (side, side, 3), RGB.
        homography: float32 (3, 3), from the photo's pixels to the view's.
        size: width and height of the photo.
    """

    pixels: Pixels
    homography: FloatArray
    size: tuple[int, int]


def _crop_quad(
    width: int, height: int, settings: AugmentSettings, rng: np.random.Generator
) -> FloatArray:
    """Corners (4, 2) of a random crop of the given share of area and aspect, in photo pixels.

    The crop lies inside the photo: when ten draws do not fit, it is the largest central crop of a
    permitted aspect.
    """
    low, high = np.log(settings.aspect)
    for _ in range(10):
        area = rng.uniform(*settings.area) * width * height
        aspect = math.exp(rng.uniform(low, high))
        w, h = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if w <= width and h <= height:
            x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
            break
    else:
        aspect = min(max(width / height, settings.aspect[0]), settings.aspect[1])
        w, h = min(width, height * aspect), min(height, width / aspect)
        x, y = (width - w) / 2, (height - h) / 2
    corners = [[x, y], [x + w, y], [x + w, y + h], [x, y + h]]
    return np.array(corners, np.float32) - 0.5


def _distort(quad: FloatArray, settings: AugmentSettings, rng: np.random.Generator) -> FloatArray:
    """The quad rotated about its centre and its corners moved."""
    centre = quad.mean(axis=0)
    angle = math.radians(rng.uniform(-settings.rotation, settings.rotation))
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    rotated = (quad - centre) @ rotation.T + centre
    sides = np.linalg.norm(quad[1] - quad[0]), np.linalg.norm(quad[3] - quad[0])
    shift = rng.uniform(-settings.perspective, settings.perspective, (4, 2)) * sides
    return (rotated + shift).astype(np.float32)


def view(
    photo: Pixels, settings: AugmentSettings, rng: np.random.Generator, background: Pixels | None
) -> View:
    """Draw one view.

    Args:
        photo: uint8 (H, W, 3).
        settings: what may happen.
        rng: the only source of chance.
        background: another photo, to show this one on; None never does.
    """
    height, width = photo.shape[:2]
    side = settings.side
    frame = np.array([[0, 0], [side, 0], [side, side], [0, side]], np.float32) - 0.5
    canvas = None
    if background is not None and rng.random() < settings.on_background:
        # The photo's corners lie inside the view, keeping its aspect.
        corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32) - 0.5
        scale = side * rng.uniform(0.55, 0.95) / max(width, height)
        size = np.array([width, height]) * scale
        x, y = rng.uniform(0, side - size[0]), rng.uniform(0, side - size[1])
        quad = (corners + 0.5) * scale + (x, y) - 0.5
        homography = cv2.getPerspectiveTransform(
            corners, _distort(quad.astype(np.float32), settings, rng)
        )
        canvas = cv2.resize(background, (side, side), interpolation=cv2.INTER_AREA)
    else:
        quad = _distort(_crop_quad(width, height, settings, rng), settings, rng)
        homography = cv2.getPerspectiveTransform(quad, frame)
    pixels = _warp(photo, homography, side)
    if canvas is not None:
        inside = cv2.warpPerspective(
            np.full((height, width), 255, np.uint8), homography, (side, side)
        )
        pixels = np.where(inside[..., None] > 127, pixels, canvas)
    pixels = _degrade(np.ascontiguousarray(pixels), settings, rng, background)
    return View(pixels, homography.astype(np.float32), (width, height))


def _warp(photo: Pixels, homography: np.ndarray, side: int) -> Pixels:
    """Warp; where that makes the photo smaller, it is resized first, against aliasing."""
    height, width = photo.shape[:2]
    centre = homography @ (width / 2, height / 2, 1.0)
    scale = math.sqrt(abs(np.linalg.det(homography)) / max(abs(centre[2]) ** 3, 1e-12))
    if scale < 0.75:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        ratio = np.diag([width / size[0], height / size[1], 1.0])
        # Pixel centres lie at integers: half a pixel is added before the scaling and taken after.
        half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
        homography = homography @ np.linalg.inv(half) @ ratio @ half
        photo = np.asarray(cv2.resize(photo, size, interpolation=cv2.INTER_AREA), np.uint8)
    warped = cv2.warpPerspective(
        photo, homography, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    return np.asarray(warped, np.uint8)


def _degrade(
    pixels: Pixels, settings: AugmentSettings, rng: np.random.Generator, other: Pixels | None
) -> Pixels:
    side = len(pixels)
    if rng.random() < settings.occlusion:
        pixels = _occlude(pixels, rng, other)
    image: np.ndarray = pixels.astype(np.float32)
    if settings.colour:
        low, high, tint = 1 - settings.colour, 1 + settings.colour, settings.colour / 4
        contrast, saturation = rng.uniform(low, high, 2)
        image = (image - image.mean()) * contrast + image.mean()
        grey = image.mean(axis=2, keepdims=True)
        image = grey + (image - grey) * saturation
        image *= rng.uniform(low, high) * rng.uniform(1 - tint, 1 + tint, 3)
    if rng.random() < settings.lighting:
        image = _relight(image, rng)
    if rng.random() < settings.blur:
        if rng.random() < 0.5:
            image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 2.0))
        else:
            smaller = max(8, round(side * rng.uniform(0.35, 0.8)))
            image = cv2.resize(image, (smaller, smaller), interpolation=cv2.INTER_AREA)
            image = cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR)
    if rng.random() < settings.noise:
        image = image + rng.normal(0, rng.uniform(2, 12), image.shape).astype(np.float32)
    pixels = image.clip(0, 255).astype(np.uint8)
    if rng.random() < settings.jpeg:
        quality = int(rng.integers(25, 90))
        coded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        pixels = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)
    return pixels


def _occlude(pixels: Pixels, rng: np.random.Generator, other: Pixels | None) -> Pixels:
    """Cover a rectangle of up to a sixth of the view, with another photo or plain colour."""
    side = len(pixels)
    w, h = (int(x) for x in rng.integers(side // 8, int(side * 0.41), 2))
    x, y = int(rng.integers(0, side - w + 1)), int(rng.integers(0, side - h + 1))
    pixels = pixels.copy()
    if other is not None and rng.random() < 0.5:
        pixels[y : y + h, x : x + w] = cv2.resize(other, (w, h), interpolation=cv2.INTER_AREA)
    else:
        pixels[y : y + h, x : x + w] = rng.integers(0, 256, 3)
    return pixels


def _relight(image: FloatArray, rng: np.random.Generator) -> FloatArray:
    """A shadow across the view, a reflection, or both."""
    side = len(image)
    y, x = np.mgrid[:side, :side].astype(np.float32) / side - 0.5
    if rng.random() < 0.6:
        angle, shift = rng.uniform(0, 2 * math.pi), rng.uniform(-0.4, 0.4)
        across = x * math.cos(angle) + y * math.sin(angle) - shift
        shade = 1 / (1 + np.exp(-across * rng.uniform(4, 40)))
        image = image * (1 - rng.uniform(0.2, 0.6) * shade)[..., None]
    if rng.random() < 0.6:
        cx, cy, a, b = *rng.uniform(-0.5, 0.5, 2), *rng.uniform(0.05, 0.3, 2)
        glare = np.exp(-(((x - cx) / a) ** 2) - ((y - cy) / b) ** 2)
        image = image + (rng.uniform(60, 220) * glare)[..., None]
    return image.astype(np.float32)

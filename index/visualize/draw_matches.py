"""Drawings of matches: two photos side by side, with lines between their matching points."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from delg.errors import UsageError
from delg.files import write_bytes
from delg.types import Box, FloatArray

Pixels = NDArray[np.uint8]

SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
GAP = 12
BOX_COLOUR = (255, 255, 255)
_PAPER = (250, 248, 244)
_INK = (24, 22, 20)
# Assigned in turn, so neighbours in the list must be easy to tell apart.
PALETTE = np.array(
    [
        (255, 93, 93),
        (76, 180, 255),
        (255, 225, 77),
        (150, 140, 255),
        (125, 220, 91),
        (242, 123, 240),
        (47, 214, 195),
        (255, 176, 46),
    ],
    np.uint8,
)
# Fractional bits of OpenCV's drawing coordinates, and the limit of what it accepts in pixels.
_SHIFT = 4
_MAX_COORDINATE = 30_000


@dataclass(frozen=True)
class Frame:
    """The place of a photo on a canvas.

    Attributes:
        x, y, width, height: in pixels of the canvas, from its outer top-left corner.
        source_width, source_height: size of the photo in the pixels of its points.
    """

    x: int
    y: int
    width: int
    height: int
    source_width: int
    source_height: int

    def to_canvas(self, points: FloatArray) -> NDArray[np.float64]:
        """Map points of the photo to the canvas.

        Args:
            points: (N, 2), (x, y), where the centre of the photo's first pixel is (0, 0).

        Returns:
            float64 (N, 2), where the outer corner of the canvas is (0, 0), as in SVG.
        """
        pairs = np.asarray(points, np.float64).reshape(-1, 2)
        return self._scale(pairs + 0.5)

    def box_to_canvas(self, box: Box) -> tuple[float, float, float, float]:
        """Map a box (x, y, width, height) of the photo to the canvas, clipped to the photo."""
        corners = np.array([box[:2], (box[0] + box[2], box[1] + box[3])], np.float64)
        low, high = (self.x, self.y), (self.x + self.width, self.y + self.height)
        (left, top), (right, bottom) = np.clip(self._scale(corners), low, high).tolist()
        return left, top, right - left, bottom - top

    def _scale(self, edges: NDArray[np.float64]) -> NDArray[np.float64]:
        scale = (self.width / self.source_width, self.height / self.source_height)
        return np.asarray((self.x, self.y) + edges * scale)


@dataclass(frozen=True)
class Layout:
    """Two photos on one canvas of ``width`` times ``height`` pixels."""

    query: Frame
    hit: Frame
    width: int
    height: int


def side_by_side(
    query_size: tuple[int, int], hit_size: tuple[int, int], longest_side: int, gap: int = GAP
) -> Layout:
    """Lay out two photos next to each other, at equal height unless that would make one tiny.

    Args:
        query_size, hit_size: (width, height).
        longest_side: limit of either photo on the canvas, in pixels.
        gap: pixels between them.
    """
    sizes = np.array([query_size, hit_size], np.float64)
    longest = sizes.max(axis=1)
    fitted = sizes * (longest_side / longest)[:, None]
    equal_height = sizes * (fitted[:, 1].min() / sizes[:, 1])[:, None]
    if equal_height.max(axis=1).min() >= longest_side / 3:
        fitted = equal_height
    (qw, qh), (hw, hh) = np.maximum(np.rint(fitted), 1).astype(int).tolist()
    height = max(qh, hh)
    return Layout(
        Frame(0, (height - qh) // 2, qw, qh, *query_size),
        Frame(qw + gap, (height - hh) // 2, hw, hh, *hit_size),
        qw + gap + hw,
        height,
    )


def match_colours(query_points: FloatArray) -> Pixels:
    """One colour per match, by the position of its point in the query.

    Colours alternate from top to bottom, so that neighbouring lines can be told apart.

    Args:
        query_points: (N, 2), (x, y).

    Returns:
        uint8 (N, 3), RGB.
    """
    points = np.asarray(query_points, np.float64).reshape(-1, 2)
    order = np.lexsort((points[:, 0], points[:, 1]))
    position = np.empty(len(points), np.intp)
    position[order] = np.arange(len(points))
    return PALETTE[position % len(PALETTE)]


def resize(pixels: Pixels, width: int, height: int) -> Pixels:
    """Resize uint8 (H, W, 3) pixels without aliasing."""
    if pixels.shape[:2] == (height, width):
        return pixels
    is_smaller = height < pixels.shape[0]
    method = cv2.INTER_AREA if is_smaller else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=method), np.uint8)


def draw_matches(
    query_pixels: Pixels,
    hit_pixels: Pixels,
    query_points: FloatArray,
    points: FloatArray,
    longest_side: int = 720,
    box: Box | None = None,
    region: Box | None = None,
) -> Pixels:
    """Draw both photos side by side, with one line per match.

    Args:
        query_pixels, hit_pixels: uint8 (H, W, 3), RGB, upright.
        query_points, points: (N, 2), (x, y), in the pixels of these two photos.
        longest_side: of each photo in the drawing, in pixels.
        box: the part of the query that was searched with, (x, y, width, height) in its pixels.
        region: the part of the hit that matches, in its pixels.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        ValueError: the numbers of points differ.
    """
    if len(query_points) != len(points):
        raise ValueError(f"{len(query_points)} query points do not pair with {len(points)} points")
    layout = side_by_side(_size(query_pixels), _size(hit_pixels), longest_side)
    canvas = np.full((layout.height, layout.width, 3), _PAPER, np.uint8)
    for frame, pixels in ((layout.query, query_pixels), (layout.hit, hit_pixels)):
        rows, columns = (
            slice(frame.y, frame.y + frame.height),
            slice(frame.x, frame.x + frame.width),
        )
        canvas[rows, columns] = resize(pixels, frame.width, frame.height)
    for frame, part in ((layout.query, box), (layout.hit, region)):
        if part is not None:
            _draw_box(canvas, frame.box_to_canvas(part))
    starts = _to_opencv(layout.query.to_canvas(query_points))
    ends = _to_opencv(layout.hit.to_canvas(points))
    return _draw_lines(canvas, starts, ends, match_colours(query_points))


def save_drawing(path: str | Path, drawing: Pixels) -> None:
    """Write a drawing, uint8 (H, W, 3) RGB, as PNG or JPEG, as the suffix says.

    Raises:
        UsageError: the suffix is unknown.
        DelgError: the file cannot be written.
    """
    image_format = SUFFIXES.get(Path(path).suffix.lower())
    if image_format is None:
        raise UsageError(f"{path}: must end in one of {', '.join(SUFFIXES)}")
    write_bytes(path, encode_image(drawing, image_format, quality=92))


def encode_image(pixels: Pixels, image_format: str, quality: int) -> bytes:
    """Encode pixels as an image file.

    Args:
        pixels: uint8 (H, W, 3), RGB.
        image_format: "PNG" or "JPEG".
        quality: of JPEG, 1 to 95.
    """
    buffer = io.BytesIO()
    options = {"quality": quality} if image_format == "JPEG" else {}
    Image.fromarray(np.ascontiguousarray(pixels)).save(
        buffer, image_format, optimize=True, **options
    )
    return buffer.getvalue()


def _size(pixels: Pixels) -> tuple[int, int]:
    return pixels.shape[1], pixels.shape[0]


def _to_opencv(points: NDArray[np.float64]) -> list[list[int]]:
    """Canvas points as OpenCV's integers with fractional bits."""
    # OpenCV counts from the centre of the first pixel.
    clipped = np.clip(points - 0.5, -_MAX_COORDINATE, _MAX_COORDINATE)
    coordinates: list[list[int]] = np.rint(clipped * (1 << _SHIFT)).astype(int).tolist()
    return coordinates


def _draw_box(canvas: Pixels, box: tuple[float, float, float, float]) -> None:
    left, top, width, height = box
    low = round(left), round(top)
    high = max(low[0], round(left + width) - 1), max(low[1], round(top + height) - 1)
    # A dark outline around the light one is visible on any photo.
    cv2.rectangle(canvas, low, high, _INK, 4)
    cv2.rectangle(canvas, low, high, BOX_COLOUR, 2)


def _draw_lines(
    canvas: Pixels, starts: list[list[int]], ends: list[list[int]], colours: Pixels
) -> Pixels:
    """Slightly transparent lines, so that the photos stay visible, and solid dots on top."""
    lines = canvas.copy()
    matches = list(zip(starts, ends, colours.tolist(), strict=True))
    for start, end, colour in matches:
        cv2.line(lines, start, end, colour, 1, cv2.LINE_AA, _SHIFT)
    canvas = np.asarray(cv2.addWeighted(lines, 0.75, canvas, 0.25, 0), np.uint8)
    for start, end, colour in matches:
        for point in (start, end):
            cv2.circle(canvas, point, 4 << _SHIFT, _INK, -1, cv2.LINE_AA, _SHIFT)
            cv2.circle(canvas, point, 3 << _SHIFT, colour, -1, cv2.LINE_AA, _SHIFT)
    return canvas

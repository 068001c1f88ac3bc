"""Two photos side by side and lines between their matched points: the proof of a hit."""

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
# Taken in turn, so that colours next to each other in the list must differ clearly.
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
# Sub-pixel bits of OpenCV's drawing coordinates, and how far off the canvas one may point.
_SHIFT = 4
_FAR = 30_000


@dataclass(frozen=True)
class Frame:
    """Where one photo lies on a canvas.

    Attributes:
        x, y, width, height: in the canvas' pixels, counted from its outer top-left corner.
        source_width, source_height: pixels of the photo in which its points are given.
    """

    x: int
    y: int
    width: int
    height: int
    source_width: int
    source_height: int

    def place(self, points: FloatArray) -> NDArray[np.float64]:
        """Points of the photo on the canvas.

        Args:
            points: (N, 2), (x, y), where the centre of the photo's first pixel is (0, 0).

        Returns:
            float64 (N, 2), where the outer corner of the canvas is (0, 0), as in SVG.
        """
        pairs = np.asarray(points, np.float64).reshape(-1, 2)
        return self._scale(pairs + 0.5)

    def place_box(self, box: Box) -> tuple[float, float, float, float]:
        """A box (x, y, width, height) of the photo on the canvas, cut to the photo."""
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
    """Lay two photos next to each other, of one height unless that would make one tiny.

    Args:
        query_size, hit_size: (width, height).
        longest_side: neither photo gets longer than this on the canvas.
        gap: pixels between them.
    """
    sizes = np.array([query_size, hit_size], np.float64)
    longest = sizes.max(axis=1)
    fitted = sizes * (longest_side / longest)[:, None]
    levelled = sizes * (fitted[:, 1].min() / sizes[:, 1])[:, None]
    if levelled.max(axis=1).min() >= longest_side / 3:
        fitted = levelled
    (qw, qh), (hw, hh) = np.maximum(np.rint(fitted), 1).astype(int).tolist()
    height = max(qh, hh)
    return Layout(
        Frame(0, (height - qh) // 2, qw, qh, *query_size),
        Frame(qw + gap, (height - hh) // 2, hw, hh, *hit_size),
        qw + gap + hw,
        height,
    )


def match_colours(query_points: FloatArray) -> Pixels:
    """A colour for each match, by the position of its point in the query.

    Matches are coloured in turn from top to bottom, so that lines that run next to each other
    can be told apart.

    Args:
        query_points: (N, 2), (x, y).

    Returns:
        uint8 (N, 3), RGB.
    """
    points = np.asarray(query_points, np.float64).reshape(-1, 2)
    order = np.lexsort((points[:, 0], points[:, 1]))
    turn = np.empty(len(points), np.intp)
    turn[order] = np.arange(len(points))
    return PALETTE[turn % len(PALETTE)]


def resize(pixels: Pixels, width: int, height: int) -> Pixels:
    """Resize uint8 (H, W, 3) pixels without aliasing."""
    if pixels.shape[:2] == (height, width):
        return pixels
    shrinks = height < pixels.shape[0]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=method), np.uint8)


def draw_matches(
    query_pixels: Pixels,
    hit_pixels: Pixels,
    query_points: FloatArray,
    points: FloatArray,
    longest_side: int = 720,
    box: Box | None = None,
) -> Pixels:
    """Both photos side by side with a line for each match.

    Args:
        query_pixels, hit_pixels: uint8 (H, W, 3), RGB, upright.
        query_points, points: (N, 2), (x, y), in the pixels of these two photos.
        longest_side: of each photo in the drawing, in pixels.
        box: the part of the query that was looked at, (x, y, width, height) in its pixels.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        ValueError: there are not as many query points as points.
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
    if box is not None:
        _draw_box(canvas, layout.query.place_box(box))
    starts = _fixed_point(layout.query.place(query_points))
    ends = _fixed_point(layout.hit.place(points))
    return _draw_lines(canvas, starts, ends, match_colours(query_points))


def save_drawing(path: str | Path, drawing: Pixels) -> None:
    """Write a drawing, uint8 (H, W, 3) RGB, as a PNG or JPEG file, by its suffix.

    Raises:
        UsageError: the suffix is neither of PNG nor of JPEG.
        DelgError: the file cannot be written.
    """
    kind = SUFFIXES.get(Path(path).suffix.lower())
    if kind is None:
        raise UsageError(f"{path}: a drawing is written as one of {', '.join(SUFFIXES)}")
    write_bytes(path, encode(drawing, kind, quality=92))


def encode(pixels: Pixels, kind: str, quality: int) -> bytes:
    """The bytes of an image file, ``kind`` PNG or JPEG; ``quality`` is for JPEG."""
    buffer = io.BytesIO()
    options = {"quality": quality} if kind == "JPEG" else {}
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, kind, optimize=True, **options)
    return buffer.getvalue()


def _size(pixels: Pixels) -> tuple[int, int]:
    return pixels.shape[1], pixels.shape[0]


def _fixed_point(placed: NDArray[np.float64]) -> list[list[int]]:
    """Canvas points as the integers with sub-pixel bits that OpenCV draws from."""
    # OpenCV counts from the centre of the first pixel.
    near = np.clip(placed - 0.5, -_FAR, _FAR)
    fixed: list[list[int]] = np.rint(near * (1 << _SHIFT)).astype(int).tolist()
    return fixed


def _draw_box(canvas: Pixels, box: tuple[float, float, float, float]) -> None:
    left, top, width, height = box
    low = round(left), round(top)
    high = max(low[0], round(left + width) - 1), max(low[1], round(top + height) - 1)
    # A dark line outside the light one shows on any photo.
    cv2.rectangle(canvas, low, high, _INK, 4)
    cv2.rectangle(canvas, low, high, BOX_COLOUR, 2)


def _draw_lines(
    canvas: Pixels, starts: list[list[int]], ends: list[list[int]], colours: Pixels
) -> Pixels:
    """Lines a little transparent, so that the photos stay visible, and solid dots on top."""
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

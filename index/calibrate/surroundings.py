"""What surrounds a picture and is not the picture: frames, mounts, screens, pages, shelves.

Two different pictures in equal surroundings are what a count of matches mistakes for one picture.
Everything is drawn from a seed, so that many pictures can be given the same surroundings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Surroundings = Callable[[Pixels, np.random.Generator, Sequence[Pixels]], Pixels]

_LETTERS = "ABCDEFGHIJKLMNOPRSTUVWY"
_FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_COMPLEX, cv2.FONT_HERSHEY_TRIPLEX)


def surround(picture: Pixels, kind: str, seed: int, photos: Sequence[Pixels]) -> Pixels:
    """A picture in surroundings that depend on the kind, the seed and the picture's size alone.

    Args:
        picture: uint8 (H, W, 3), RGB.
        kind: a key of :data:`KINDS`.
        photos: textures come from them, and neighbours on a shelf.

    Returns:
        uint8 (H', W', 3): the picture, unchanged, amid its surroundings.
    """
    return KINDS[kind](picture, np.random.default_rng(seed), photos)


def _any_of(photos: Sequence[Pixels], rng: np.random.Generator) -> Pixels:
    return photos[int(rng.integers(len(photos)))]


def _on_canvas(canvas: Pixels, picture: Pixels, left: int, top: int) -> Pixels:
    height, width = picture.shape[:2]
    canvas[top : top + height, left : left + width] = picture
    return canvas


def _texture(
    photos: Sequence[Pixels], rng: np.random.Generator, height: int, width: int, tile: int
) -> Pixels:
    """A part of a photo, mirrored over and over, as carved ornament repeats, in one tint."""
    photo = _any_of(photos, rng)
    side = max(8, min(tile, *photo.shape[:2]))
    y, x = (int(rng.integers(0, extent - side + 1)) for extent in photo.shape[:2])
    patch = photo[y : y + side, x : x + side]
    strip = np.concatenate([patch, patch[:, ::-1]], axis=1)
    block = np.concatenate([strip, strip[::-1]], axis=0)
    repeats = -(-height // block.shape[0]), -(-width // block.shape[1]), 1
    tiled = np.tile(block, repeats)[:height, :width].astype(np.float32)
    grey = tiled.mean(axis=2, keepdims=True)
    tint = rng.uniform(0.35, 1.0, 3) * np.array([1.0, 0.85, 0.6])
    strength = rng.uniform(0.5, 1.2)
    return ((grey - grey.mean()) * strength * tint + 150 * tint).clip(0, 255).astype(np.uint8)


def _frame(picture: Pixels, rng: np.random.Generator, photos: Sequence[Pixels]) -> Pixels:
    """A carved frame: ornament, and mouldings that run around the picture."""
    height, width = picture.shape[:2]
    band = int(min(height, width) * rng.uniform(0.10, 0.3))
    canvas = _texture(photos, rng, height + 2 * band, width + 2 * band, max(band, 16))
    for _ in range(rng.integers(2, 6)):
        inset = int(rng.integers(0, band))
        shade = tuple(int(value) for value in rng.integers(0, 256, 3))
        corner = width + 2 * band - 1 - inset, height + 2 * band - 1 - inset
        cv2.rectangle(canvas, (inset, inset), corner, shade, int(rng.integers(1, 4)))
    return _on_canvas(canvas, picture, band, band)


def _mount(picture: Pixels, rng: np.random.Generator, photos: Sequence[Pixels]) -> Pixels:
    """A wide mount of paper in a narrow frame."""
    height, width = picture.shape[:2]
    margin = int(min(height, width) * rng.uniform(0.15, 0.35))
    paper = np.empty((height + 2 * margin, width + 2 * margin, 3), np.uint8)
    paper[:] = rng.integers(190, 250, 3)
    grain = rng.normal(0, rng.uniform(1, 5), paper.shape[:2])
    paper = (paper + grain[..., None]).clip(0, 255).astype(np.uint8)
    bevel = max(2, margin // 12)
    edge = margin - bevel
    opposite = edge + width + 2 * bevel, edge + height + 2 * bevel
    cv2.rectangle(paper, (edge, edge), opposite, (120, 115, 105), bevel)
    paper = _on_canvas(paper, picture, margin, margin)
    return _frame(paper, rng, photos) if rng.random() < 0.7 else paper


def _wall(picture: Pixels, rng: np.random.Generator, photos: Sequence[Pixels]) -> Pixels:
    """A frame on a patterned wall, with a label beside it."""
    framed = _frame(picture, rng, photos)
    height, width = framed.shape[:2]
    margin = int(min(height, width) * rng.uniform(0.2, 0.5))
    wall = _texture(photos, rng, height + 2 * margin, width + 2 * margin, int(rng.integers(24, 96)))
    wall = _on_canvas(wall, framed, margin, margin)
    label = max(12, margin // 2)
    x, y = margin + width + margin // 5, margin + height - label
    cv2.rectangle(wall, (x, y), (x + label, y + label), (240, 240, 235), -1)
    for line in range(3):
        _write(wall, rng, x + 2, y + (line + 1) * label // 4, label // 5, 8)
    return wall


def _screen(picture: Pixels, rng: np.random.Generator, photos: Sequence[Pixels]) -> Pixels:
    """A window of a program on a screen: title, menus, icons, a task bar and a bezel."""
    height, width = picture.shape[:2]
    bar, side = max(14, height // 12), max(20, int(width * rng.uniform(0.08, 0.3)))
    shade = [int(value) for value in rng.integers(20, 230, 3)]
    canvas = np.empty((height + 4 * bar, width + side + bar, 3), np.uint8)
    canvas[:] = shade
    _write(canvas, rng, 6, bar - 4, bar * 2 // 3, 24)
    _write(canvas, rng, 6, 2 * bar - 4, bar // 2, 40)
    for row in range(2 * bar, height + bar, bar):
        _write(canvas, rng, 6, row + bar, bar // 2, 8)
    size = bar - 6
    for icon in range(int(rng.integers(4, 9))):
        photo = _any_of(photos, rng)
        tile = cv2.resize(photo, (size, size), interpolation=cv2.INTER_AREA)
        left = 6 + icon * (size + 6)
        if left + size < canvas.shape[1]:
            canvas[height + 3 * bar + 3 : height + 3 * bar + 3 + size, left : left + size] = tile
    canvas = _on_canvas(canvas, picture, side, 2 * bar)
    bezel = cv2.copyMakeBorder(canvas, bar, bar, bar, bar, cv2.BORDER_CONSTANT, value=(15, 15, 18))
    return np.asarray(bezel, np.uint8)


def _page(picture: Pixels, rng: np.random.Generator, photos: Sequence[Pixels]) -> Pixels:
    """A page: masthead, columns of text around the picture, a caption."""
    height, width = picture.shape[:2]
    line = max(9, height // 28)
    left, top = int(width * rng.uniform(0.05, 0.4)), int(height * rng.uniform(0.2, 0.5))
    canvas = np.full((top + height + 12 * line, left + width + 4 * line, 3), 245, np.uint8)
    canvas[:] = rng.integers(225, 255, 3)
    _write(canvas, rng, line, top * 2 // 3, top // 3, 12)
    for row in range(top, canvas.shape[0] - line, line + line // 3):
        beside = row < top + height + line
        letters = left // max(line // 2, 1) - 2 if beside else canvas.shape[1] // max(line // 2, 1)
        _write(canvas, rng, line // 2, row + line, line * 3 // 4, max(letters, 2))
    return _on_canvas(canvas, picture, left, top)


def _masthead(picture: Pixels, rng: np.random.Generator, photos: Sequence[Pixels]) -> Pixels:
    """A cover: the title, a badge and a foot line printed over the picture itself."""
    canvas = picture.copy()
    height, width = canvas.shape[:2]
    colour = tuple(int(value) for value in rng.integers(0, 256, 3))
    band = int(height * rng.uniform(0.12, 0.25))
    if rng.random() < 0.5:
        cv2.rectangle(canvas, (0, 0), (width, band), colour, -1)
    _write(canvas, rng, width // 30, band * 4 // 5, band * 3 // 5, 7)
    _write(canvas, rng, width // 30, height - band // 4, band // 4, 20)
    photo = _any_of(photos, rng)
    side = band * 2 // 3
    badge = cv2.resize(photo, (side, side), interpolation=cv2.INTER_AREA)
    return _on_canvas(canvas, np.asarray(badge, np.uint8), width - side - 4, height - side - 4)


def _shelf(picture: Pixels, rng: np.random.Generator, photos: Sequence[Pixels]) -> Pixels:
    """A shelf: other things stand to both sides, a board and price labels below."""
    height, width = picture.shape[:2]
    neighbours = [
        cv2.resize(_any_of(photos, rng), (max(24, width * 2 // 3), height)) for _ in range(2)
    ]
    row = np.concatenate([neighbours[0], picture, neighbours[1]], axis=1)
    board = _texture(photos, rng, max(16, height // 6), row.shape[1], 32)
    for x in range(10, row.shape[1] - 60, 80):
        _write(board, rng, x, board.shape[0] * 2 // 3, board.shape[0] // 2, 5)
    return np.concatenate([row, board], axis=0)


def _write(
    canvas: Pixels, rng: np.random.Generator, x: int, y: int, height: int, letters: int
) -> None:
    """A line of text whose letters are about that high, in place; at most so many letters."""
    words = "".join(rng.choice(list(_LETTERS + "  "), max(1, letters)))
    font = _FONTS[rng.integers(len(_FONTS))]
    scale = max(height, 6) / 22
    shade = (20, 20, 20) if canvas.mean() > 110 else (235, 235, 235)
    thickness = max(1, round(scale * 1.5))
    cv2.putText(canvas, words, (x, y), font, scale, shade, thickness, cv2.LINE_AA)


KINDS: dict[str, Surroundings] = {
    "frame": _frame,
    "mount": _mount,
    "wall": _wall,
    "screen": _screen,
    "page": _page,
    "masthead": _masthead,
    "shelf": _shelf,
}

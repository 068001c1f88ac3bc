"""A small gallery and hard synthetic queries, from photos that come with scikit-image.

Nothing is downloaded: only files inside the installed package are read. Files that the installed
version of scikit-image lacks are left out.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from delg.errors import DelgError
from delg.files import write_bytes
from delg.images.decode import ImageError, decode_bytes
from index.visualize.draw_matches import Pixels, encode_image, resize

Change = Callable[[Pixels, np.random.Generator], Pixels]

# Name in the gallery -> file of scikit-image.
GALLERY = {
    "astronaut": "astronaut.png",
    "brick": "brick.png",
    "camera": "camera.png",
    "cat": "chelsea.png",
    "cell": "cell.png",
    "coins": "coins.png",
    "colour-wheel": "color.png",
    "hubble": "hubble_deep_field.jpg",
    "logo": "logo.png",
    "moon": "moon.png",
    "motorcycle": "motorcycle_left.png",
    "page": "page.png",
    "phantom": "phantom.png",
    "retina": "retina.jpg",
    "rocket": "rocket.jpg",
    "text": "text.png",
    "tissue": "ihc.png",
}
# Photos outside the gallery: a second view, queries without a match, and backgrounds.
OTHERS = {
    "coffee": "coffee.png",
    "grass": "grass.png",
    "gravel": "gravel.png",
    "motorcycle-right": "motorcycle_right.png",
}
_LONGEST_SIDE = 900
_DESK_SIZE = (960, 720)


@dataclass(frozen=True)
class DemoQuery:
    """One query of the demo.

    Attributes:
        path: of the query photo.
        expected: file name of the gallery photo that shows the same, or None.
        variant: how the photo was made, in words.
    """

    path: Path
    expected: str | None
    variant: str


@dataclass(frozen=True)
class _Plan:
    """How a query is made: from which photo, under which file name, by which change."""

    photo: str
    slug: str
    variant: str
    change: Change
    expected: str | None


def make_gallery(folder: str | Path) -> list[DemoQuery]:
    """Write ``gallery/<name>.jpg`` and ``queries/<name>-<variant>.jpg`` into a folder.

    The same package versions always give the same bytes.

    Returns:
        The queries, in display order.

    Raises:
        DelgError: a file cannot be written, or all photos are missing.
    """
    folder = Path(folder)
    optional = {name: read_photo(file) for name, file in (GALLERY | OTHERS).items()}
    photos = {name: pixels for name, pixels in optional.items() if pixels is not None}
    gallery = photos.keys() & GALLERY.keys()
    if not gallery:
        raise DelgError("the demo's photos are missing; install them: pip install scikit-image")
    for part in ("gallery", "queries"):
        _make_folder(folder / part)
    for name in gallery:
        data = encode_image(photos[name], "JPEG", quality=92)
        write_bytes(folder / "gallery" / f"{name}.jpg", data)
    return [
        _make_query(plan, photos[plan.photo], folder / "queries")
        for plan in _plans(photos)
        if plan.photo in photos and (plan.expected is None or plan.expected in photos)
    ]


def read_photo(file: str) -> Pixels | None:
    """Pixels of a photo inside scikit-image, uint8 (H, W, 3) RGB; None if there is no such file.

    Raises:
        DelgError: the file cannot be read.
    """
    try:
        data = resources.files("skimage").joinpath("data").joinpath(file).read_bytes()
    except (ModuleNotFoundError, FileNotFoundError):
        return None
    try:
        pixels = decode_bytes(data)
    except ImageError as error:
        raise DelgError(f"scikit-image's {file}: {error}") from None
    scale = min(1.0, _LONGEST_SIDE / max(pixels.shape[:2]))
    return resize(pixels, round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DelgError(f"{folder}: cannot be created: {error.strerror or error}") from None


def _make_query(plan: _Plan, pixels: Pixels, folder: Path) -> DemoQuery:
    name = f"{plan.photo.removesuffix('-right')}-{plan.slug}"
    # Each query has its own seed, so that a missing photo changes no other query.
    changed = plan.change(pixels, np.random.default_rng(zlib.crc32(name.encode())))
    path = folder / f"{name}.jpg"
    write_bytes(path, encode_image(changed, "JPEG", quality=20 if plan.slug == "worn" else 88))
    expected = None if plan.expected is None else f"{plan.expected}.jpg"
    return DemoQuery(path, expected, plan.variant)


def _plans(photos: dict[str, Pixels]) -> Iterator[_Plan]:
    """All queries; a background whose photo is missing is replaced by plain wood."""
    on_wood = partial(_print_on, background=None)
    on_gravel = partial(_print_on, background=photos.get("gravel"))
    on_grass = partial(_print_on, background=photos.get("grass"))
    changes: dict[str, tuple[str, Change]] = {
        "desk": ("a print on a cluttered desk, from the side", on_wood),
        "gravel": ("a print lying on gravel, from the side", on_gravel),
        "grass": ("a print lying in the grass, from the side", on_grass),
        "tilt": ("seen at a steep angle", _tilt),
        "crop": ("a detail, close up", _crop),
        "turned-90": ("rotated by 90°", partial(_rotate_quarters, quarters=1)),
        "turned-180": ("upside down", partial(_rotate_quarters, quarters=2)),
        "turned": ("rotated by an arbitrary angle", _rotate_freely),
        "dark": ("in the dark, lit from one side", partial(_light, level=0.4, glare=0.0)),
        "glare": ("in bright light, with glare", partial(_light, level=1.25, glare=0.9)),
        "worn": ("out of focus, JPEG quality 20", _blur),
    }
    yield _Plan("motorcycle-right", "second-view", "a second view", _unchanged, "motorcycle")
    queries = (
        *("astronaut desk", "astronaut dark", "camera gravel", "camera turned-180", "cat crop"),
        *("cat glare", "coins turned-90", "coins worn", "hubble turned", "logo grass"),
        *("moon crop", "page tilt", "page worn", "retina turned-90", "rocket glare"),
        *("rocket tilt", "text desk", "tissue turned", "tissue crop"),
    )
    for query in queries:
        photo, slug = query.split()
        yield _Plan(photo, slug, *changes[slug], photo)
    yield _Plan("coffee", "desk", "not in the gallery: a print on a desk", on_wood, None)
    yield _Plan("grass", "dark", "not in the gallery: in the dark", changes["dark"][1], None)


def _unchanged(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    return pixels


def _crop(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """A window of half the width and height, enlarged."""
    height, width = pixels.shape[:2]
    w, h = round(width * 0.52), round(height * 0.52)
    x, y = rng.integers(width // 8, width - w - width // 8 + 1), rng.integers(0, height - h + 1)
    scale = 560 / max(w, h)
    return resize(pixels[y : y + h, x : x + w], round(w * scale), round(h * scale))


def _rotate_quarters(pixels: Pixels, rng: np.random.Generator, quarters: int) -> Pixels:
    return np.ascontiguousarray(np.rot90(_light(pixels, rng, 0.9, 0.0), quarters))


def _rotate_freely(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Rotated by 20 to 50 degrees either way, on a table large enough for the corners."""
    height, width = pixels.shape[:2]
    side = round(float(np.hypot(width, height)))
    angle = float(rng.uniform(20, 50) * rng.choice((-1, 1)))
    middle = (width - 1) / 2, (height - 1) / 2
    rotation = np.asarray(cv2.getRotationMatrix2D(middle, angle, 0.95), np.float64)
    rotation[:, 2] += ((side - width) / 2, (side - height) / 2)
    return _paste(_wood(side, side, rng), pixels, np.vstack((rotation, (0, 0, 1))))


def _tilt(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """The photo at a steep angle; its far side is little more than half as long as its near one."""
    height, width = pixels.shape[:2]
    corners = np.array([(0.2, 0.16), (0.8, 0.08), (1.02, 0.98), (-0.02, 0.9)])
    corners += rng.uniform(-0.03, 0.03, (4, 2))
    target = corners * (width, height)
    return _paste(_wood(width, height, rng), pixels, _to_quad(pixels, target))


def _light(pixels: Pixels, rng: np.random.Generator, level: float, glare: float) -> Pixels:
    """Light that falls off to one side, and a spot of glare."""
    height, width = pixels.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    slope = 1 + 0.45 * (np.cos(angle) * x + np.sin(angle) * y)
    spot_x, spot_y = rng.uniform(-0.5, 0.5, 2)
    spot = np.exp(-(((x - spot_x) / 0.35) ** 2 + ((y - spot_y) / 0.25) ** 2))
    lit = pixels * (level * slope)[..., None] + (255 * glare * spot)[..., None]
    return _sensor(lit, rng, noise=4.0)


def _blur(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    return _sensor(_soft(pixels, 1.6), rng, noise=3.0)


def _soft(pixels: Pixels, sigma: float) -> Pixels:
    return np.asarray(cv2.GaussianBlur(pixels, (0, 0), sigma), np.uint8)


def _print_on(pixels: Pixels, rng: np.random.Generator, background: Pixels | None) -> Pixels:
    """A print with a white margin, seen from the side, on a cluttered surface."""
    width, height = _DESK_SIZE
    table = (
        _wood(width, height, rng) if background is None else _cover(background, width, height, rng)
    )
    _clutter(table, rng)
    margin = round(max(pixels.shape[:2]) * 0.04)
    paper = np.full((pixels.shape[0] + 2 * margin, pixels.shape[1] + 2 * margin, 3), 244, np.uint8)
    paper[margin:-margin, margin:-margin] = pixels
    quad = _quad(paper, width, height, rng)
    photo = _paste(_shadow(table, quad), paper, _to_quad(paper, quad))
    return _light(_soft(photo, 0.7), rng, 0.95, 0.12)


def _quad(paper: Pixels, width: int, height: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Corners (4, 2) of a sheet that lies rotated on a table and is seen from the side."""
    half = np.array([paper.shape[1], paper.shape[0]]) / max(paper.shape[:2])
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * half
    angle = np.deg2rad(rng.uniform(8, 22) * rng.choice((-1, 1)))
    rotation = np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])
    flat = corners @ rotation.T
    # Farther up on the table is farther away: smaller, and nearer to the middle.
    quad = flat * (1, 0.9) / (1 - 0.22 * flat[:, 1:])
    low, high = quad.min(axis=0), quad.max(axis=0)
    size = np.array([width, height])
    quad = (quad - (low + high) / 2) * (0.82 * size / (high - low)).min()
    return np.asarray(quad + size * (0.5 + rng.uniform(-0.05, 0.05, 2)))


def _to_quad(pixels: Pixels, corners: NDArray[np.float64]) -> NDArray[np.float64]:
    height, width = pixels.shape[:2]
    own = np.array([(0, 0), (width - 1, 0), (width - 1, height - 1), (0, height - 1)], np.float32)
    return np.asarray(cv2.getPerspectiveTransform(own, corners.astype(np.float32)))


def _paste(table: Pixels, pixels: Pixels, transform: NDArray[np.float64]) -> Pixels:
    """Warp a photo onto a table, with smooth edges."""
    size = table.shape[1], table.shape[0]
    warped = cv2.warpPerspective(pixels, transform, size, flags=cv2.INTER_AREA)
    mask = cv2.warpPerspective(np.ones(pixels.shape[:2], np.float32), transform, size)[..., None]
    return np.asarray(warped * mask + table * (1 - mask), np.uint8)


def _shadow(table: Pixels, quad: NDArray[np.float64]) -> Pixels:
    shape = np.zeros(table.shape[:2], np.float32)
    cv2.fillConvexPoly(shape, np.rint(quad + np.array((9, 12))).astype(np.int32), 1.0)
    shade = np.asarray(cv2.GaussianBlur(shape, (0, 0), 8))[..., None]
    return np.asarray(table * (1 - 0.55 * shade), np.uint8)


def _wood(width: int, height: int, rng: np.random.Generator) -> Pixels:
    """Wooden boards: noise stretched along the grain."""
    noise = rng.normal(0, 1, (height, max(2, width // 24))).astype(np.float32)
    fine = np.asarray(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC))
    grain = fine + 2 * np.asarray(cv2.GaussianBlur(fine, (0, 0), sigmaX=12, sigmaY=3))
    grain[:: max(1, height // 5)] -= 5
    tone = np.array((138, 96, 62)) * rng.uniform(0.75, 1.15)
    return np.clip(tone + 9 * grain[..., None], 0, 255).astype(np.uint8)


def _cover(surface: Pixels, width: int, height: int, rng: np.random.Generator) -> Pixels:
    """A photo of a surface, enlarged to the table's size and tinted."""
    tint = rng.uniform(0.75, 1.0, 3)
    scale = max(width / surface.shape[1], height / surface.shape[0])
    size = round(surface.shape[1] * scale), round(surface.shape[0] * scale)
    return (resize(surface, *size)[:height, :width] * tint).astype(np.uint8)


def _clutter(table: Pixels, rng: np.random.Generator) -> None:
    """Draw sheets of writing and pens onto the table."""
    height, width = table.shape[:2]
    for _ in range(3):
        center = rng.uniform((0, 0), (width, height))
        _draw_sheet(table, (float(center[0]), float(center[1])), float(rng.uniform(0, 180)), rng)
    for _ in range(4):
        start = rng.integers((0, 0), (width, height))
        end = start + rng.integers(-220, 220, 2)
        colour = rng.integers(20, 230, 3).tolist()
        cv2.line(table, start.tolist(), end.tolist(), colour, 9, cv2.LINE_AA)


def _draw_sheet(
    table: Pixels, center: tuple[float, float], angle: float, rng: np.random.Generator
) -> None:
    sheet = np.full((300, 220, 3), rng.integers(200, 250, 3), np.uint8)
    for line in range(24, 280, 14):
        end = int(rng.integers(60, 200))
        cv2.line(sheet, (18, line), (end, line), (70, 70, 80), 2, cv2.LINE_AA)
    rotation = np.asarray(cv2.getRotationMatrix2D((110, 150), angle, 1), np.float64)
    rotation[:, 2] += np.array(center) - (110, 150)
    table[:] = _paste(table, sheet, np.vstack((rotation, (0, 0, 1))))


def _sensor(light: NDArray[np.floating] | Pixels, rng: np.random.Generator, noise: float) -> Pixels:
    """A camera's response: noise, and clipping to 8 bits."""
    return np.clip(light + rng.normal(0, noise, light.shape), 0, 255).astype(np.uint8)

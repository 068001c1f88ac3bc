"""What self-contained HTML pages are made of: photos as data inside them, and their templates."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import jinja2

from index.visualize.draw_matches import Pixels, encode, resize

QUALITY = 80


@dataclass(frozen=True)
class Picture:
    """A JPEG, base64, and its size."""

    jpeg: str
    width: int
    height: int


def shrink(pixels: Pixels, longest_side: int, quality: int = QUALITY) -> Picture:
    """The pixels as a JPEG of at most this size."""
    scale = min(1.0, longest_side / max(pixels.shape[:2]))
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    jpeg = encode(resize(pixels, width, height), "JPEG", quality)
    return Picture(base64.b64encode(jpeg).decode("ascii"), width, height)


def load_template(package: str, name: str) -> jinja2.Template:
    """A template of a package; it may include those of ``index``, such as look.css."""
    places = dict.fromkeys((package, "index.visualize"))
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(place) for place in places]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(name)

"""Self-contained HTML pages: photos embedded as data, and templates."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import jinja2

from index.visualize.draw_matches import Pixels, encode_image, resize

QUALITY = 80


@dataclass(frozen=True)
class EmbeddedImage:
    """A JPEG in base64, and its size in pixels."""

    jpeg: str
    width: int
    height: int


def embed_image(pixels: Pixels, longest_side: int, quality: int = QUALITY) -> EmbeddedImage:
    """Encode pixels, uint8 (H, W, 3) RGB, as a JPEG of at most ``longest_side`` pixels a side."""
    scale = min(1.0, longest_side / max(pixels.shape[:2]))
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    jpeg = encode_image(resize(pixels, width, height), "JPEG", quality)
    return EmbeddedImage(base64.b64encode(jpeg).decode("ascii"), width, height)


def load_template(package: str, name: str) -> jinja2.Template:
    """A template of a package; it may include templates of ``index.visualize``."""
    packages = dict.fromkeys((package, "index.visualize"))
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(name) for name in packages]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(name)

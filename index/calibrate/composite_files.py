"""Composites as files, compressed as a camera's photos are."""

from __future__ import annotations

from pathlib import Path

from delg.files import write_bytes
from index.calibrate.composites import Composite
from index.visualize.draw_matches import encode_image

_JPEG_QUALITY = 92


def save_composite(composite: Composite, path: Path) -> None:
    """Write a composite as JPEG.

    Raises:
        DelgError: it cannot be written.
    """
    write_bytes(path, encode_image(composite.pixels, "JPEG", _JPEG_QUALITY))

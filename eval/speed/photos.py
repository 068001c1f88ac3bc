"""Stages that need the network: on packaged photos, with the default model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from delg.decode import decode
from delg.errors import DelgError
from eval.speed.harness import Bench, Result, stage
from index.demo_photos import make_gallery
from index.image_index import ImageIndex


@contextmanager
def demo_index() -> Iterator[tuple[ImageIndex, Path]]:
    """An index of the packaged photos and one of its queries."""
    with TemporaryDirectory() as folder:
        queries = make_gallery(folder)
        chosen = next((one for one in queries if one.expected), None)
        if chosen is None:
            raise DelgError("scikit-image's photos are missing; reinstall scikit-image")
        with ImageIndex.create(Path(folder) / "index") as images:
            images.add(Path(folder) / "gallery")
            yield images, chosen.path


@stage("decode", "extract", "query")
def query(bench: Bench) -> Iterator[Result]:
    """A warm query, and its first steps."""
    with demo_index() as (images, photo):
        pixels = decode(photo)
        yield bench.time("decode", lambda: decode(photo))
        yield bench.time("extract", lambda: images.extractor.extract(pixels))
        yield bench.time(
            "query", lambda: images.query(photo, orientations="1"), note="warm, 17 photos"
        )

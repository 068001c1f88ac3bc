"""How long each stage takes on this machine: medians over several runs, with their spread."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from delg.decode import decode
from delg.errors import DelgError
from index.demo_photos import make_gallery
from index.image_index import ImageIndex
from index.pair import compare


@dataclass(frozen=True)
class Row:
    """One stage: milliseconds, over ``runs`` runs after one that does not count."""

    name: str
    median_ms: float
    fastest_ms: float
    slowest_ms: float
    runs: int


def _time(name: str, work: Callable[[], object], runs: int) -> Row:
    work()
    taken = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        taken.append((time.perf_counter() - started) * 1000)
    return Row(name, float(np.median(taken)), min(taken), max(taken), runs)


@contextmanager
def _demo_index() -> Iterator[tuple[ImageIndex, Path, Path]]:
    """An index of the packaged photos, one of its queries and that query's gallery photo."""
    with TemporaryDirectory() as folder:
        queries = make_gallery(folder)
        chosen = next((one for one in queries if one.expected), None)
        if chosen is None:
            raise DelgError("scikit-image's photos are missing; reinstall scikit-image")
        with ImageIndex.create(Path(folder) / "index") as images:
            images.add(Path(folder) / "gallery")
            yield images, chosen.path, Path(folder) / "gallery" / str(chosen.expected)


def measure(runs: int = 9) -> list[Row]:
    """Time the stages with the default model on packaged photos.

    Returns:
        Rows in the order of the pipeline; ``query`` is the whole of a warm query as it is.
    """
    with _demo_index() as (images, photo, other):
        extractor, settings = images.extractor, images.settings
        pixels = decode(photo)
        query, found = extractor.extract(pixels), extractor.extract(other)

        def warm_query() -> object:
            return images.query(photo, orientations="1")

        return [
            _time("decode", lambda: decode(photo), runs),
            _time("extract", lambda: extractor.extract(pixels), runs),
            _time("verify_pair", lambda: compare(query, found, settings), runs),
            _time("query", warm_query, runs),
        ]


def machine() -> str:
    """The machine in a few words."""
    return f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def report(runs: int = 9) -> dict[str, Any]:
    """The measurements as plain values: ``rows`` and ``machine``."""
    return {"rows": [asdict(row) for row in measure(runs)], "machine": machine()}

"""The demo: index a gallery of packaged photos, and query it with hard pictures of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from delg.images.decode import decode
from delg.types import Progress
from delg.zoo.registry import find_model
from index.demo.photos import DemoQuery, make_gallery
from index.image_index import ImageIndex
from index.results import QueryResult
from index.visualize.draw_matches import Pixels
from index.visualize.html_report import write_html_report


@dataclass(frozen=True)
class DemoResult:
    """A query and what the index answered."""

    query: DemoQuery
    hits: QueryResult

    @property
    def is_right(self) -> bool:
        """Whether the expected photo is first and verified; where none is, nothing verified."""
        first = self.hits[0]
        if self.query.expected is None:
            return not first.verified
        return first.verified and first.id == self.query.expected


def build_demo_index(folder: Path, progress: Progress) -> tuple[ImageIndex, list[DemoQuery]]:
    """Write the demo's photos into a folder and index its gallery.

    Args:
        folder: takes the photos and the index; a second run uses them again.

    Raises:
        DelgError: a file cannot be written, or the packaged photos are missing.
    """
    queries = make_gallery(folder)
    images = _open_or_create(folder / "demo.index")
    images.add(folder / "gallery", progress=progress)
    return images, queries


def query_demo_index(
    images: ImageIndex, queries: Sequence[DemoQuery], progress: Progress
) -> list[DemoResult]:
    """The first five hits of each query, in order."""
    results = []
    for number, query in enumerate(queries, 1):
        results.append(DemoResult(query, images.query(query.path, k=5)))
        progress(number, len(queries), 0)
    return results


def write_demo_page(folder: Path, results: Sequence[DemoResult]) -> Path:
    """Write ``demo.html`` with all queries, hits and matches; returns its path.

    Raises:
        DelgError: it cannot be written.
    """
    page = folder / "demo.html"
    write_html_report(page, _sections(results), title="Demo: photos, and new pictures of them")
    return page


def _open_or_create(path: Path) -> ImageIndex:
    """The demo's index; one that another version's model made is replaced."""
    if ImageIndex.exists(path):
        with ImageIndex.open(path) as images:
            is_current = images.fingerprint == find_model().fingerprint
        if is_current:
            return ImageIndex.open(path)
        shutil.rmtree(path)
    return ImageIndex.create(path)


def _sections(results: Sequence[DemoResult]) -> Iterator[tuple[str, Pixels, QueryResult]]:
    for result in results:
        query = result.query
        yield f"{query.path.name}: {query.variant}", decode(query.path), result.hits

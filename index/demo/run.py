"""The demo: index a gallery of packaged photos, query it with hard pictures of them, show proof."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from delg.cli.console import plural, progress, put, say, table
from delg.images.decode import decode
from delg.zoo.registry import find_model
from index.demo.photos import DemoQuery, make_gallery
from index.image_index import ImageIndex
from index.results import QueryResult
from index.visualize.draw_matches import Pixels
from index.visualize.html_report import write_page

Answer = tuple[DemoQuery, QueryResult]


def is_right(query: DemoQuery, result: QueryResult) -> bool:
    """Whether the first hit is the one expected, with proof; or, where none is, nothing has any."""
    first = result[0]
    if query.expected is None:
        return not first.verified
    return first.verified and first.id == query.expected


def run_demo(folder: Path) -> int:
    """Run it.

    Args:
        folder: takes the photos, the index and the page; a second run uses them again.

    Returns:
        0 when every query found what it should, otherwise 1.
    """
    started = time.monotonic()
    queries = make_gallery(folder)
    place = folder / "demo.index"
    images = _index(place)
    with progress("gallery") as report:
        images.add(folder / "gallery", progress=report)
    answers: list[Answer] = []
    with progress("queries") as report:
        for number, query in enumerate(queries, 1):
            answers.append((query, images.query(query.path, k=5)))
            report(number, len(queries), 0)
    right = sum(is_right(*answer) for answer in answers)
    table(["query", "made by", "first hit", "inliers", "score", ""], map(_row, answers))
    page = folder / "demo.html"
    write_page(page, _sections(answers), title="Demo: photos and their re-photographed twins")
    put(
        f"{right} of {len(answers)} queries right, "
        f"{plural(len(images), 'photo')} indexed, {time.monotonic() - started:.0f} s"
    )
    say(f"open {page.absolute()} to see the matches")
    return 0 if right == len(answers) else 1


def _index(place: Path) -> ImageIndex:
    """The demo's index, made anew when another version's model made it."""
    if ImageIndex.exists(place):
        with ImageIndex.open(place) as images:
            current = images.fingerprint == find_model().fingerprint
        if current:
            return ImageIndex.open(place)
        shutil.rmtree(place)
    return ImageIndex.create(place)


def _row(answer: Answer) -> list[str]:
    query, result = answer
    first = result[0]
    shown = first.id if first.verified else f"({first.id}, not verified)"
    verdict = "right" if is_right(query, result) else f"WRONG, expected {query.expected or 'none'}"
    return [
        query.path.name, query.variant, shown, str(first.inliers), f"{first.score:.2f}", verdict
    ]  # fmt: skip


def _sections(answers: list[Answer]) -> Iterator[tuple[str, Pixels, QueryResult]]:
    for query, result in answers:
        yield f"{query.path.name}: {query.variant}", decode(query.path), result

"""Drawings and pages of ``delg query``."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from delg.files import make_folder
from delg.remote_path import Location

if TYPE_CHECKING:
    from index.results import QueryResult

log = logging.getLogger(__name__)


class UniqueNames:
    """Gives each query a name for its drawings, even if two files have the same name."""

    def __init__(self) -> None:
        self._used: set[str] = set()

    def of(self, photo: Location) -> str:
        """That of a photo."""
        name = next(
            name
            for name in (photo.stem if n == 1 else f"{photo.stem}~{n}" for n in count(1))
            if name not in self._used
        )
        self._used.add(name)
        return name


def draw_hits(folder: Path, query: str, photo: Location, result: QueryResult) -> None:
    """Draw the matches of each hit that has any into a folder."""
    from delg.images.decode import ImageError, decode
    from index.visualize.draw_matches import draw_matches, save_drawing

    pixels = decode(photo)
    make_folder(folder)
    for hit in result:
        if not hit.inliers:
            continue
        try:
            other = decode(hit.path)
        except ImageError as error:
            log.info("not drawn: %s: %s", hit.path, error)
            continue
        name = f"{query}-{hit.rank:02d}-{Path(hit.id).stem}.jpg"
        drawing = draw_matches(
            pixels, other, hit.query_points, hit.points, box=result.box, region=hit.region
        )
        save_drawing(folder / name, drawing)


def write_page(path: Path, results: Iterable[tuple[Location, QueryResult]]) -> None:
    """Write the HTML page of all results."""
    from delg.images.decode import decode
    from index.visualize.html_report import write_html_report

    write_html_report(path, ((str(photo), decode(photo), result) for photo, result in results))
    log.info("page written: %s", path)

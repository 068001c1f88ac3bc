"""A benchmark of your own: two folders of photos and a CSV file with the relevant pairs.

The file has the columns ``query`` and ``relevant``, one line per pair: a query with several
relevant photos has several lines, a query without any has a single line with ``relevant`` left
empty. Ids are paths relative to the folders of the queries and of the gallery. The columns ``x``,
``y``, ``width`` and ``height`` are optional: the query region in pixels, the same on all lines of
the query, or empty for the full photo.

A query that is in the gallery too (when one folder contains the other) must not retrieve itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from delg.errors import UsageError
from delg.remote_path import Location, as_location
from delg.types import Box
from eval.benchmark import Benchmark, QueryPhoto, RetrievalTruth
from eval.datasets.photos import list_photos, name_some
from eval.datasets.tables import read_rows

_COLUMNS = ("query", "relevant")
_BOX_COLUMNS = ("x", "y", "width", "height")


def read_queries(gallery: str | Location, queries: str | Location, truth: Path) -> Benchmark:
    """Read a benchmark of your own.

    Args:
        gallery: the folder to search in, or its URL.
        queries: the folder of the query photos, or its URL.
        truth: the CSV file.

    Raises:
        UsageError: the file is malformed or contradicts itself, names a photo that does not exist,
            or does not mention a query photo.
    """
    gallery, queries, truth = as_location(gallery), as_location(queries), Path(truth)
    # Resolved, so that paths tell whether a query is in the gallery.
    gallery_photos = list_photos(gallery.resolve())
    if not gallery_photos:
        raise UsageError(f"{gallery}: holds no photos")
    query_photos = {photo.id: photo.path for photo in list_photos(queries.resolve())}
    own_ids = {photo.path: photo.id for photo in gallery_photos}
    gallery_ids = set(own_ids.values())

    relevant: dict[str, set[str]] = {}
    unmatched: set[str] = set()
    boxes: dict[str, Box | None] = {}
    for line, (query, image, *numbers) in read_rows(truth, _COLUMNS, _BOX_COLUMNS):
        where = f"{truth}, line {line}"
        if query not in query_photos:
            raise UsageError(f"{where}: {queries} holds no query {query!r}")
        if image and image not in gallery_ids:
            raise UsageError(f"{where}: {gallery} holds no photo {image!r}")
        if image and image == own_ids.get(query_photos[query]):
            raise UsageError(f"{where}: {image!r} is the query itself")
        images = relevant.setdefault(query, set())
        if image in images or query in unmatched or (images and not image):
            repeat = f"{image!r} again" if image in images else "with and without a relevant one"
            raise UsageError(f"{where}: query {query!r} is listed {repeat}")
        images.update([image] if image else [])
        unmatched.update([] if image else [query])
        box = _box(numbers, where)
        if boxes.setdefault(query, box) != box:
            raise UsageError(f"{where}: query {query!r} has another box on an earlier line")

    unmentioned = [query for query in query_photos if query not in relevant]
    if unmentioned:
        raise UsageError(
            f"{truth}: does not mention {len(unmentioned):,} of the {len(query_photos):,} photos "
            f"in {queries}: {name_some(unmentioned)}; a query that matches nothing needs a line too"
        )
    if not relevant:
        raise UsageError(f"{truth}: names no query")
    return Benchmark(
        name=truth.stem,
        protocol="retrieval",
        gallery=tuple(gallery_photos),
        queries=tuple(
            QueryPhoto(query, query_photos[query], boxes[query], own_ids.get(query_photos[query]))
            for query in relevant
        ),
        truth={query: RetrievalTruth(frozenset(ids)) for query, ids in relevant.items()},
    )


def _box(texts: Sequence[str], where: str) -> Box | None:
    if not any(texts):
        return None
    try:
        x, y, width, height = map(float, texts)
    except ValueError:
        raise UsageError(f"{where}: x, y, width and height must all be numbers, or empty") from None
    if not all(map(math.isfinite, (x, y, width, height))) or width <= 0 or height <= 0:
        raise UsageError(f"{where}: the box {', '.join(texts)} is empty or not finite")
    return x, y, width, height

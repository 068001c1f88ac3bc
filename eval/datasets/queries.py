"""Any benchmark of one's own: two folders of photos and a CSV file that says what is right.

The file has the columns ``query`` and ``relevant``, one line for each pair: a query that has
several right answers has several lines, one that has none has a single line with ``relevant`` left
empty. Ids are paths relative to the folders of the queries and of the gallery. The columns ``x``,
``y``, ``width`` and ``height`` are optional: the part of the query that counts, in pixels, the same
on all its lines, or empty for the whole photo.

A query that lies in the gallery too (when one folder holds the other) must not find itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from delg.errors import UsageError
from delg.types import Box
from eval.benchmark import Benchmark, QueryPhoto, RetrievalTruth
from eval.datasets.photos import list_photos, name_some
from eval.datasets.tables import read_rows

_COLUMNS = ("query", "relevant")
_BOX_COLUMNS = ("x", "y", "width", "height")


def read_queries(gallery: Path, queries: Path, truth: Path) -> Benchmark:
    """Read a benchmark of one's own.

    Args:
        gallery: the folder to search in.
        queries: the folder of the query photos.
        truth: the CSV file.

    Raises:
        UsageError: the file is malformed or contradicts itself, names a photo that is not there, or
            does not mention a query photo.
    """
    gallery, queries, truth = Path(gallery), Path(queries), Path(truth)
    # Resolved, so that a query's path tells whether it is in the gallery.
    gallery_photos = list_photos(gallery.resolve())
    if not gallery_photos:
        raise UsageError(f"{gallery}: holds no photos")
    query_photos = {photo.id: photo.path for photo in list_photos(queries.resolve())}
    own_ids = {photo.path: photo.id for photo in gallery_photos}
    known = set(own_ids.values())

    relevant: dict[str, set[str]] = {}
    without: set[str] = set()
    boxes: dict[str, Box | None] = {}
    for line, (query, answer, *numbers) in read_rows(truth, _COLUMNS, _BOX_COLUMNS):
        where = f"{truth}, line {line}"
        if query not in query_photos:
            raise UsageError(f"{where}: {queries} holds no query {query!r}")
        if answer and answer not in known:
            raise UsageError(f"{where}: {gallery} holds no photo {answer!r}")
        if answer and answer == own_ids.get(query_photos[query]):
            raise UsageError(f"{where}: {answer!r} is the query itself")
        answers = relevant.setdefault(query, set())
        if answer in answers or query in without or (answers and not answer):
            said = f"{answer!r} again" if answer in answers else "both with and without an answer"
            raise UsageError(f"{where}: query {query!r} stands there {said}")
        answers.update([answer] if answer else [])
        without.update([] if answer else [query])
        box = _box(numbers, where)
        if boxes.setdefault(query, box) != box:
            raise UsageError(f"{where}: query {query!r} has another box on an earlier line")

    unasked = [query for query in query_photos if query not in relevant]
    if unasked:
        raise UsageError(
            f"{truth}: does not mention {len(unasked):,} of the {len(query_photos):,} photos in "
            f"{queries}: {name_some(unasked)}; a query that matches nothing needs a line too"
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

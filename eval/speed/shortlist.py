"""The shortlist: a search among a million made-up photos, ten million in memory, and how it grows.

Recall is of the hundred nearest by brute force.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from delg.types import FloatArray
from eval.speed.harness import Bench, Growth, Point, Result, Row, milliseconds, stage
from eval.speed.vectors import DIM, Vectors
from index.settings import ShortlistSettings
from index.storage.ann_index import FILE, AnnIndex, Rows

_COUNT, _QUICK_COUNT, _LARGE_COUNT = 1_000_000, 50_000, 10_000_000
_GROWING = (1_000, 10_000, 100_000)
_NEAREST, _QUERIES = 100, 100
_EXACT_TURNS = 11
_TIME = Growth("Search for the 100 nearest", "photos", "ms")
_SIZE = Growth("The shortlist in memory", "photos", "MiB")
_GIB, _MIB = 1 << 30, 1 << 20


@dataclass(frozen=True, eq=False)
class _Built:
    """A shortlist of made-up photos that went to disk and back, and how to look at them again.

    Attributes:
        bytes: of its file.
        seconds: it took to build.
        exact: float16 (photos, D) on disk, as an index keeps them.
    """

    shortlist: AnnIndex
    settings: ShortlistSettings
    bytes: int
    seconds: float
    exact: np.ndarray

    def nearest(self, query: FloatArray, count: int) -> Rows:
        """As :meth:`index.storage.store.Store.nearest` does it, without the catalog."""
        rows, _ = self.shortlist.search(query, self.shortlist.candidate_count(count, self.settings))
        if self.shortlist.is_exact():
            return rows
        similarities = self.exact[rows].astype(np.float32) @ query
        return rows[np.argsort(-similarities, kind="stable")[:count]]


def _build(vectors: Vectors, folder: Path, settings: ShortlistSettings) -> _Built:
    folder.mkdir()
    started = time.perf_counter()
    made = AnnIndex.train(DIM, vectors.count, vectors.sample, settings)
    with (folder / "exact").open("wb") as file:
        for first, some in vectors.chunks():
            made.add(some, np.arange(first, first + len(some)))
            file.write(some.astype(np.float16).tobytes())
    exact = np.memmap(folder / "exact", np.float16, "r", shape=(vectors.count, DIM))
    seconds = time.perf_counter() - started
    made.save(folder, 1)
    loaded = AnnIndex.load(folder, DIM, settings.nprobe)
    assert loaded is not None
    return _Built(loaded[0], settings, (folder / FILE).stat().st_size, seconds, exact)


def _recall(built: _Built, vectors: Vectors, queries: FloatArray) -> float:
    """Mean share of the nearest that are found."""
    expected = vectors.nearest(queries, _NEAREST)
    shares = [
        np.isin(one, built.nearest(query, _NEAREST)).mean()
        for query, one in zip(queries, expected, strict=True)
    ]
    return float(np.mean(shares))


def _times(built: _Built, queries: FloatArray) -> list[float]:
    built.nearest(queries[0], _NEAREST)
    return [milliseconds(partial(built.nearest, query, _NEAREST)) for query in queries]


@stage("search_exact")
def exact(bench: Bench) -> Iterator[Result]:
    """Our search of the exact kind, and FAISS's own call on the same index."""
    vectors = Vectors(_QUICK_COUNT if bench.quick else _COUNT)
    settings = ShortlistSettings(kind="flat")
    made = AnnIndex.train(DIM, vectors.count, vectors.sample, settings)
    for first, some in vectors.chunks():
        made.add(some, np.arange(first, first + len(some)))
    [query] = vectors.queries(1)
    yield bench.time(
        "search_exact",
        lambda: made.search(query, _NEAREST),
        lambda: made.faiss_index.search(query[None], _NEAREST),
        runs=max(bench.runs, _EXACT_TURNS),
        note=f"{vectors.count:,} photos of {DIM} numbers; the baseline is FAISS's own call",
    )


@stage("search_million", "search_million_recall", "search_million_bytes", "search_million_build")
def million(bench: Bench) -> Iterator[Result]:
    """The kind that is chosen for many photos; FAISS's own call without looking again."""
    count = _QUICK_COUNT if bench.quick else _COUNT
    vectors, settings = Vectors(count), ShortlistSettings(ivf_from=1)
    built = _build(vectors, bench.folder / "shortlist", settings)
    queries = vectors.queries(_QUERIES)
    times = _times(built, queries)
    note = f"{count:,} photos, {built.shortlist.kind}, looked at again by float16 on disk"
    raw = built.shortlist.faiss_index
    baseline = None
    if bench.baseline:
        found = [milliseconds(partial(raw.search, one[None], _NEAREST)) for one in queries]
        baseline = float(np.median(found))
    yield Row.of("search_million", times, baseline=baseline, note=note)
    yield Row.of("search_million_recall", [_recall(built, vectors, queries)], "recall@100")
    yield Row.of("search_million_bytes", [built.bytes / count], "bytes", note="a photo, in memory")
    yield Row.of("search_million_build", [built.seconds], "s", note="training and adding")
    if bench.quick:
        return
    yield Point(_TIME, built.shortlist.kind, count, float(np.median(times)))
    yield Point(_SIZE, built.shortlist.kind, count, built.bytes / _MIB)
    for fewer in _GROWING:
        some = Vectors(fewer)
        one = _build(some, bench.folder / str(fewer), ShortlistSettings())
        middle = float(np.median(_times(one, some.queries(20))))
        yield Point(_TIME, one.shortlist.kind, fewer, middle)
        yield Point(_SIZE, one.shortlist.kind, fewer, one.bytes / _MIB)


@stage(
    "search_ten_million",
    "search_ten_million_recall",
    "search_ten_million_memory",
    "search_ten_million_build",
    extra="large",
)
def ten_million(bench: Bench) -> Iterator[Result]:
    """Ten million photos, built and searched; takes minutes and 10 GB of disk."""
    vectors, settings = Vectors(_LARGE_COUNT), ShortlistSettings()
    built = _build(vectors, bench.folder / "shortlist", settings)
    queries = vectors.queries(_QUERIES)
    # Before descriptors on disk are looked at: mapped pages of the system's cache count as well.
    for query in queries:
        built.shortlist.search(query, _NEAREST)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    gib = peak * (1 if sys.platform == "darwin" else 1024) / _GIB
    times = _times(built, queries)
    note = f"{_LARGE_COUNT:,} photos, {built.shortlist.kind}"
    yield Row.of("search_ten_million", times, note=note)
    yield Row.of("search_ten_million_memory", [gib], "GiB", note="the process's peak, all included")
    yield Row.of("search_ten_million_build", [built.seconds], "s", note="training and adding")
    yield Point(_TIME, built.shortlist.kind, _LARGE_COUNT, float(np.median(times)))
    yield Point(_SIZE, built.shortlist.kind, _LARGE_COUNT, built.bytes / _MIB)
    recall = _recall(built, vectors, queries)
    yield Row.of("search_ten_million_recall", [recall], "recall@100")

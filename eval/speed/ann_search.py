"""The ANN index: search among a million synthetic photos, ten million in memory, and growth.

Recall is relative to the hundred nearest by brute force.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from delg.types import FloatArray
from eval.speed.harness import Bench, Growth, Point, Result, Row, milliseconds, stage
from eval.speed.processes import peak_memory
from eval.speed.synthetic_vectors import DIM, Vectors
from index.settings import ShortlistSettings
from index.storage.ann_index import FILE, AnnIndex, Rows

_COUNT, _QUICK_COUNT, _LARGE_COUNT = 1_000_000, 50_000, 10_000_000
_GROWING = (1_000, 10_000, 100_000)
_NEAREST, _QUERIES = 100, 100
_EXACT_TURNS = 11
_TIME = Growth("Search for the 100 nearest", "photos", "ms")
_SIZE = Growth("The ANN index in memory", "photos", "MiB")
_GIB, _MIB = 1 << 30, 1 << 20


@dataclass(frozen=True, eq=False)
class _SavedIndex:
    """An ANN index of synthetic photos, saved and loaded, with the vectors to refine its hits.

    Attributes:
        ann_index: as loaded.
        settings: it was built with.
        bytes: size of its file.
        seconds: to build it.
        vectors: float16 (photos, D) on disk, as an index of two bytes per component stores them.
    """

    ann_index: AnnIndex
    settings: ShortlistSettings
    bytes: int
    seconds: float
    vectors: np.ndarray

    def nearest(self, query: FloatArray, count: int) -> Rows:
        """As :meth:`index.storage.store.Store.nearest`, without the catalog."""
        rows, _ = self.ann_index.search(query, self.ann_index.candidate_count(count, self.settings))
        if self.ann_index.is_exact():
            return rows
        similarities = self.vectors[rows].astype(np.float32) @ query
        return rows[np.argsort(-similarities, kind="stable")[:count]]


def _build(vectors: Vectors, folder: Path, settings: ShortlistSettings) -> _SavedIndex:
    folder.mkdir()
    started = time.perf_counter()
    ann_index = AnnIndex.train(DIM, vectors.count, vectors.sample, settings)
    with (folder / "vectors").open("wb") as file:
        for first, chunk in vectors.chunks():
            ann_index.add(chunk, np.arange(first, first + len(chunk)))
            file.write(chunk.astype(np.float16).tobytes())
    stored = np.memmap(folder / "vectors", np.float16, "r", shape=(vectors.count, DIM))
    seconds = time.perf_counter() - started
    ann_index.save(folder, 1)
    loaded = AnnIndex.load(folder, DIM, settings.nprobe)
    assert loaded is not None
    return _SavedIndex(loaded[0], settings, (folder / FILE).stat().st_size, seconds, stored)


def _recall(saved: _SavedIndex, vectors: Vectors, queries: FloatArray) -> float:
    """Mean share of the true nearest that are retrieved."""
    expected = vectors.nearest(queries, _NEAREST)
    shares = [
        np.isin(nearest, saved.nearest(query, _NEAREST)).mean()
        for query, nearest in zip(queries, expected, strict=True)
    ]
    return float(np.mean(shares))


def _times(saved: _SavedIndex, queries: FloatArray) -> list[float]:
    saved.nearest(queries[0], _NEAREST)
    return [milliseconds(partial(saved.nearest, query, _NEAREST)) for query in queries]


@stage("search_exact")
def search_exact(bench: Bench) -> Iterator[Result]:
    """Exact search; the reference is FAISS's own call on the same index."""
    vectors = Vectors(_QUICK_COUNT if bench.quick else _COUNT)
    settings = ShortlistSettings(kind="flat")
    ann_index = AnnIndex.train(DIM, vectors.count, vectors.sample, settings)
    for first, chunk in vectors.chunks():
        ann_index.add(chunk, np.arange(first, first + len(chunk)))
    [query] = vectors.queries(1)
    yield bench.time(
        "search_exact",
        lambda: ann_index.search(query, _NEAREST),
        lambda: ann_index.faiss_index.search(query[None], _NEAREST),
        runs=max(bench.runs, _EXACT_TURNS),
        note=f"{vectors.count:,} photos of {DIM} numbers; the baseline is FAISS's own call",
    )


@stage("search_million", "search_million_recall", "search_million_bytes", "search_million_build")
def search_million(bench: Bench) -> Iterator[Result]:
    """Search as for many photos; the reference is FAISS's own call, without refinement."""
    count = _QUICK_COUNT if bench.quick else _COUNT
    vectors, settings = Vectors(count), ShortlistSettings(ivf_from=1)
    saved = _build(vectors, bench.folder / "shortlist", settings)
    queries = vectors.queries(_QUERIES)
    times = _times(saved, queries)
    note = f"{count:,} photos, {saved.ann_index.kind}, refined by float16 on disk"
    raw = saved.ann_index.faiss_index
    baseline = None
    if bench.baseline:
        faiss_times = [milliseconds(partial(raw.search, q[None], _NEAREST)) for q in queries]
        baseline = float(np.median(faiss_times))
    yield Row.of("search_million", times, baseline=baseline, note=note)
    yield Row.of("search_million_recall", [_recall(saved, vectors, queries)], "recall@100")
    yield Row.of(
        "search_million_bytes", [saved.bytes / count], "bytes", note="per photo, in memory"
    )
    yield Row.of("search_million_build", [saved.seconds], "s", note="training and adding")
    if bench.quick:
        return
    yield Point(_TIME, saved.ann_index.kind, count, float(np.median(times)))
    yield Point(_SIZE, saved.ann_index.kind, count, saved.bytes / _MIB)
    for count in _GROWING:
        vectors = Vectors(count)
        saved = _build(vectors, bench.folder / str(count), ShortlistSettings())
        median = float(np.median(_times(saved, vectors.queries(20))))
        yield Point(_TIME, saved.ann_index.kind, count, median)
        yield Point(_SIZE, saved.ann_index.kind, count, saved.bytes / _MIB)


@stage(
    "search_ten_million",
    "search_ten_million_recall",
    "search_ten_million_memory",
    "search_ten_million_build",
    extra="large",
)
def search_ten_million(bench: Bench) -> Iterator[Result]:
    """Ten million photos, indexed and searched; takes minutes and 10 GB of disk."""
    vectors, settings = Vectors(_LARGE_COUNT), ShortlistSettings()
    saved = _build(vectors, bench.folder / "shortlist", settings)
    queries = vectors.queries(_QUERIES)
    # Before descriptors on disk are read: pages mapped from the system's cache count as well.
    for query in queries:
        saved.ann_index.search(query, _NEAREST)
    gib = peak_memory() / _GIB
    times = _times(saved, queries)
    note = f"{_LARGE_COUNT:,} photos, {saved.ann_index.kind}"
    yield Row.of("search_ten_million", times, note=note)
    yield Row.of("search_ten_million_memory", [gib], "GiB", note="peak of the process")
    yield Row.of("search_ten_million_build", [saved.seconds], "s", note="training and adding")
    yield Point(_TIME, saved.ann_index.kind, _LARGE_COUNT, float(np.median(times)))
    yield Point(_SIZE, saved.ann_index.kind, _LARGE_COUNT, saved.bytes / _MIB)
    recall = _recall(saved, vectors, queries)
    yield Row.of("search_ten_million_recall", [recall], "recall@100")

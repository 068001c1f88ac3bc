"""One index against its own shards: whether answers are equal, and what scatter and gather cost.

``delg eval speed shards`` measures an index of yours, in one process and on nodes of Ray; the stage
measures synthetic photos in one process.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from delg.errors import UsageError
from delg.images.scan import scan
from eval.speed.harness import Bench, Result, Row, milliseconds, stage
from eval.speed.ray_cluster import ray_cluster
from eval.speed.synthetic import make_index, photo
from index.image_index import ImageIndex
from index.results import QueryResult
from index.sharding.reshard import reshard
from index.sharding.shards import ShardMap

Query = Callable[[ImageIndex], QueryResult]
_PHOTOS, _QUICK_PHOTOS, _FEATURES = 1600, 120, 300
_COUNTS = (1, 2, 4, 8)
# Queries before those that are timed: they read and compile what the first ones wait for.
_WARM = 3
# A busy machine must not make answers partial.
_DEADLINE_SECONDS = 300.0


@stage(*(f"shards_{count}" for count in _COUNTS))
def shards(bench: Bench) -> Iterator[Result]:
    """One photo searched for in the same photos, in one index and in several shards of it."""
    count = _QUICK_PHOTOS if bench.quick else _PHOTOS
    features = [photo(_FEATURES, seed=seed) for seed in range(count)]
    make_index(bench.folder / "one", features).close()
    note = f"{count:,} photos in one process, 100 verified"
    for shard_count in _COUNTS:
        folder = bench.folder / f"{shard_count}.index"
        reshard([bench.folder / "one"], folder, shard_count if shard_count > 1 else None)
        with ImageIndex.open(folder) as images:
            images.query_features(features[0])
            times = [
                milliseconds(lambda: images.query_features(features[0])) for _ in range(bench.runs)
            ]
        yield Row.of(f"shards_{shard_count}", times, note=note)


@dataclass(frozen=True)
class ShardBenchmark:
    """What is compared.

    Attributes:
        index: an ordinary index.
        counts: numbers of shards.
        queries: how many.
        photos: folder of the photos to query with; None: by features of the index itself.
        nodes: of a cluster of Ray that answers for the shards too.
    """

    index: Path
    counts: Sequence[int]
    queries: int
    photos: Path | None = None
    nodes: int = 0


@dataclass
class _Arrangement:
    """The same photos in one index, or in shards.

    Attributes:
        name: of its rows.
        answers: to each query, what must be equal.
        milliseconds, cpu_milliseconds: of each query; the processor's time of this process.
        per_second: queries answered when as many are asked at once as there are processors.
    """

    name: str
    images: ImageIndex
    answers: list[object] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)
    cpu_milliseconds: list[float] = field(default_factory=list)
    per_second: list[float] = field(default_factory=list)

    def ask(self, query: Query) -> None:
        started, worked = time.perf_counter(), time.process_time()
        result = query(self.images)
        self.milliseconds.append((time.perf_counter() - started) * 1000)
        self.cpu_milliseconds.append((time.process_time() - worked) * 1000)
        self.answers.append(_comparable(result))

    def ask_at_once(self, queries: Sequence[Query]) -> None:
        started = time.perf_counter()
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            list(threads.map(lambda query: query(self.images), queries))
        self.per_second.append(len(queries) / (time.perf_counter() - started))

    def differing(self, single: _Arrangement) -> int:
        """Number of the queries that were answered otherwise."""
        return sum(a != b for a, b in zip(single.answers, self.answers, strict=True))


def compare_shards(benchmark: ShardBenchmark, folder: Path) -> tuple[list[Row], list[str]]:
    """Ask all queries of an index and of its shards in turn, so that other work on the machine
    slows all of them.

    Args:
        folder: for the shards.

    Returns:
        The rows, and what is wrong: arrangements whose answers differ from those of the index.

    Raises:
        UsageError: the index is sharded, or there are no photos to query with.
    """
    with ExitStack() as stack:
        address = stack.enter_context(ray_cluster(benchmark.nodes))
        single = stack.enter_context(ImageIndex.open(benchmark.index))
        if single.shard_count:
            raise UsageError(f"{benchmark.index}: is sharded; name an ordinary index")
        queries = _queries(single, benchmark.photos, benchmark.queries)
        arrangements = [_Arrangement("one_index", single)]
        for count in benchmark.counts:
            place = _split(benchmark.index, folder / f"{count}.index", count)
            ways = {f"shards_{count}": None} | ({f"shards_{count}_ray": address} if address else {})
            for name, ray in ways.items():
                images = stack.enter_context(ImageIndex.open(place, ray=ray))
                if benchmark.photos is not None:
                    images.use(single.extractor)
                arrangements.append(_Arrangement(name, images))
        _ask(arrangements, queries)
        return _rows(arrangements), _problems(arrangements)


def _queries(images: ImageIndex, photos: Path | None, count: int) -> list[Query]:
    rng = np.random.default_rng(0)
    if photos is not None:
        paths = [str(photo.path) for photo in scan([photos]).photos]
        if not paths:
            raise UsageError(f"{photos}: no photos there")
        return [_query_by_photo(paths[n]) for n in rng.permutation(len(paths))[:count]]
    ids = images.ids()
    if not ids:
        raise UsageError(f"{images.path}: has no photos")
    return [_query_by_features(images, ids[n]) for n in rng.permutation(len(ids))[:count]]


def _query_by_photo(path: str) -> Query:
    return lambda images: images.query(path)


def _query_by_features(images: ImageIndex, image_id: str) -> Query:
    features = images.features(image_id)
    return lambda images: images.query_features(features)


def _split(index: Path, place: Path, count: int) -> Path:
    reshard([index], place, count)
    shard_map = ShardMap.read(place)
    shard_map.model_copy(update={"deadline_seconds": _DEADLINE_SECONDS}).write(place)
    return place


def _ask(arrangements: Sequence[_Arrangement], queries: Sequence[Query]) -> None:
    for query in queries[:_WARM]:
        for each in arrangements:
            query(each.images)
    for number, query in enumerate(queries):
        for each in _in_turn(arrangements, number):
            each.ask(query)
    # Half of them and the other half, in opposite orders.
    for number in range(min(2, len(queries))):
        for each in _in_turn(arrangements, number):
            each.ask_at_once(queries[number::2])


def _in_turn(arrangements: Sequence[_Arrangement], number: int) -> Iterable[_Arrangement]:
    return arrangements if number % 2 else reversed(arrangements)


def _comparable(result: QueryResult) -> object:
    hits = [
        (
            hit.id, hit.score, hit.similarity, hit.inliers, hit.probability, hit.verified,
            hit.label, hit.region, None if hit.transform is None else hit.transform.tolist(),
        )
        for hit in result
    ]  # fmt: skip
    return hits, result.orientation, result.partial


def _rows(arrangements: Sequence[_Arrangement]) -> list[Row]:
    single, rows = arrangements[0], []
    for each in arrangements:
        cpu, single_cpu = np.mean(each.cpu_milliseconds), np.mean(single.cpu_milliseconds)
        extra = np.median(np.subtract(each.milliseconds, single.milliseconds))
        total = len(each.answers)
        note = f"{cpu:.0f} ms of processors of this process"
        if each is not single:
            note = (
                f"{total - each.differing(single)} of {total} answers equal; "
                f"{extra:+.1f} ms per query; {note} ({cpu / single_cpu - 1:+.0%})"
            )
        baseline = None if each is single else float(np.median(single.milliseconds))
        rows.append(Row.of(each.name, each.milliseconds, baseline=baseline, note=note))
    for each in arrangements:
        baseline = None if each is single else float(np.median(single.per_second))
        rows.append(
            Row.of(
                f"{each.name}_rate", each.per_second, "queries/s", baseline,
                f"{os.cpu_count()} asked at once", more_is_better=True,
            )
        )  # fmt: skip
    return rows


def _problems(arrangements: Sequence[_Arrangement]) -> list[str]:
    single, *others = arrangements
    return [
        f"{each.name}: {count} of {len(each.answers)} answers differ from those of one index"
        for each in others
        if (count := each.differing(single))
    ]

"""How a query grows with the number of shards, where each holds as many photos.

Shards of this machine share its processors, so that a query of eight takes the work of eight. What
it would take if each shard had a machine like this one for itself is measured too: shards are
asked one after the other, and of each request only the slowest shard counts. Networks are left out.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from delg.types import ImageFeatures
from eval.speed.harness import Growth, Point, Result, Row
from eval.speed.processes import private_memory, run_in_new_process
from eval.speed.synthetic import photo
from eval.speed.synthetic_shards import SyntheticShards
from index.feature_spec import FeatureSpec
from index.image_index import ImageIndex
from index.search.scatter import Scatter
from index.search.search import Search
from index.search.shard import Request

T = TypeVar("T")
_GIB = 1 << 30
_QUERY_FEATURES = 1000
# Beyond those of the photos in the shards.
_FIRST_SEED = 1_000_000
_TIME = Growth("A query of shards of equal size", "shards", "ms")


@dataclass(frozen=True)
class _Measured:
    """What a process measured that searches some shards.

    Attributes:
        photos: in them.
        milliseconds: of each query.
        cpu_milliseconds: of the processors, for each query.
        apart, apart_cpu: the same, with a machine for each shard: those of the slowest.
        search: the part of ``milliseconds`` that the shortlist took.
        open_seconds: to open all shards for searching.
        bytes: of memory, without what is mapped from files.
    """

    photos: int
    milliseconds: list[float]
    cpu_milliseconds: list[float]
    apart: list[float]
    apart_cpu: list[float]
    search: list[float]
    open_seconds: float
    bytes: float


def measure_growth(
    shards: SyntheticShards, counts: Sequence[int], queries: int
) -> Iterator[Result]:
    """Build shards, if they are not there, and search in the first so many of them.

    Args:
        counts: of shards; each divides ``shards.count``.
        queries: how many; photos that nothing resembles, so that verification goes deep.
    """
    started = time.perf_counter()
    if shards.make():
        seconds = time.perf_counter() - started
        note = f"{shards.photos:,} photos, {shards.features} local features each, not extracted"
        yield Row.of("growth_build", [seconds], "s", note=note)
    yield Row.of("growth_bytes", [shards.bytes() / shards.photos], "bytes", note="per photo")
    for count in counts:
        # A process of its own, so that its memory is that of these shards.
        measured = run_in_new_process(_measure, shards, count, queries)
        yield from _results(count, measured)


def _results(count: int, measured: _Measured) -> Iterator[Result]:
    name, median = f"growth_{count}", float(np.median(measured.milliseconds))
    share = float(np.median(measured.search)) / median
    note = f"{measured.photos:,} photos, one process; the shortlist is {share:.0%} of it"
    yield Row.of(name, measured.milliseconds, note=note)
    yield Row.of(f"{name}_cpu", measured.cpu_milliseconds, note="of the processors")
    yield Row.of(f"{name}_apart", measured.apart, note="with a machine for each shard, no network")
    yield Row.of(f"{name}_apart_cpu", measured.apart_cpu, note="of the busiest, and of the caller")
    per_photo = measured.bytes / measured.photos
    note = f"{per_photo:.0f} bytes per photo, {measured.bytes / count / _GIB:.2f} GiB per shard"
    yield Row.of(f"{name}_memory", [measured.bytes / _GIB], "GiB", note=note)
    yield Row.of(f"{name}_open", [measured.open_seconds], "s")
    yield Point(_TIME, "one process", count, median)
    yield Point(_TIME, "a machine for each", count, float(np.median(measured.apart)))


def _measure(shards: SyntheticShards, count: int, queries: int) -> _Measured:
    before, started = private_memory(), time.perf_counter()
    with ImageIndex.open(shards.first(count)) as images:
        parts = images._shards()
        seconds = time.perf_counter() - started
        features, photos = list(_queries(shards, images.feature_spec, queries)), len(images)
        # The first reads and compiles what the others find.
        images.query_features(features[0])
        used = private_memory() - before
        together, apart, search = [], [], []
        for query in features:
            before_query = _clocks()
            result = images.query_features(query)
            together.append((_clocks() - before_query) * 1000)
            search.append(result.timing_ms["search"])
            scatter, before_query = _OneByOne(parts), _clocks()
            Search(scatter, None, query, images._model.calibration).hits(orientations="1")
            apart.append((_clocks() - before_query - scatter.saved) * 1000)
    wall, cpu = np.transpose(together).tolist()
    apart_wall, apart_cpu = np.transpose(apart).tolist()
    return _Measured(photos, wall, cpu, apart_wall, apart_cpu, search, seconds, used)


def _clocks() -> NDArray[np.float64]:
    """Seconds of the wall's clock, and of the processors that this process used."""
    return np.array([time.perf_counter(), time.process_time()])


def _queries(shards: SyntheticShards, spec: FeatureSpec, count: int) -> Iterator[ImageFeatures]:
    descriptors = shards.vectors(spec.global_dim).queries(count)
    for number, descriptor in enumerate(descriptors):
        features = photo(_QUERY_FEATURES, spec.local_dim, seed=_FIRST_SEED + number)
        yield replace(features, global_descriptor=descriptor)


class _OneByOne(Scatter):
    """Asks one shard after the other.

    Attributes:
        saved: seconds, by both clocks, that it would have taken less if all were asked at once
            and each had processors of its own.
    """

    saved = np.zeros(2)

    def ask(self, requests: Mapping[int, Request[T]]) -> dict[int, T]:
        answers, seconds = {}, [np.zeros(2)]
        for number, request in requests.items():
            started = _clocks()
            answers[number] = self._shards[number].begin(request)()
            seconds.append(_clocks() - started)
        self.saved = self.saved + np.sum(seconds, axis=0) - np.max(seconds, axis=0)
        return answers

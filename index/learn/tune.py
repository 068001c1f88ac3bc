"""Which shortlist an index should have: measured on the index itself.

Some of its photos are held out, one at a time, and searched for with their own global descriptors.
What an exhaustive search finds is the truth; recall is the share of it that a shortlist finds. Of
the shortlists that reach the recall wanted, the fastest is chosen.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import count, takewhile
from typing import Any, Literal

import faiss
import numpy as np
from faiss.contrib.exhaustive_search import knn_ground_truth

from delg.errors import UsageError
from delg.types import FloatArray, Progress
from index.settings import ShortlistSettings
from index.storage.ann_index import Rows, choose_list_count
from index.storage.store import Store

_BLOCK = 50_000
# Photos below which an exhaustive search is all there is to choose.
_MIN_IMAGES = 2_000
# Candidates per result that are ranked again by their descriptors.
_REFINE_FACTORS = (4, 8, 16)
# Kinds of inverted lists, with multiples of the usual number of lists.
_INVERTED: tuple[tuple[Literal["rabitq", "ivf"], float], ...] = (
    ("rabitq", 0.5),
    ("rabitq", 1),
    ("rabitq", 2),
    ("ivf", 1),
)
_MIN_PROBES = 4
# Similarities this near to the last of the truth are as good: copies, and rounding.
_TOLERANCE = 1e-4
# An exhaustive search that takes at most so many times as long is preferred: it misses nothing.
_WORTH_EXACTNESS = 1.2


@dataclass(frozen=True)
class OperatingPoint:
    """A shortlist's settings, and what they give.

    Attributes:
        kind, nlist, nprobe, refine_factor: see :class:`index.settings.ShortlistSettings`.
        recall: share of the true nearest that it finds.
        milliseconds: median per search, in one thread of this process.
        bytes_per_image: in the file of the shortlist.
    """

    kind: str
    nlist: int | None
    nprobe: int | None
    refine_factor: int
    recall: float
    milliseconds: float
    bytes_per_image: int

    @property
    def settings(self) -> dict[str, Any]:
        """The settings to record."""
        values = {"kind": self.kind, "nlist": self.nlist, "nprobe": self.nprobe}
        return {**values, "refine_factor": self.refine_factor}

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Tuning:
    """What was measured.

    Attributes:
        points: in the order of measurement, the exhaustive search first.
        chosen: the fastest of those that reach the recall wanted.
        queries, depth: photos searched for, and results that count of each.
    """

    points: tuple[OperatingPoint, ...]
    chosen: OperatingPoint
    queries: int
    depth: int


def tune(
    store: Store,
    recall: float = 0.98,
    queries: int = 200,
    depth: int | None = None,
    progress: Progress | None = None,
) -> Tuning:
    """Measure shortlists of several kinds on an index; nothing is recorded.

    Args:
        store: of the index; another state of it is opened to build shortlists in.
        recall: to reach, 0 to 1.
        queries: photos to search for, at most.
        depth: results of each that count; None is the number of candidates that are verified.
        progress: called as ``progress(done, total, 0)`` after each kind of shortlist.

    Raises:
        UsageError: the index holds fewer than two photos.
    """
    rows = store.searchable()
    if len(rows) < 2:
        raise UsageError(f"{store.folder}: holds too few photos to measure a search on")
    depth = min(depth or store.settings.ranking.rerank or 100, len(rows) - 1)
    chosen = np.random.default_rng(0).choice(rows, min(queries, len(rows)), replace=False)
    trial = _Trial(Store(store.folder), np.sort(chosen), depth, recall)
    try:
        points: list[OperatingPoint] = []
        kinds = _kinds(store, len(rows))
        for number, settings in enumerate(kinds, 1):
            points.extend(trial.measure(settings))
            if progress:
                progress(number, len(kinds), 0)
    finally:
        trial.close()
    return Tuning(tuple(points), _choose(points, recall), len(chosen), depth)


def _kinds(store: Store, images: int) -> list[ShortlistSettings]:
    """Kinds of shortlist to measure, an exhaustive one first."""
    # Adapted descriptors are not spread over their components, so a byte would clip them.
    if store.compared_type == "int8":
        kinds = [ShortlistSettings(kind="int8")]
    elif store.settings.store.global_type == "float32":
        kinds = [ShortlistSettings(kind="flat")]
    else:
        kinds = [ShortlistSettings(kind="fp16")]
    if images >= _MIN_IMAGES:
        usual = choose_list_count(ShortlistSettings(), images)
        for kind, multiple in _INVERTED:
            wanted = ShortlistSettings(kind=kind, nlist=max(1, round(multiple * usual)))
            # As many as the photos can fill; fewer photos leave fewer to choose from.
            lists = choose_list_count(wanted, images)
            kinds.append(wanted.model_copy(update={"nlist": lists}))
    return list(dict.fromkeys(kinds))


def _choose(points: list[OperatingPoint], recall: float) -> OperatingPoint:
    exact, *others = points
    good = [point for point in others if point.recall >= recall]
    fastest = min(good, key=lambda point: point.milliseconds, default=exact)
    is_worth_it = fastest.milliseconds * _WORTH_EXACTNESS < exact.milliseconds
    return fastest if is_worth_it else exact


def _probes(lists: int) -> list[int]:
    """Numbers of lists to search, each twice the one before, up to all."""
    return [*takewhile(lambda probes: probes < lists, (_MIN_PROBES << n for n in count())), lists]


class _Trial:
    """Builds shortlists in a state of an index of its own, and measures them.

    Args:
        store: a state that is nobody else's.
        rows: of the photos to search for.
        depth: results that count.
        recall: beyond which more probes are not tried.
    """

    def __init__(self, store: Store, rows: Rows, depth: int, recall: float) -> None:
        self._store, self._rows, self._depth, self._recall = store, rows, depth, recall
        # A query asks for as many as it verifies or compares with each other, be it for fewer.
        neighbours = store.settings.neighbours
        compared = 0 if neighbours.method == "none" else neighbours.candidates
        self._count = max(depth, compared) + 1
        self._queries = store.global_descriptors(rows)
        self._thresholds = self._worst_of_truth()

    def close(self) -> None:
        """Let go of the index's files."""
        self._store.close()

    def _worst_of_truth(self) -> FloatArray:
        """Similarity to each query of the last photo that should be found."""
        similarities, _ = knn_ground_truth(
            self._queries,
            self._blocks(),
            # The photo itself comes first.
            self._depth + 1,
            faiss.METRIC_INNER_PRODUCT,
            ngpu=0,
        )
        return np.asarray(similarities[:, -1], np.float32)

    def _blocks(self) -> Iterator[FloatArray]:
        rows = self._store.searchable()
        for start in range(0, len(rows), _BLOCK):
            yield self._store.global_descriptors(rows[start : start + _BLOCK])

    def measure(self, settings: ShortlistSettings) -> Iterator[OperatingPoint]:
        """Build a shortlist and measure it, with more and more probes until they suffice."""
        self._configure(**settings.model_dump())
        self._store.rebuild_ann_index()
        if settings.nlist is None:
            yield self._measure_point()
            return
        for factor in _REFINE_FACTORS:
            for probes in _probes(settings.nlist):
                self._configure(nprobe=probes, refine_factor=factor)
                point = self._measure_point()
                yield point
                if point.recall >= self._recall:
                    break

    def _configure(self, **shortlist: Any) -> None:
        self._store.override({"shortlist": shortlist}, "tune")

    def _measure_point(self) -> OperatingPoint:
        seconds, recalls = [], []
        for row, query, threshold in zip(self._rows, self._queries, self._thresholds, strict=True):
            started = time.perf_counter()
            rows, similarities = self._store.nearest(query, self._count)
            seconds.append(time.perf_counter() - started)
            right = (rows != row) & (similarities >= threshold - _TOLERANCE)
            recalls.append(min(int(right.sum()), self._depth) / self._depth)
        settings = self._store.settings.shortlist
        return OperatingPoint(
            kind=settings.kind,
            nlist=settings.nlist,
            nprobe=settings.nprobe,
            refine_factor=settings.refine_factor,
            recall=round(float(np.mean(recalls)), 4),
            milliseconds=round(1000 * float(np.median(seconds)), 3),
            bytes_per_image=self._store.ann_index.bytes_per_image,
        )

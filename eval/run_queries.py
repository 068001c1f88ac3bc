"""Run a benchmark: index its gallery, run its queries, collect the rankings."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from delg.errors import DelgError, UsageError
from delg.images.decode import ImageError
from delg.remote_path import Location
from delg.settings import parse
from delg.types import Progress
from eval.answers import Answer, answer_log
from eval.benchmark import ALL_QUERIES, Benchmark, QueryPhoto, RevisitedTruth
from eval.metrics import DIFFICULTIES, revisited_split
from eval.predictions import Predictions, truncate
from eval.recognition import recognise
from index.image_index import ImageIndex
from index.results import Ranking
from index.search.orientation import Orientations
from index.search.search import Search
from index.settings import IndexSettings

# Hits stored for the report even where the metrics need fewer.
MIN_HITS = 100


@dataclass(frozen=True)
class Engine:
    """The search engine under evaluation.

    Attributes:
        images: index of the gallery; images in it that are not of the gallery are left out.
        distractors: indexes of distractors.
        rerank: candidates to verify; None takes the index's setting.
        orientations: as for :meth:`index.ImageIndex.query`.
    """

    images: ImageIndex
    distractors: tuple[ImageIndex, ...] = ()
    rerank: int | None = None
    orientations: Orientations = "auto"

    @property
    def verified(self) -> int:
        """Number of candidates that are verified per query."""
        return self.images.settings.ranking.rerank if self.rerank is None else self.rerank

    def metadata(self) -> dict[str, Any]:
        """Model, index and settings as plain values, for ``metrics.json``."""
        info = self.images.info()
        return {
            "model": info["model"],
            "fingerprint": info["fingerprint"],
            "images": info["images"],
            "bytes_per_image": info["bytes_per_image"],
            "distractors": sum(map(len, self.distractors)),
            "rerank": self.verified,
            "orientations": self.orientations,
            "settings": info["settings"],
        }


@dataclass(frozen=True)
class QueryResults:
    """What running the queries gave.

    Attributes:
        predictions: rankings and labels.
        failed: query id -> why its photo could not be read; such queries score 0.
        milliseconds: per query, including decoding and extraction.
    """

    predictions: Predictions
    failed: dict[str, str] = field(default_factory=dict)
    milliseconds: list[float] = field(default_factory=list)


def index_gallery(
    benchmark: Benchmark,
    folder: Path,
    model: str | None,
    overrides: Mapping[str, Any],
    progress: Progress | None = None,
) -> tuple[ImageIndex, dict[str, str]]:
    """Create the index of a benchmark's gallery, or bring it up to date.

    Args:
        benchmark: its gallery is indexed.
        folder: of the index.
        model: its name or folder; None is the index's own, or the default.
        overrides: settings by section and key; an existing index does not store them.
        progress: called as ``progress(done, total, failed)``.

    Returns:
        The index, and id -> reason of the photos that cannot be read. Nothing finds them, so a
        query that they are right for misses them.

    Raises:
        UsageError: the index was made by another model.
        DelgError: no photo of the gallery can be read.
    """
    settings = parse(IndexSettings, dict(overrides), "settings")
    images = ImageIndex.open_or_create(folder, model, settings=settings)
    images.configure(dict(overrides))
    added = images.add(benchmark.gallery, progress=progress)
    reasons = {failure.path: failure.reason for failure in added.failed}
    failed = {
        photo.id: reasons[str(photo.path.absolute())]
        for photo in benchmark.gallery
        if str(photo.path.absolute()) in reasons
    }
    if failed and len(failed) == len(benchmark.gallery):
        first = added.failed[0]
        raise DelgError(
            f"none of the gallery's {len(failed):,} photos can be read, "
            f"the first is {first.path}: {first.reason}"
        )
    return images, failed


def check_distractors(benchmark: Benchmark, distractors: Iterable[ImageIndex]) -> None:
    """Refuse distractors that have the id of a gallery photo.

    Raises:
        UsageError: a distractor has.
    """
    for index in distractors:
        for image in index.paths(photo.id for photo in benchmark.gallery):
            raise UsageError(
                f"{index.path}: {image!r} is the id of a photo of the gallery too; "
                "index the distractors with --prefix"
            )


def run_queries(
    benchmark: Benchmark,
    engine: Engine,
    progress: Progress | None = None,
    folder: Path | None = None,
) -> QueryResults:
    """Run all queries of a benchmark.

    Args:
        benchmark: its queries are run.
        engine: with the gallery's index.
        progress: called as ``progress(done, total, failed)`` after each query.
        folder: of the run, where answers are kept until it is complete, so that the same call
            continues after an interruption; see :mod:`eval.answers`.
    """
    foreign_ids = ids_outside_gallery(benchmark, engine)
    rankings: dict[str, dict[str, Ranking]] = {name: {} for name in _lists(benchmark)}
    labels: dict[str, tuple[str, float] | None] = {}
    results = QueryResults(Predictions(rankings, labels))
    with answer_log(folder, _question(benchmark, engine)) as log:
        for number, query in enumerate(benchmark.queries, 1):
            answer = log.known.get(query.id)
            if answer is None:
                answer = _answer(benchmark, engine, query, foreign_ids)
                log.add(query.id, answer)
            if answer.failure:
                results.failed[query.id] = answer.failure
            else:
                results.milliseconds.append(answer.milliseconds)
            for name, ranking in answer.rankings.items():
                rankings[name][query.id] = ranking
            if benchmark.protocol == "recognition" and query.id in rankings[ALL_QUERIES]:
                labels[query.id] = recognise(rankings[ALL_QUERIES][query.id], benchmark.labels)
            if progress:
                progress(number, len(benchmark.queries), len(results.failed))
    return results


def _answer(
    benchmark: Benchmark, engine: Engine, query: QueryPhoto, foreign_ids: frozenset[str]
) -> Answer:
    started = time.perf_counter()
    try:
        rankings = dict(_rankings(benchmark, engine, query, foreign_ids))
    except ImageError as error:
        return Answer(failure=str(error))
    return Answer(rankings, milliseconds=(time.perf_counter() - started) * 1000)


def _question(benchmark: Benchmark, engine: Engine) -> list[object]:
    """All that answers depend on, as plain values."""
    queries = [
        [query.id, str(query.path), query.box, *_file_stamp(query.path)]
        + [sorted(excluded_ids(benchmark, query, name)) for name in _lists(benchmark)]
        for query in benchmark.queries
    ]
    states = [[index.generation, index.ids()] for index in (engine.images, *engine.distractors)]
    gallery = [photo.id for photo in benchmark.gallery]
    return [benchmark.name, benchmark.depth, queries, gallery, states, engine.metadata()]


def _file_stamp(path: Location) -> tuple[int | str, ...]:
    try:
        stat = path.stat()
    except (OSError, ValueError):
        return 0, 0
    tag = getattr(stat, "etag", "")
    return (stat.st_size or 0, stat.st_mtime_ns, *([tag] if tag else []))


def _lists(benchmark: Benchmark) -> tuple[str, ...]:
    """Names of the rankings that each query gets."""
    return DIFFICULTIES if benchmark.protocol == "revisited" else (ALL_QUERIES,)


def ids_outside_gallery(benchmark: Benchmark, engine: Engine) -> frozenset[str]:
    """Ids in the gallery's index that are not of the gallery, and so candidates of no query."""
    return frozenset(engine.images.ids()).difference(photo.id for photo in benchmark.gallery)


def start_search(engine: Engine, query: QueryPhoto) -> Search:
    """Extract a query and start its search, over gallery and distractors."""
    return engine.images.search(query.path, query.box, engine.distractors)


def excluded_ids(benchmark: Benchmark, query: QueryPhoto, list_name: str) -> frozenset[str]:
    """Gallery ids that are no candidates of a query: its own photo, and those that the list of
    rankings (a difficulty, or "all") ignores."""
    own = frozenset(() if query.gallery_id is None else (query.gallery_id,))
    truth = benchmark.truth[query.id]
    return own | revisited_split(truth, list_name)[1] if isinstance(truth, RevisitedTruth) else own


def _rankings(
    benchmark: Benchmark, engine: Engine, query: QueryPhoto, foreign_ids: frozenset[str]
) -> Iterable[tuple[str, Ranking]]:
    """The query's ranking for each list that it belongs to."""
    search = start_search(engine, query)
    truth = benchmark.truth[query.id]
    total = len(engine.images) + sum(map(len, engine.distractors))
    count = total if benchmark.depth is None else max(benchmark.depth, MIN_HITS)
    if not isinstance(truth, RevisitedTruth):
        excluded = foreign_ids | excluded_ids(benchmark, query, ALL_QUERIES)
        yield ALL_QUERIES, search.ranking(count, engine.rerank, engine.orientations, excluded)
        return
    for name in DIFFICULTIES:
        right, _ = revisited_split(truth, name)
        if right:
            excluded = foreign_ids | excluded_ids(benchmark, query, name)
            ranking = search.ranking(total, engine.rerank, engine.orientations, excluded)
            yield name, _without_tail(ranking, right)


def _without_tail(ranking: Ranking, right: frozenset[str]) -> Ranking:
    """The ranking down to its last right image: the rest changes no metric and can be long."""
    positions = np.flatnonzero([image in right for image in ranking.ids])
    # A ranking that misses some stays complete: its length is the depth that was searched.
    end = int(positions[-1]) + 1 if len(positions) == len(right) else len(ranking.ids)
    return truncate(ranking, max(end, MIN_HITS))

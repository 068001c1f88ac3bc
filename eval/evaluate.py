"""Evaluate the engine on a benchmark, along with the baselines that it should beat."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from delg.errors import UsageError
from delg.files import make_folder
from delg.types import Progress
from eval.answers import forget_answers
from eval.benchmark import Benchmark
from eval.run import BASELINES_FOLDER, Run, environment_info
from eval.run_queries import (
    Engine,
    QueryResults,
    check_distractors,
    index_gallery,
    run_queries,
)
from eval.scoring import score
from index.image_index import ImageIndex
from index.search.orientation import Orientations

BASELINES = ("global", "sift")
# In galleries up to this size the sift baseline also verifies every pair.
BRUTE_FORCE_LIMIT = 500
# Hits per query whose photos a report may show.
SHOWN_HITS = 10
# Makes a progress display of that title.
ProgressFactory = Callable[[str], AbstractContextManager[Progress]]


@dataclass(frozen=True)
class EvalConfig:
    """What to evaluate, and how.

    Attributes:
        model: its name or folder; None is the index's own, or the default.
        overrides: settings by section and key.
        index: folder of the gallery's index; None creates it below ``out``, or a temporary one.
        rerank, orientations: see :class:`eval.run_queries.Engine`.
        distractors: an index, or a folder of photos.
        baselines: names among ``BASELINES``.
        out: folder of the run's files.
    """

    model: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    index: Path | None = None
    rerank: int | None = None
    orientations: Orientations = "auto"
    distractors: Path | None = None
    baselines: Sequence[str] = ()
    out: Path | None = None


@dataclass(frozen=True)
class EvalResult:
    """A run with what made it.

    Attributes:
        run: scores, predictions and metadata.
        engine: with its index open.
        results: of the queries.
        subfolder: where the run's files belong below the output folder; "" but for baselines.
    """

    run: Run
    engine: Engine
    results: QueryResults
    subfolder: str = ""


@contextmanager
def evaluate(
    benchmark: Benchmark, config: EvalConfig, progress: ProgressFactory
) -> Iterator[list[EvalResult]]:
    """Run the benchmark, then the baselines.

    Answers are kept in the output folder until the context ends without an error, so that the same
    call continues where another was stopped.

    Args:
        benchmark: gallery, queries and truth.
        config: what to evaluate.
        progress: makes a progress display for each step.

    Yields:
        The result, then those of the baselines; their indexes stay open inside the context.

    Raises:
        UsageError: the configuration does not fit the benchmark or the index.
        DelgError: no photo of the gallery can be read.
    """
    unknown = sorted(set(config.baselines) - set(BASELINES))
    if unknown:
        raise UsageError(f"no baseline called {unknown[0]!r}; there are {', '.join(BASELINES)}")
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) if config.out is None else config.out
        make_folder(folder)

        failed: dict[str, str] = {}

        def make_engine(model: str | None, index: Path, prefix: str) -> Engine:
            with progress(f"{prefix}gallery") as report:
                images, unreadable = index_gallery(
                    benchmark, index, model, config.overrides, report
                )
            failed.update(unreadable)
            distractors: tuple[ImageIndex, ...] = ()
            if config.distractors is not None:
                with progress(f"{prefix}distractors") as report:
                    distractors = open_distractors(
                        benchmark, config.distractors, images, folder, prefix, report
                    )
            return Engine(images, distractors, config.rerank, config.orientations)

        def measure(engine: Engine, baseline: str = "") -> EvalResult:
            subfolder = f"{BASELINES_FOLDER}/{baseline}" if baseline else ""
            result = evaluate_engine(benchmark, engine, failed, progress, folder / subfolder)
            return replace(result, subfolder=subfolder)

        engine = make_engine(config.model, config.index or folder / "gallery.index", "")
        results = [measure(engine)]
        if "global" in config.baselines:
            results.append(measure(replace(engine, rerank=0), "global"))
        if "sift" in config.baselines:
            sift = make_engine("sift", folder / "sift.index", "sift ")
            results.append(measure(sift, "sift"))
            if sift.verified < len(benchmark.gallery) <= BRUTE_FORCE_LIMIT:
                brute_force = replace(sift, rerank=len(sift.images))
                results.append(measure(brute_force, "sift-brute-force"))
        yield results
        for result in results:
            forget_answers(folder / result.subfolder)


def evaluate_engine(
    benchmark: Benchmark,
    engine: Engine,
    failed: Mapping[str, str],
    progress: ProgressFactory,
    folder: Path,
    title: str = "",
) -> EvalResult:
    """Run the queries of a benchmark on an engine, and score what it finds.

    Args:
        benchmark: gallery, queries and truth.
        engine: with the gallery's index.
        failed: id -> reason of the gallery's photos that cannot be read.
        progress: makes a progress display.
        folder: of the run, where answers are kept until it is complete; nothing else is written.
        title: names the engine; empty names its model and the candidates it verifies.
    """
    started = time.monotonic()
    gallery = tuple(photo for photo in benchmark.gallery if photo.id not in failed)
    benchmark = replace(benchmark, gallery=gallery)
    title = title or _title(engine)
    with progress(f"{title}: queries") as report:
        results = run_queries(benchmark, engine, report, folder)
    metadata = {
        "queries": len(benchmark.queries),
        "gallery": len(benchmark.gallery),
        "engine": engine.metadata(),
        "query_ms": _latency(results.milliseconds),
        "failed_queries": results.failed,
        "failed_gallery": dict(failed),
        "seconds": round(time.monotonic() - started, 2),
        **environment_info(),
    }
    run = Run(
        title=title,
        benchmark=benchmark,
        predictions=results.predictions,
        scores=score(benchmark, results.predictions),
        paths=_paths(benchmark, engine, results),
        metadata=metadata,
    )
    return EvalResult(run, engine, results)


def _title(engine: Engine) -> str:
    name, count = engine.metadata()["model"], engine.verified
    if count == 0:
        return f"{name}, global only"
    return f"{name}, {'all' if count >= len(engine.images) else count} re-ranked"


def _latency(milliseconds: list[float]) -> dict[str, float]:
    if not milliseconds:
        return {}
    return {
        "median": round(statistics.median(milliseconds), 1),
        "fastest": round(min(milliseconds), 1),
        "slowest": round(max(milliseconds), 1),
    }


def _paths(benchmark: Benchmark, engine: Engine, results: QueryResults) -> dict[str, str]:
    """Paths of the photos that a report may show: first hits, from whichever index."""
    hits = {
        image
        for by_query in results.predictions.rankings.values()
        for ranking in by_query.values()
        for image in ranking.ids[:SHOWN_HITS]
    }
    paths = {photo.id: str(photo.path) for photo in benchmark.gallery if photo.id in hits}
    for index in engine.distractors:
        paths |= index.paths(hits - paths.keys())
    return paths


def open_distractors(
    benchmark: Benchmark,
    source: Path,
    images: ImageIndex,
    folder: Path,
    prefix: str,
    progress: Progress,
) -> tuple[ImageIndex, ...]:
    """The index of distractors, made if the source is a folder of photos.

    Args:
        benchmark: whose photos they are not.
        source: an index, or a folder of photos.
        images: index of the gallery, whose model and settings a new index takes.
        folder: for a new index.
        prefix: of its name.
        progress: called as ``progress(done, total, failed)``.

    Raises:
        UsageError: a distractor has the id of a photo of the gallery.
    """
    if ImageIndex.exists(source):
        index = ImageIndex.open(source)
    else:
        path = folder / f"{prefix.strip()}distractors.index"
        index = ImageIndex.open(path) if ImageIndex.exists(path) else images.create_like(path)
        index.use(images.extractor)
        index.add(source, prefix="distractors/", progress=progress)
    check_distractors(benchmark, (index,))
    return (index,)

"""Measure the engine on a benchmark, and what a user would have without it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from delg.errors import UsageError
from eval.benchmark import Benchmark
from eval.run import BASELINES_FOLDER, Run, circumstances
from eval.run_queries import Answers, Engine, ask, check_distractors, index_gallery
from eval.scoring import score
from index.image_index import ImageIndex
from index.ingest import Progress
from index.search.orientation import Orientations

BASELINES = ("global", "sift")
# Up to so many photos the sift baseline also verifies every pair.
BRUTE_FORCE_LIMIT = 500
# First hits of each query whose photos a report may show.
SHOWN_HITS = 10
Watch = Callable[[str], AbstractContextManager[Progress]]


@dataclass(frozen=True)
class Plan:
    """How to measure.

    Attributes:
        model: its name or folder; None is the index's own, or the default.
        overrides: settings by section and key.
        index: folder of the gallery's index; None makes one below ``out``, or one that is thrown
            away.
        rerank, orientations: see :class:`eval.run_queries.Engine`.
        distractors: an index, or a folder of photos.
        baselines: of ``BASELINES``.
        out: folder of the run.
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
class Measured:
    """A run, the engine that made it, and where a baseline's files belong below the run's."""

    run: Run
    engine: Engine
    answers: Answers
    place: str = ""


@contextmanager
def measure(benchmark: Benchmark, plan: Plan, watch: Watch) -> Iterator[list[Measured]]:
    """Run the benchmark, then the baselines; the indexes stay open and in place inside the context.

    Args:
        watch: makes a progress display for a piece of work.

    Raises:
        UsageError: the plan does not fit the benchmark or the index.
        DelgError: a photo of the gallery cannot be read.
    """
    unknown = sorted(set(plan.baselines) - set(BASELINES))
    if unknown:
        raise UsageError(f"no baseline called {unknown[0]!r}; there are {', '.join(BASELINES)}")
    with TemporaryDirectory() as temporary:
        below = Path(temporary) if plan.out is None else plan.out
        below.mkdir(parents=True, exist_ok=True)

        def engine(model: str | None, folder: Path, prefix: str, rerank: int | None) -> Engine:
            with watch(f"{prefix}gallery") as report:
                images = index_gallery(benchmark, folder, model, plan.overrides, report)
            others = _distractors(benchmark, plan, images, below, prefix, watch)
            return Engine(images, others, rerank, plan.orientations)

        own = engine(plan.model, plan.index or below / "gallery.index", "", plan.rerank)
        found = [_measure(benchmark, own, watch)]
        if "global" in plan.baselines:
            bare = Engine(own.images, own.others, 0, plan.orientations)
            found.append(_measure(benchmark, bare, watch, f"{BASELINES_FOLDER}/global"))
        if "sift" in plan.baselines:
            sift = engine("sift", below / "sift.index", "sift ", plan.rerank)
            found.append(_measure(benchmark, sift, watch, f"{BASELINES_FOLDER}/sift"))
            if sift.verified < len(benchmark.gallery) <= BRUTE_FORCE_LIMIT:
                every = Engine(sift.images, sift.others, len(sift.images), plan.orientations)
                found.append(
                    _measure(benchmark, every, watch, f"{BASELINES_FOLDER}/sift-brute-force")
                )
        yield found


def _measure(benchmark: Benchmark, engine: Engine, watch: Watch, place: str = "") -> Measured:
    started = time.monotonic()
    title = _title(engine)
    with watch(f"{title}: queries") as report:
        answers = ask(benchmark, engine, report)
    facts = {
        "queries": len(benchmark.queries),
        "gallery": len(benchmark.gallery),
        "engine": engine.facts(),
        "query_ms": _spread(answers.milliseconds),
        "failed_queries": answers.failed,
        "seconds": round(time.monotonic() - started, 2),
        **circumstances(),
    }
    run = Run(
        title=title,
        question=benchmark,
        predictions=answers.predictions,
        scores=score(benchmark, answers.predictions),
        paths=_paths(benchmark, engine, answers),
        facts=facts,
    )
    return Measured(run, engine, answers, place)


def _title(engine: Engine) -> str:
    name, count = engine.facts()["model"], engine.verified
    if count == 0:
        return f"{name}, global only"
    return f"{name}, {'all' if count >= len(engine.images) else count} re-ranked"


def _spread(milliseconds: list[float]) -> dict[str, float]:
    if not milliseconds:
        return {}
    return {
        "median": round(statistics.median(milliseconds), 1),
        "fastest": round(min(milliseconds), 1),
        "slowest": round(max(milliseconds), 1),
    }


def _paths(benchmark: Benchmark, engine: Engine, answers: Answers) -> dict[str, str]:
    """Where the photos lie that a report may show: first hits, whichever index they are from."""
    shown = {
        image
        for by_query in answers.predictions.rankings.values()
        for ranking in by_query.values()
        for image in ranking.ids[:SHOWN_HITS]
    }
    found = {photo.id: str(photo.path) for photo in benchmark.gallery if photo.id in shown}
    for other in engine.others:
        found |= other.paths(shown - found.keys())
    return found


def _distractors(
    benchmark: Benchmark,
    plan: Plan,
    images: ImageIndex,
    below: Path,
    prefix: str,
    watch: Watch,
) -> tuple[ImageIndex, ...]:
    if plan.distractors is None:
        return ()
    if ImageIndex.exists(plan.distractors):
        other = ImageIndex.open(plan.distractors)
    else:
        place = below / f"{prefix.strip()}distractors.index"
        other = ImageIndex.open(place) if ImageIndex.exists(place) else images.create_like(place)
        other.use(images.extractor)
        with watch(f"{prefix}distractors") as report:
            other.add(plan.distractors, prefix="distractors/", progress=report)
    check_distractors(benchmark, (other,))
    return (other,)

"""Ask the engine: index a benchmark's gallery, run its queries, keep the answers."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from delg.errors import DelgError, UsageError
from delg.images.decode import ImageError
from delg.settings import parse
from delg.zoo.registry import DEFAULT_MODEL
from eval.benchmark import WHOLE, Benchmark, QueryPhoto, RevisitedTruth
from eval.metrics import DIFFICULTIES, revisited_split
from eval.predictions import Predictions, cut
from eval.recognition import recognise
from index.image_index import ImageIndex
from index.ingest import Progress
from index.results import Ranking
from index.search.orientation import Orientations
from index.search.search import Search
from index.settings import IndexSettings

# Hits kept for the report even where the metrics need fewer.
KEPT = 100


@dataclass(frozen=True)
class Engine:
    """The engine as it is measured.

    Attributes:
        images: index of the gallery; photos in it that are not of the gallery are left out.
        others: indexes of distractors.
        rerank: candidates to verify; None takes the index's setting.
        orientations: as for :meth:`index.ImageIndex.query`.
    """

    images: ImageIndex
    others: tuple[ImageIndex, ...] = ()
    rerank: int | None = None
    orientations: Orientations = "auto"

    @property
    def verified(self) -> int:
        """How many candidates are verified."""
        return self.images.settings.ranking.rerank if self.rerank is None else self.rerank

    def facts(self) -> dict[str, Any]:
        """What the engine is, as plain values."""
        info = self.images.info()
        return {
            "model": info["model"],
            "fingerprint": info["fingerprint"],
            "images": info["images"],
            "bytes_per_image": info["bytes_per_image"],
            "distractors": sum(map(len, self.others)),
            "rerank": self.verified,
            "orientations": self.orientations,
            "settings": info["settings"],
        }


@dataclass(frozen=True)
class Answers:
    """What came back.

    Attributes:
        predictions: the answers.
        failed: query id -> why it could not be asked; such queries count as not found.
        milliseconds: of each query, with decoding and extraction.
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
) -> ImageIndex:
    """Make or complete the index of a benchmark's gallery.

    Args:
        folder: of the index; an existing one is brought up to date.
        model: its name or folder; None is the index's own, or the default.
        overrides: settings by section and key; for an index that exists they hold for now only.
        progress: called as ``progress(done, total, failed)``.

    Raises:
        UsageError: the index was made by another model.
        DelgError: a photo of the gallery cannot be read: the benchmark would not be the same.
    """
    if ImageIndex.exists(folder):
        images = ImageIndex.open(folder)
        images.check_model(model)
        images.configure(dict(overrides))
    else:
        settings = parse(IndexSettings, dict(overrides), "settings")
        images = ImageIndex.create(folder, model or DEFAULT_MODEL, settings=settings)
    done = images.add(benchmark.gallery, progress=progress)
    if done.failed:
        first = done.failed[0]
        raise DelgError(
            f"{len(done.failed)} of the gallery's {len(benchmark.gallery)} photos cannot be read, "
            f"the first is {first.path}: {first.reason}"
        )
    return images


def check_distractors(benchmark: Benchmark, others: Iterable[ImageIndex]) -> None:
    """Distractors must not be called like photos of the gallery.

    Raises:
        UsageError: one is.
    """
    for other in others:
        for image in other.paths(photo.id for photo in benchmark.gallery):
            raise UsageError(
                f"{other.path}: {image!r} is the id of a photo of the gallery too; "
                "index the distractors with --prefix"
            )


def ask(benchmark: Benchmark, engine: Engine, progress: Progress | None = None) -> Answers:
    """Run all queries."""
    strangers = outside(benchmark, engine)
    lists = DIFFICULTIES if benchmark.protocol == "revisited" else (WHOLE,)
    rankings: dict[str, dict[str, Ranking]] = {name: {} for name in lists}
    labels: dict[str, tuple[str, float] | None] = {}
    answers = Answers(Predictions(rankings, labels))
    for number, query in enumerate(benchmark.queries, 1):
        started = time.perf_counter()
        try:
            for name, ranking in _rankings(benchmark, engine, query, strangers):
                rankings[name][query.id] = ranking
        except ImageError as error:
            answers.failed[query.id] = str(error)
        else:
            answers.milliseconds.append((time.perf_counter() - started) * 1000)
        if benchmark.protocol == "recognition" and query.id in rankings[WHOLE]:
            labels[query.id] = recognise(rankings[WHOLE][query.id], benchmark.labels)
        if progress:
            progress(number, len(benchmark.queries), len(answers.failed))
    return answers


def outside(benchmark: Benchmark, engine: Engine) -> frozenset[str]:
    """Ids in the gallery's index that are not of the gallery, and so candidates for no query."""
    return frozenset(engine.images.ids()).difference(photo.id for photo in benchmark.gallery)


def start_search(engine: Engine, query: QueryPhoto) -> Search:
    """The search for a query."""
    return engine.images.search(query.path, query.box, engine.others)


def ignored(benchmark: Benchmark, query: QueryPhoto, name: str) -> frozenset[str]:
    """Gallery ids that are no candidates for a query: its own photo, and what the list of rankings
    of that name ignores."""
    own = frozenset(() if query.gallery_id is None else (query.gallery_id,))
    truth = benchmark.truth[query.id]
    return own | revisited_split(truth, name)[1] if isinstance(truth, RevisitedTruth) else own


def _rankings(
    benchmark: Benchmark, engine: Engine, query: QueryPhoto, strangers: frozenset[str]
) -> Iterable[tuple[str, Ranking]]:
    """The query's ranking for each list that it counts in."""
    search = start_search(engine, query)
    truth = benchmark.truth[query.id]
    everything = len(engine.images) + sum(map(len, engine.others))
    count = everything if benchmark.depth is None else max(benchmark.depth, KEPT)
    if not isinstance(truth, RevisitedTruth):
        without = strangers | ignored(benchmark, query, WHOLE)
        yield WHOLE, search.ranking(count, engine.rerank, engine.orientations, without)
        return
    for name in DIFFICULTIES:
        right, _ = revisited_split(truth, name)
        if right:
            without = strangers | ignored(benchmark, query, name)
            found = search.ranking(everything, engine.rerank, engine.orientations, without)
            yield name, _without_tail(found, right)


def _without_tail(ranking: Ranking, right: frozenset[str]) -> Ranking:
    """The ranking down to its last right image: what follows changes no metric and can be long."""
    places = np.flatnonzero([image in right for image in ranking.ids])
    # A ranking that misses some is kept whole: its length says how far was looked.
    last = int(places[-1]) + 1 if len(places) == len(right) else len(ranking.ids)
    return cut(ranking, max(last, KEPT))

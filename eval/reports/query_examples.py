"""Queries with their first hits, as pages show them: photos, and what is right or wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from delg.images.decode import ImageError, decode
from delg.types import Box
from eval.benchmark import (
    ALL_QUERIES,
    Benchmark,
    QueryPhoto,
    BenchmarkSpec,
    RecognitionTruth,
    RetrievalTruth,
    RevisitedTruth,
)
from eval.metrics import DIFFICULTIES, revisited_split
from eval.predictions import plain_ranking
from eval.run import Run
from index.results import Ranking
from index.visualize.draw_matches import Frame
from index.visualize.html import EmbeddedImage, embed_image

QUERY_SIDE, HIT_SIDE = 320, 200
RIGHT, WRONG, IGNORED = "right", "wrong", "ignored"
_NOTHING = plain_ranking(())


@dataclass(frozen=True)
class Shown:
    """A photo on the page, or the reason why there is none; its size as a file."""

    picture: EmbeddedImage | None
    reason: str = ""
    size: tuple[int, int] = (0, 0)


@dataclass
class Album:
    """The photos of a page. Each file is decoded once."""

    _files: dict[tuple[str, int], Shown] = field(default_factory=dict)

    def read(self, path: str | Path | None, side: int) -> Shown:
        """The photo at a path, made small."""
        if path is None:
            return Shown(None, "the run does not record where this photo lies")
        key = str(path), side
        if key not in self._files:
            try:
                pixels = decode(path)
                size = pixels.shape[1], pixels.shape[0]
                self._files[key] = Shown(embed_image(pixels, side), "", size)
            except ImageError as error:
                self._files[key] = Shown(None, str(error))
        return self._files[key]


@dataclass(frozen=True)
class JudgedHit:
    """A hit; ``rank`` is None where it is ignored, ``verdict`` where nothing is known of it,
    ``score`` and ``inliers`` where only the order of the hits is."""

    rank: int | None
    id: str
    photo: Shown
    verdict: str | None
    score: float | None
    inliers: int | None
    verified: bool
    label: str | None


@dataclass(frozen=True)
class Example:
    """A query and its first hits.

    Attributes:
        box: the part looked at, in the pixels of the picture.
        value: of the metric that orders queries; None for a query that does not count.
        hits: best first.
        right: how many right photos there are, found: how many of them the ranking holds, first:
            the rank of its first; all None for recognition.
        answer, labels: predicted label and score, and the right labels, for recognition.
        verdict: on the answer.
    """

    query: str
    photo: Shown
    box: Box | None
    value: float | None
    hits: tuple[JudgedHit, ...]
    right: int | None = None
    found: int | None = None
    first: int | None = None
    answer: tuple[str, float] | None = None
    labels: tuple[str, ...] | None = None
    verdict: str | None = None


def scored_parts(run: Run) -> tuple[str, ...]:
    """The parts that are worth curves of their own: difficulties, or the whole."""
    order = DIFFICULTIES if run.benchmark.protocol == "revisited" else (ALL_QUERIES,)
    return tuple(part for part in order if run.scores.queries.get(part))


def ranking_of(run: Run, part: str, query: str) -> Ranking:
    """A query's ranking in a part, perhaps empty."""
    name = part if run.benchmark.protocol == "revisited" else ALL_QUERIES
    return run.predictions.rankings.get(name, {}).get(query, _NOTHING)


def right_and_ignored(
    benchmark: BenchmarkSpec, part: str, query: str
) -> tuple[frozenset[str], frozenset[str]]:
    """Gallery ids that are right for a query in a part, and those that do not count."""
    truth = benchmark.truth[query]
    if isinstance(truth, RevisitedTruth):
        return revisited_split(truth, part)
    if isinstance(truth, RetrievalTruth):
        return truth.relevant, frozenset()
    return frozenset(), frozenset()


def example(
    run: Run, part: str, query: QueryPhoto, value: float | None, album: Album, count: int
) -> Example:
    """A query of a run as a page shows it, with its first ``count`` hits."""
    truth = run.benchmark.truth[query.id]
    ranking = ranking_of(run, part, query.id)
    hits, first, found = _judge(run, part, query.id, ranking, album, count)
    photo = album.read(query.path, QUERY_SIDE)
    box = None
    if photo.picture is not None and query.box is not None:
        small = photo.picture
        box = Frame(0, 0, small.width, small.height, *photo.size).box_to_canvas(query.box)
    if isinstance(truth, RecognitionTruth):
        answer = run.predictions.labels.get(query.id)
        verdict = None if answer is None else RIGHT if answer[0] in truth.labels else WRONG
        labels = tuple(sorted(truth.labels))
        return Example(query.id, photo, box, value, hits, None, None, None, answer, labels, verdict)
    right, _ = right_and_ignored(run.benchmark, part, query.id)
    return Example(query.id, photo, box, value, hits, len(right), found, first)


def _judge(
    run: Run, part: str, query: str, ranking: Ranking, album: Album, count: int
) -> tuple[tuple[JudgedHit, ...], int | None, int]:
    """The first hits, the rank of the first that is right, and how many right ones there are."""
    right, ignored = right_and_ignored(run.benchmark, part, query)
    kept = [image for image in ranking.ids if image not in ignored]
    first = next((rank for rank, image in enumerate(kept, 1) if image in right), None)
    ordered_only = np.array_equal(ranking.scores, plain_ranking(ranking.ids).scores)
    hits: list[JudgedHit] = []
    rank = 0
    for place, image in enumerate(ranking.ids[:count]):
        rank += image not in ignored
        label = run.benchmark.labels.get(image) if isinstance(run.benchmark, Benchmark) else None
        hits.append(
            JudgedHit(
                rank=None if image in ignored else rank,
                id=image,
                photo=album.read(run.paths.get(image), HIT_SIDE),
                verdict=_verdict(run.benchmark, query, image, label, right, ignored),
                score=None if ordered_only else float(ranking.scores[place]),
                inliers=None if ordered_only else int(ranking.inliers[place]),
                verified=bool(ranking.verified[place]),
                label=label,
            )
        )
    return tuple(hits), first, len(right.intersection(ranking.ids))


def _verdict(
    benchmark: BenchmarkSpec,
    query: str,
    image: str,
    label: str | None,
    right: frozenset[str],
    ignored: frozenset[str],
) -> str | None:
    truth = benchmark.truth[query]
    if isinstance(truth, RecognitionTruth):
        return None if label is None else RIGHT if label in truth.labels else WRONG
    if image in ignored:
        return IGNORED
    return RIGHT if image in right else WRONG


def worst_and_best(values: dict[str, float], each: int) -> tuple[list[str], list[str]]:
    """Up to ``each`` queries of least value, least first, and of most value, most first.

    No query is in both; of few queries the worse half is called the worst.
    """
    order = sorted(values, key=lambda query: (values[query], query))
    worst = order[: min(each, (len(order) + 1) // 2)]
    return worst, order[len(worst) :][::-1][:each]


def most_confident(answers: dict[str, float], count: int) -> Sequence[str]:
    """The queries of the highest scores, highest first."""
    return sorted(answers, key=lambda query: (-answers[query], query))[:count]

"""Queries with their first hits as pages show them: photos, and which hits are right."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from delg.images.decode import ImageError, decode
from delg.remote_path import Location
from delg.types import Box
from eval.benchmark import (
    ALL_QUERIES,
    Benchmark,
    BenchmarkSpec,
    QueryPhoto,
    RecognitionTruth,
    RetrievalTruth,
    RevisitedTruth,
)
from eval.metrics import DIFFICULTIES, revisited_split
from eval.predictions import plain_ranking
from eval.run import Run
from index.results import Ranking, as_percent
from index.visualize.draw_matches import Frame
from index.visualize.html import EmbeddedImage, embed_image

QUERY_SIDE, HIT_SIDE = 320, 200
RIGHT, WRONG, IGNORED = "right", "wrong", "ignored"
_EMPTY = plain_ranking(())


@dataclass(frozen=True)
class PagePhoto:
    """A photo on a page, or the reason why it is missing; (width, height) of the original."""

    picture: EmbeddedImage | None
    reason: str = ""
    size: tuple[int, int] = (0, 0)


@dataclass
class Album:
    """The photos of a page; each file is decoded once."""

    _files: dict[tuple[str, int], PagePhoto] = field(default_factory=dict)

    def read(self, path: str | Location | None, side: int) -> PagePhoto:
        """The photo at a path or URL, resized to a longest side of ``side`` pixels."""
        if path is None:
            return PagePhoto(None, "the run does not record where this photo lies")
        key = str(path), side
        if key not in self._files:
            try:
                pixels = decode(path)
                size = pixels.shape[1], pixels.shape[0]
                self._files[key] = PagePhoto(embed_image(pixels, side), "", size)
            except ImageError as error:
                self._files[key] = PagePhoto(None, str(error))
        return self._files[key]


@dataclass(frozen=True)
class JudgedHit:
    """A hit; ``rank`` is None if it is ignored, ``verdict`` if its label is unknown, ``score`` and
    ``inliers`` if only the order of the hits is known, ``percent`` if the run has no
    probabilities."""

    rank: int | None
    id: str
    photo: PagePhoto
    verdict: str | None
    score: float | None
    inliers: int | None
    percent: str | None
    verified: bool
    label: str | None


@dataclass(frozen=True)
class Example:
    """A query and its first hits.

    Attributes:
        box: the query region, in pixels of the picture.
        value: of the metric that orders queries; None for a query that is not scored.
        hits: best first.
        relevant: number of relevant photos; retrieved: how many of them the ranking contains;
            first: the rank of the first; all None for recognition.
        prediction, labels: predicted label and score, and the right labels, for recognition.
        verdict: on the prediction.
    """

    query: str
    photo: PagePhoto
    box: Box | None
    value: float | None
    hits: tuple[JudgedHit, ...]
    relevant: int | None = None
    retrieved: int | None = None
    first: int | None = None
    prediction: tuple[str, float] | None = None
    labels: tuple[str, ...] | None = None
    verdict: str | None = None


def scored_parts(run: Run) -> tuple[str, ...]:
    """The parts with charts of their own: the scored difficulties, or "all"."""
    order = DIFFICULTIES if run.benchmark.protocol == "revisited" else (ALL_QUERIES,)
    return tuple(part for part in order if run.scores.queries.get(part))


def ranking_of(run: Run, part: str, query: str) -> Ranking:
    """A query's ranking in a part, perhaps empty."""
    name = part if run.benchmark.protocol == "revisited" else ALL_QUERIES
    return run.predictions.rankings.get(name, {}).get(query, _EMPTY)


def right_and_ignored(
    benchmark: BenchmarkSpec, part: str, query: str
) -> tuple[frozenset[str], frozenset[str]]:
    """Gallery ids that are relevant for a query in a part, and those that are ignored."""
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
    hits, first, retrieved = _judge(run, part, query.id, ranking, album, count)
    photo = album.read(query.path, QUERY_SIDE)
    box = None
    if photo.picture is not None and query.box is not None:
        picture = photo.picture
        box = Frame(0, 0, picture.width, picture.height, *photo.size).box_to_canvas(query.box)
    if isinstance(truth, RecognitionTruth):
        prediction = run.predictions.labels.get(query.id)
        verdict = None if prediction is None else RIGHT if prediction[0] in truth.labels else WRONG
        labels = tuple(sorted(truth.labels))
        return Example(
            query.id, photo, box, value, hits,
            prediction=prediction, labels=labels, verdict=verdict,
        )  # fmt: skip
    right, _ = right_and_ignored(run.benchmark, part, query.id)
    return Example(query.id, photo, box, value, hits, len(right), retrieved, first)


def _judge(
    run: Run, part: str, query: str, ranking: Ranking, album: Album, count: int
) -> tuple[tuple[JudgedHit, ...], int | None, int]:
    """The first hits, the rank of the first relevant one, and how many relevant ones there are."""
    right, ignored = right_and_ignored(run.benchmark, part, query)
    counted = [image for image in ranking.ids if image not in ignored]
    first = next((rank for rank, image in enumerate(counted, 1) if image in right), None)
    is_only_order = np.array_equal(ranking.scores, plain_ranking(ranking.ids).scores)
    hits: list[JudgedHit] = []
    rank = 0
    for position, image in enumerate(ranking.ids[:count]):
        rank += image not in ignored
        probability = float(ranking.probabilities[position])
        label = run.benchmark.labels.get(image) if isinstance(run.benchmark, Benchmark) else None
        hits.append(
            JudgedHit(
                rank=None if image in ignored else rank,
                id=image,
                photo=album.read(run.paths.get(image), HIT_SIDE),
                verdict=_verdict(run.benchmark, query, image, label, right, ignored),
                score=None if is_only_order else float(ranking.scores[position]),
                inliers=None if is_only_order else int(ranking.inliers[position]),
                percent=None if math.isnan(probability) else as_percent(probability),
                verified=bool(ranking.verified[position]),
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
    """Up to ``each`` queries of lowest value, lowest first, and of highest value, highest first.

    No query is in both; of few queries the lower half counts as the worst.
    """
    order = sorted(values, key=lambda query: (values[query], query))
    worst = order[: min(each, (len(order) + 1) // 2)]
    return worst, order[len(worst) :][::-1][:each]


def most_confident(scores: dict[str, float], count: int) -> list[str]:
    """The queries of the highest scores, highest first."""
    return sorted(scores, key=lambda query: (-scores[query], query))[:count]

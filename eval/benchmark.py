"""What a benchmark is: gallery photos, queries, and the ground truth of each query.

Readers of datasets (:mod:`eval.datasets`) make these values; :mod:`eval.evaluate` runs and scores
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from delg.images.scan import Photo
from delg.remote_path import Location
from delg.types import Box

# The part that every query belongs to where a benchmark has no parts.
ALL_QUERIES = "all"
# Queries of this part are not scored (GLDv2's solution files).
IGNORED_PART = "Ignored"


@dataclass(frozen=True)
class QueryPhoto:
    """A query.

    Attributes:
        id: unique in its benchmark.
        path: of the photo.
        box: the query region, (x, y, width, height) in the photo's upright pixels; None is all.
        gallery_id: the query's own id in the gallery if it is one of its photos, and so must not
            be retrieved for itself (leave-one-out).
    """

    id: str
    path: Location
    box: Box | None = None
    gallery_id: str | None = None


@dataclass(frozen=True)
class RevisitedTruth:
    """Ground truth of one query of revisited Oxford/Paris (arXiv 1803.11285): gallery ids."""

    easy: frozenset[str]
    hard: frozenset[str]
    junk: frozenset[str]


@dataclass(frozen=True)
class RetrievalTruth:
    """The relevant gallery ids of one query, perhaps none; its part, e.g. "Public"."""

    relevant: frozenset[str]
    part: str = ALL_QUERIES


@dataclass(frozen=True)
class RecognitionTruth:
    """The right labels of one query (any of them counts), none for a query that shows no known
    instance; its part, e.g. "Public"."""

    labels: frozenset[str]
    part: str = ALL_QUERIES


def parts_of(part: str) -> tuple[str, ...]:
    """The parts that a query counts in: its own and "all"; none if it is ignored."""
    if part == IGNORED_PART:
        return ()
    return (ALL_QUERIES,) if part == ALL_QUERIES else (part, ALL_QUERIES)


Truth = Mapping[str, RevisitedTruth | RetrievalTruth | RecognitionTruth]


@dataclass(frozen=True, kw_only=True)
class BenchmarkSpec:
    """What scoring and reporting need: all of a benchmark but its gallery.

    Attributes:
        name: of the dataset, as it should stand in reports.
        protocol: "revisited", "retrieval" or "recognition".
        queries: in the order in which they are run.
        truth: by query id, for every query; all of the kind that the protocol says.
        recalls: ranks k at which recall@k is reported.
        depth: hits that count, k of mAP@k; None is the whole ranking.
    """

    name: str
    protocol: str
    queries: tuple[QueryPhoto, ...]
    truth: Truth
    recalls: tuple[int, ...] = (1, 5, 10)
    depth: int | None = 100


@dataclass(frozen=True, kw_only=True)
class Benchmark(BenchmarkSpec):
    """A benchmark with its gallery, ready to run.

    Attributes:
        gallery: the photos to search in, with the ids that the truth uses.
        labels: gallery id -> label; needed for recognition.
    """

    gallery: tuple[Photo, ...]
    labels: Mapping[str, str] = field(default_factory=dict)

"""The results of verifications and queries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delg.types import Box, FloatArray


@dataclass(frozen=True, eq=False)
class Verification:
    """The result of geometric verification of two photos.

    Attributes:
        inliers: matches that agree with one plausible transform; 0 where there is none.
        verified: inliers reach the configured minimum.
        transform: float64 (3, 3), maps homogeneous (x, y, 1) in the query's pixels to the other
            photo's; None without inliers.
        matches: int32 (inliers, 2), indices into the query's and the other photo's features.
    """

    inliers: int
    verified: bool
    transform: NDArray[np.float64] | None
    matches: NDArray[np.int32]

    @classmethod
    def none(cls) -> Verification:
        """No transform, no inliers."""
        return cls(0, False, None, np.zeros((0, 2), np.int32))


@dataclass(frozen=True, eq=False)
class Hit:
    """One photo of a query's results.

    Attributes:
        rank: from 1.
        id, path, label, metadata: of the indexed photo.
        score: orders the hits and is comparable across queries; see :mod:`index.search.scoring`.
        similarity: inner product of the global descriptors.
        inliers, verified, transform: see :class:`Verification`.
        query_points, points: float32 (inliers, 2), (x, y), the matched points in the upright
            pixels of the query and of this photo.
        width, height: of this photo, upright, pixels.
    """

    rank: int
    id: str
    path: str
    label: str | None
    score: float
    similarity: float
    inliers: int
    verified: bool
    transform: NDArray[np.float64] | None
    metadata: dict[str, str] = field(default_factory=dict)
    query_points: FloatArray = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    points: FloatArray = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    width: int = 0
    height: int = 0

    def as_json(self) -> dict[str, Any]:
        """The hit as the command line prints it."""
        return {
            "rank": self.rank,
            "id": self.id,
            "path": self.path,
            "label": self.label,
            "score": round(self.score, 6),
            "similarity": round(self.similarity, 6),
            "inliers": self.inliers,
            "verified": self.verified,
            "transform": None if self.transform is None else self.transform.tolist(),
        }


@dataclass(frozen=True, eq=False)
class Ranking:
    """A ranking of many thousand photos, without the details of hits.

    Attributes:
        ids: of the images, best first.
        scores: float32 (N,), descending.
        inliers: int32 (N,).
        verified: bool (N,).
    """

    ids: tuple[str, ...]
    scores: FloatArray
    inliers: NDArray[np.int32]
    verified: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class QueryResult:
    """The hits of one query, best first; a sequence of :class:`Hit`.

    Attributes:
        orientation: degrees (0, 90, 180, 270) by which the query was rotated
            counter-clockwise to find the first hit.
        width, height: of the upright query, pixels.
        box: the part of it that was searched for, (x, y, width, height); None: all of it.
        timing_ms: milliseconds for ``extract``, ``search`` and ``rerank``.
    """

    hits: tuple[Hit, ...]
    model: str
    orientation: int
    width: int
    height: int
    box: Box | None
    timing_ms: dict[str, float]

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)

    def __getitem__(self, position: int) -> Hit:
        return self.hits[position]

    def as_json(self, query: str, index: str) -> dict[str, Any]:
        """The result as the command line prints it and the HTTP API answers it.

        Args:
            query: the name of the photo.
            index: the name of the index.
        """
        return {
            "query": query,
            "index": index,
            "model": self.model,
            "orientation": self.orientation,
            "timing_ms": self.timing_ms,
            "hits": [hit.as_json() for hit in self],
        }

"""The results of verifications and queries."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from delg.types import Box, FloatArray
from index.answers.answer import Answer
from index.answers.source_links import iiif_of, source_url_of
from index.log_odds import probability_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from delg.images.decode import Source


def as_percent(probability: float) -> str:
    """A probability for people; never as certain as 0 % or 100 %."""
    if probability < 0.001:
        return "< 0.1%"
    return "> 99.9%" if probability > 0.999 else f"{probability:.1%}"


class Evidence(NamedTuple):
    """What speaks for or against a pair whose matches agree on a transform; see
    :mod:`index.verification.evidence`.

    Rates are of the query's features whose nearest neighbour lies where the transform leads,
    drawn towards 0 where features are few.

    Attributes:
        inliers: matches that agree with the transform.
        inlier_rate: their share of all matches.
        agreement: the least of three rates: in the middle of the region that both photos show, in
            the box around the inliers, and in the middle of that box.
        contrast: the rate in the middle of the inliers' box over that in all of it.
        hole: log likelihood ratio, at least 0, of the least matched window inside that box: of its
            own rate against the rate around it.
        coverage: cells of an 8 by 8 grid over the other photo that hold inliers.
        variety: how different the inliers are from each other, above 0 to 1: of the other photo's
            descriptors the inverse of the mean number that are alike, each counting itself. Much
            the same feature over and over, as along a moulding or in rows of windows, finds its
            match by chance.
    """

    inliers: float
    inlier_rate: float
    agreement: float
    contrast: float
    hole: float
    coverage: float
    variety: float


@dataclass(frozen=True, eq=False)
class Verification:
    """The result of geometric verification of two photos.

    Attributes:
        inliers: matches that agree with one plausible transform; 0 where there is none.
        log_odds: natural log-odds that both photos show the same thing; see
            :mod:`index.verification.calibration`.
        verified: there is evidence, and the probability reaches the configured minimum.
        transform: float64 (3, 3), maps homogeneous (x, y, 1) in the query's pixels to the other
            photo's; None without inliers.
        matches: int32 (inliers, 2), indices into the query's and the other photo's features.
        log_odds_by_evidence: the same by the evidence, whatever the likeness of the photos; −∞ if
            there are too few inliers to say.
    """

    inliers: int
    log_odds: float
    verified: bool
    transform: NDArray[np.float64] | None
    matches: NDArray[np.int32]
    log_odds_by_evidence: float = -math.inf

    @property
    def probability(self) -> float:
        """The calibrated probability that both photos show the same thing, 0 to 1."""
        return probability_of(self.log_odds)

    @classmethod
    def none(cls, log_odds: float = -math.inf) -> Verification:
        """No transform, no inliers.

        Args:
            log_odds: by the similarity alone.
        """
        return cls(0, log_odds, False, None, np.zeros((0, 2), np.int32))


@dataclass(frozen=True, eq=False, repr=False)
class Hit:
    """One photo of a query's results.

    Attributes:
        rank: from 1.
        id, path, label, metadata: of the indexed photo.
        score: orders the hits and is comparable across queries; see :mod:`index.search.scoring`.
        similarity: inner product of the global descriptors.
        inliers, probability, verified, transform: see :class:`Verification`.
        query_points, points: float32 (inliers, 2), (x, y), the matched points in the upright
            pixels of the query and of this photo.
        width, height: of this photo, upright, pixels.
        photo: number, from 0, of the query's photo that found it, where there are several.
        mark: what people said of query and photo, see :mod:`index.answers.marks`; None: nothing.
        region: the stored part of this photo that matches, (x, y, width, height) in its pixels;
            None: all of it does, or no parts are stored (``store.regions``).
    """

    rank: int
    id: str
    path: str
    label: str | None
    score: float
    similarity: float
    inliers: int
    probability: float
    verified: bool
    transform: NDArray[np.float64] | None
    metadata: dict[str, str] = field(default_factory=dict)
    query_points: FloatArray = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    points: FloatArray = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    width: int = 0
    height: int = 0
    photo: int = 0
    mark: Literal["same", "different"] | None = None
    region: Box | None = None

    def __repr__(self) -> str:
        verified = ", verified" if self.verified else ""
        label = f", label={self.label!r}" if self.label is not None else ""
        return f"<Hit {self.rank}: {self.id!r}{label}, {self.percent}{verified}>"

    @property
    def percent(self) -> str:
        """The probability for people."""
        return as_percent(self.probability)

    @property
    def source_url(self) -> str | None:
        """The page about the photo that its metadata name; see
        :mod:`index.answers.source_links`."""
        return source_url_of(self.metadata)

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
            "probability": round(self.probability, 6),
            "verified": self.verified,
            "transform": None if self.transform is None else self.transform.tolist(),
            "mark": self.mark,
            "region": None if self.region is None else [round(value, 1) for value in self.region],
            "source_url": self.source_url,
            "iiif": iiif_of(self.metadata),
        }


@dataclass(frozen=True, eq=False)
class Ranking:
    """A ranking of many thousand photos, without the details of hits.

    Attributes:
        ids: of the images, best first.
        scores: float32 (N,), descending.
        inliers: int32 (N,).
        probabilities: float32 (N,), see :class:`Verification`.
        verified: bool (N,).
    """

    ids: tuple[str, ...]
    scores: FloatArray
    inliers: NDArray[np.int32]
    probabilities: FloatArray
    verified: NDArray[np.bool_]


@dataclass(frozen=True)
class MissingShard:
    """A part of a sharded index that could not be searched.

    Attributes:
        shard: its name.
        reason: why.
    """

    shard: str
    reason: str

    def __str__(self) -> str:
        return f"{self.shard}: {self.reason}"


@dataclass(frozen=True, eq=False)
class Region:
    """A part of a query, and what is verified to show the same thing as it.

    Attributes:
        box: (x, y, width, height) in the query's upright pixels.
        ranks: of its hits, best first; empty: the part stands out, but nothing was verified for it.
            :meth:`QueryResult.hits_of` gives the hits.
    """

    box: Box
    ranks: tuple[int, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The box, and the hits by their ranks."""
        return {"box": [round(value, 1) for value in self.box], "hits": list(self.ranks)}


@dataclass(frozen=True, eq=False, repr=False)
class QueryResult:
    """The hits of one query, best first; a sequence of :class:`Hit`.

    Attributes:
        orientation: degrees (0, 90, 180, 270) by which the query was rotated
            counter-clockwise to find the first hit.
        width, height: of the upright query, pixels.
        box: the part of it that was searched for, (x, y, width, height); None: all of it.
        timing_ms: milliseconds for ``extract``, ``search`` and ``rerank``.
        partial: parts of a sharded index that were not searched; empty: everything was.
        features: number of local features of the query.
        notes: why there may be less to find than expected, in words.
        photos: number of photos that were searched with, as one query.
        key: what the query's marks are kept under, see :mod:`index.answers.marks`; empty: nothing.
        regions: what the query shows and where: the regions of the verified hits by their best
            hit, then others that stand out. See :mod:`index.search.regions`.
    """

    hits: tuple[Hit, ...]
    model: str
    orientation: int
    width: int
    height: int
    box: Box | None
    timing_ms: dict[str, float]
    partial: tuple[MissingShard, ...] = ()
    features: int = 0
    notes: tuple[str, ...] = ()
    photos: int = 1
    key: str = ""
    regions: tuple[Region, ...] = ()

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)

    def __getitem__(self, position: int) -> Hit:
        return self.hits[position]

    def hits_of(self, region: Region) -> tuple[Hit, ...]:
        """The hits that are verified for a region of the query, best first."""
        return tuple(self.hits[rank - 1] for rank in region.ranks)

    def __repr__(self) -> str:
        return f"<QueryResult: {self.answer().text}; {len(self)} hits>"

    def _repr_html_(self) -> str:
        from index.answers.notebook import result_html

        return result_html(self)

    def to_pandas(self) -> pd.DataFrame:
        """The hits as a table of pandas, with metadata as columns.

        Raises:
            UsageError: pandas is not installed.
        """
        from index.answers.notebook import hits_frame

        return hits_frame(self.hits)

    def plot(self, query: Source | None = None, hits: int = 5) -> Figure:
        """A figure of matplotlib: the query, if it is given, and the first hits with the matched
        points.

        Raises:
            ImageError: the query cannot be decoded.
        """
        from index.answers.notebook import plot_result

        return plot_result(self, query, hits)

    def answer(self) -> Answer:
        """What the query shows, with the hits grouped by label; see :mod:`index.answers.answer`."""
        return Answer.of(self.hits, [region.ranks for region in self.regions])

    def as_json(self, query: str, index: str) -> dict[str, Any]:
        """The result as the command line prints it and the HTTP API answers it.

        Args:
            query: the name of the photo.
            index: the name of the index.
        """
        which = [{"photo": hit.photo} if self.photos > 1 else {} for hit in self]
        values = {
            "query": query,
            "key": self.key,
            "index": index,
            "model": self.model,
            "orientation": self.orientation,
            "timing_ms": self.timing_ms,
            "features": self.features,
            "notes": list(self.notes),
            "answer": self.answer().as_json(),
            "hits": [hit.as_json() | more for hit, more in zip(self, which, strict=True)],
            "regions": [region.as_json() for region in self.regions],
        }
        if self.partial:
            values["partial"] = [vars(missing) for missing in self.partial]
        return values

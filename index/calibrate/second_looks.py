"""Queries compared with a gallery, and second looks at those that nothing was proven for.

A second look warps the query into the candidate's pose, so that both agree in it by construction,
and what agrees by chance gains evidence as well. How much less that evidence is worth is learnt
from the second looks that a query would get.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from delg.extraction.extractor import Extractor
from delg.images.decode import decode
from delg.images.scan import Photo
from delg.types import ImageFeatures, Progress
from index.calibrate.fit import LabelledPairs
from index.log_odds import log_odds_of
from index.results import Evidence
from index.selection import Selection
from index.storage.store import Store
from index.verification.calibration import DEFAULT_CALIBRATION, Calibration
from index.verification.geometric import GeometricMatch
from index.verification.matchable import MatchableQuery
from index.verification.pair import match_pair
from index.verification.reverify import QueryPhoto, extract_warped, is_enough

# The most similar photos that each query is compared with.
_CANDIDATES = 60
_NOTHING = (np.nan,) * len(Evidence._fields)


@dataclass(frozen=True, eq=False)
class ComparedQuery:
    """A query with its most similar photos, without itself.

    Attributes:
        photo: the query.
        shows: what it shows.
        pairs: it and each of the photos.
        rows: int (N,), of these photos.
        matches: with each of them, where a transform was found.
    """

    photo: Photo
    shows: str
    pairs: LabelledPairs
    rows: NDArray[np.int64]
    matches: list[GeometricMatch | None]


def compare(
    features: ImageFeatures, photo: Photo, store: Store, shows: Mapping[str, str], weight: float
) -> ComparedQuery:
    """Compare a query with the gallery.

    Args:
        shows: what every photo shows, by id.
        weight: of each pair.
    """
    query = MatchableQuery(features)
    others = Selection(without=frozenset([photo.id]))
    rows, similarities = store.nearest(features.global_descriptor, _CANDIDATES, others)
    matches = [_match(query, store, int(row)) for row in rows]
    evidence = [(match.evidence if match else None) or _NOTHING for match in matches]
    ids = store.catalog.ids(np.asarray(rows, np.int64))
    pairs = LabelledPairs(
        np.asarray(similarities, np.float64),
        np.array(evidence, np.float64).reshape(len(rows), len(_NOTHING)),
        np.array([shows[image] == shows[photo.id] for image in ids], bool),
        np.full(len(rows), weight),
    )
    return ComparedQuery(photo, shows[photo.id], pairs, np.asarray(rows, np.int64), matches)


def look_again(
    extractor: Extractor,
    queries: Sequence[ComparedQuery],
    calibration: Calibration,
    store: Store,
    progress: Progress,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The second looks that a search would take at candidates of these queries.

    Returns:
        The log-odds (N,) that the calibration gives their evidence, and whether both photos show
        the same thing (N,).
    """
    log_odds: list[float] = []
    same: list[bool] = []
    for done, query in enumerate(queries, 1):
        photo = None
        for place in _promising(query, calibration, store):
            photo = photo or QueryPhoto(extractor, decode(query.photo.path, extractor.images))
            match = _match_warped(photo, query.matches[place], store, int(query.rows[place]))
            if match is not None:
                similarity = float(query.pairs.similarities[place])
                log_odds.append(calibration.log_odds_by_evidence(similarity, match.evidence))
                same.append(bool(query.pairs.same[place]))
        progress(done, len(queries), 0)
    return np.array(log_odds), np.array(same, bool)


def _promising(query: ComparedQuery, calibration: Calibration, store: Store) -> list[int]:
    """Places of the candidates that a search would look at again; none if one is proven."""
    spec = store.settings.reverification
    proven = log_odds_of(store.settings.verification.min_probability)
    by_inliers = [
        (-len(match.inliers), place)
        for place, match in enumerate(query.matches)
        if match is not None and len(match.inliers) >= spec.from_inliers
    ]
    for _, place in by_inliers:
        match, similarity = query.matches[place], float(query.pairs.similarities[place])
        evidence = match.evidence if match else None
        if calibration.log_odds_by_evidence(similarity, evidence) >= proven:
            return []
    return [place for _, place in sorted(by_inliers)[: spec.candidates]]


def _match(query: MatchableQuery, store: Store, row: int) -> GeometricMatch | None:
    other = store.matchable(row)
    matchable = query.in_codebook_of(other)
    return match_pair(matchable, other, store.settings, DEFAULT_CALIBRATION.min_inliers)


def _match_warped(
    photo: QueryPhoto, match: GeometricMatch | None, store: Store, row: int
) -> GeometricMatch | None:
    """The match after a second look; None if it has too few inliers."""
    if match is None:
        return None
    warped = extract_warped(photo, store.matchable(row).size, match.transform)
    again = _match(MatchableQuery(warped), store, row) if warped else None
    return again if again and is_enough(len(again.inliers), store.settings) else None

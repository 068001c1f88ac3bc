"""Neighbours: candidates that geometry does not speak for are ordered by what is near to them.

A photo of the same thing from the other side, or at night, may be unlike the query and yet near to
photos that are like it. A refinement (:mod:`index.search.refinement`) finds that out from the
similarities of the candidates to each other, and from what verification says of some of them.
Photos that geometry speaks for lead, in the order of their scores; one that it says but little for
joins the query as far as that goes. Of those that do not lead refinement changes the order alone:
the one that it puts r-th takes the r-th highest of their scores. So scores still compare with those
of other queries, whatever unit a method works in, and none rises to that of a photo that leads.

Refinement works on the candidates of all indexes that are searched together, so that one index and
its photos spread over several give the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from delg.types import FloatArray
from index.search.candidates import Candidate, sort_by_score
from index.search.refinement import Neighbourhood, get_refinement
from index.search.scatter import Scatter
from index.settings import NeighboursSettings
from index.verification.matching import one_blas_thread

# Log-odds by evidence from which a photo leads, and from which it joins the query: of probabilities
# of .1 and .025.
_LEADING, _JOINING = -2.2, -3.7


def refine_order(
    shards: Scatter,
    query: FloatArray,
    candidates: Sequence[Candidate],
    settings: NeighboursSettings,
) -> list[Candidate]:
    """The candidates in their refined order.

    Args:
        shards: of their images.
        query: float32 (D,), the query's global descriptor, unit length.
        candidates: in any order.
        settings: the method, and how many of the most similar candidates it looks at.

    Returns:
        All candidates, best first, with scores as above. Those that refinement does not look at
        follow as they were.
    """
    leaders = [candidate for candidate in candidates if leads(candidate)]
    others = [candidate for candidate in candidates if not leads(candidate)]
    top = _first_to_refine(others, settings.candidates)
    refinement = get_refinement(settings, len(top))
    if refinement is None or len(top) < 2 or not len(query):
        return sort_by_score(candidates)
    looked_at = [*top, *sorted(leaders, key=lambda candidate: candidate.image)]
    descriptors = shards.read_descriptors([candidate.image for candidate in looked_at])
    proof = np.array([c.probability if _joins(c) else 0 for c in looked_at], np.float32)
    # A second thread gains little, and costs much where anything else runs.
    with one_blas_thread():
        nearness = refinement.refine(Neighbourhood(query, descriptors, proof))[: len(top)]
    # Where two are equally near, the order of `top` stays.
    order = [top[place] for place in np.argsort(-nearness, kind="stable")]
    seen = {candidate.image for candidate in top}
    rest = sort_by_score(candidate for candidate in others if candidate.image not in seen)
    scores = sorted((candidate.score for candidate in others), reverse=True)
    refined = [
        replace(candidate, score=score)
        for candidate, score in zip([*order, *rest], scores, strict=True)
    ]
    return [*sort_by_score(leaders), *refined]


def leads(candidate: Candidate) -> bool:
    """Whether geometry speaks for it, be it short of proof."""
    return candidate.match.verification.log_odds_by_evidence >= _LEADING


def _joins(candidate: Candidate) -> bool:
    """Whether geometry says so much for it that the query may be expanded by it."""
    return candidate.match.verification.log_odds_by_evidence >= _JOINING


def _first_to_refine(candidates: Sequence[Candidate], count: int) -> list[Candidate]:
    """Those that join the query, then the most similar, the most similar first among either."""
    return sorted(
        candidates,
        key=lambda candidate: (not _joins(candidate), -candidate.similarity, candidate.image),
    )[:count]

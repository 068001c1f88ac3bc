"""Recognition: what is it? The label of the hits, by their summed evidence.

    score = 1 + Σ (hit's score − 1)                      over the label's verified hits
    score = the best similarity of a hit                  where nothing is verified

A verified hit's score lies between 1 and 3 (:mod:`index.search.scoring`), so it adds its
similarity and
the weight of its inliers. Queries that show nothing known have no verified hits and stay below 1,
as GAP asks: their answers must come after the right ones of all queries.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from index.results import Ranking


def recognise(ranking: Ranking, labels: Mapping[str, str]) -> tuple[str, float] | None:
    """The label with the most evidence, and its score; None where no hit has a label.

    Args:
        ranking: hits of the query.
        labels: image id -> label; hits without one say nothing.
    """
    evidence: dict[str, float] = defaultdict(float)
    likeness: dict[str, float] = {}
    for image, score, verified in zip(
        ranking.ids, ranking.scores.tolist(), ranking.verified.tolist(), strict=True
    ):
        label = labels.get(image)
        if label is None:
            continue
        if verified:
            evidence[label] += score - 1
        else:
            likeness[label] = max(score, likeness.get(label, score))
    if evidence:
        # Of equal ones the first in the alphabet, so that the answer repeats.
        label, total = max(sorted(evidence.items()), key=lambda one: one[1])
        return label, 1 + total
    return max(sorted(likeness.items()), key=lambda one: one[1], default=None)

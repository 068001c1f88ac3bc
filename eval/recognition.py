"""Recognition: a query's label, voted for by its hits.

    score = 1 + Σ (hit's score − 1)                      over the label's verified hits
    score = the highest similarity of a hit               where no hit is verified

A verified hit's score lies between 1 and 3 (:mod:`index.search.scoring`), so it adds its similarity
and the weight of its inliers. Queries that show no known instance have no verified hits and stay
below 1, as GAP demands: their predictions must rank below the right ones of all queries.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from operator import itemgetter

from index.results import Ranking


def recognise(ranking: Ranking, labels: Mapping[str, str]) -> tuple[str, float] | None:
    """The label with the most evidence, and its score; None where no hit has a label.

    Args:
        ranking: hits of the query.
        labels: image id -> label; hits without a label have no vote.
    """
    evidence: dict[str, float] = defaultdict(float)
    similarity: dict[str, float] = {}
    for image, score, verified in zip(
        ranking.ids, ranking.scores.tolist(), ranking.verified.tolist(), strict=True
    ):
        label = labels.get(image)
        if label is None:
            continue
        if verified:
            evidence[label] += score - 1
        else:
            similarity[label] = max(score, similarity.get(label, score))
    if evidence:
        # Ties go to the first label in the alphabet, so that results repeat.
        label, total = max(sorted(evidence.items()), key=itemgetter(1))
        return label, 1 + total
    return max(sorted(similarity.items()), key=itemgetter(1), default=None)

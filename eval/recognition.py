"""Recognition: a query's label, voted for by its hits.

    score = Σ hit's score               over the label's verified hits
    score = the highest score of a hit  where no hit is verified

A hit's score is its log-odds (:mod:`index.search.scoring`), at least 0 where it is verified and
lower than that where it is not. Queries that show no known instance have no verified hits and so
stay below those that have, as GAP demands: their predictions must rank below the right ones of all
queries.
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
    unproven: dict[str, float] = {}
    for image, score, verified in zip(
        ranking.ids, ranking.scores.tolist(), ranking.verified.tolist(), strict=True
    ):
        label = labels.get(image)
        if label is None:
            continue
        if verified:
            evidence[label] += score
        else:
            unproven[label] = max(score, unproven.get(label, score))
    if evidence:
        # Ties go to the first label in the alphabet, so that results repeat.
        return max(sorted(evidence.items()), key=itemgetter(1))
    return max(sorted(unproven.items()), key=itemgetter(1), default=None)

"""Recognition: a query's label, voted for by its hits; see :mod:`index.answers.answer`.

Queries that show no known instance have no verified hits and so stay below those that have, as GAP
demands: their predictions must rank below the right ones of all queries.
"""

from __future__ import annotations

from collections.abc import Mapping

from index.answers.answer import rank_by_evidence
from index.results import Ranking


def recognise(ranking: Ranking, labels: Mapping[str, str]) -> tuple[str, float] | None:
    """The label with the most evidence, and its score; None where no hit has a label.

    Args:
        ranking: hits of the query.
        labels: image id -> label; hits without a label have no vote.
    """
    ranked = rank_by_evidence(
        (labels[image], score, verified)
        for image, score, verified in zip(
            ranking.ids, ranking.scores.tolist(), ranking.verified.tolist(), strict=True
        )
        if image in labels
    )
    return next(((label, score) for label, (score, _) in ranked.items()), None)

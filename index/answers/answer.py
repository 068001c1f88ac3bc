"""The answer to a query: what the photo shows, told from hits grouped by label.

As in recognition on Google Landmarks v2, a label is voted for by its hits:

    score = Σ hit's score               over the label's verified hits
    score = the highest score of a hit  where no hit is verified

A hit's score is its log-odds (:mod:`index.search.scoring`), at least 0 where it is verified and
lower than that where it is not, so that what is proven comes first.

Hits without a label are groups of their own, under their id. A photo shows one label's thing or
another's, or none of the collection's, so labels compete: with the log-odds l of each label, summed
as above, label i has the probability exp(lᵢ) / (1 + Σⱼ exp(lⱼ)). For a single hit this is the
hit's own probability. Photos without a label do not exclude each other, and keep theirs. Nor do
labels that are proven for different regions of the query: it shows both.

What people marked (:mod:`index.answers.marks`) counts for certain: a photo of the same thing as
proven beyond doubt, and one of another thing not at all.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from index.log_odds import MAX_LOG_ODDS, log_odds_of

if TYPE_CHECKING:
    from index.results import Hit

# Probability from which an answer is sure, where a hit is verified, and likely, where none is.
_SURE, _LIKELY = 0.95, 0.5

Verdict = Literal["sure", "probably", "none"]
Key = tuple[int, str]
Name = TypeVar("Name", Key, str)


def rank_by_evidence(votes: Iterable[tuple[Name, float, bool]]) -> dict[Name, tuple[float, bool]]:
    """What the votes are for, with its score and whether any vote is verified, the best first; see
    above.

    Args:
        votes: (name, score, verified) of each hit.
    """
    proven: dict[Name, float] = {}
    unproven: dict[Name, float] = {}
    for name, score, verified in votes:
        if verified:
            proven[name] = proven.get(name, 0.0) + score
        else:
            unproven[name] = max(score, unproven.get(name, score))
    ranked = {name: (score, True) for name, score in _descending(proven)}
    rest = {name: score for name, score in unproven.items() if name not in proven}
    return ranked | {name: (score, False) for name, score in _descending(rest)}


def _descending(scores: Mapping[Name, float]) -> list[tuple[Name, float]]:
    # Equal ones go by name, so that results repeat.
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))


@dataclass(frozen=True, eq=False)
class Group:
    """The hits of one label, or one hit without a label.

    Attributes:
        label: theirs; None where the hit has none.
        hits: best first.
        score: summed evidence, see above.
        probability: that the query shows this, 0 to 1.
        verified: whether a hit is.
        metadata: what all hits of which it is known have the same.
    """

    label: str | None
    hits: tuple[Hit, ...]
    score: float
    probability: float
    verified: bool
    metadata: dict[str, str]

    @property
    def name(self) -> str:
        """The label, or the id of the hit that has none."""
        return self.label if self.label is not None else self.hits[0].id

    def as_json(self) -> dict[str, Any]:
        """As plain values; hits by their ranks."""
        return {
            "label": self.label,
            "id": self.hits[0].id,
            "score": round(self.score, 6),
            "probability": round(self.probability, 6),
            "verified": self.verified,
            "metadata": self.metadata,
            "ranks": [hit.rank for hit in self.hits],
        }


@dataclass(frozen=True, eq=False)
class Answer:
    """What a query shows.

    Attributes:
        verdict: "sure", "probably", or "none": it is not in this collection, as far as one can see.
        groups: the best first; the first one is the answer, unless it is "none".
    """

    verdict: Verdict
    groups: tuple[Group, ...]

    @classmethod
    def of(cls, hits: Iterable[Hit], regions: Sequence[Collection[int]] = ()) -> Answer:
        """From the hits of a query, best first.

        Args:
            regions: the ranks of the hits that are proven for each region of the query.
        """
        groups = _group(hits, regions)
        if not groups or not (groups[0].verified or groups[0].probability >= _LIKELY):
            return cls("none", groups)
        is_sure = groups[0].verified and groups[0].probability >= _SURE
        return cls("sure" if is_sure else "probably", groups)

    @property
    def best(self) -> Group | None:
        """What the query shows; None if it is not in this collection."""
        return None if self.verdict == "none" else self.groups[0]

    @property
    def probability(self) -> float:
        """That of the first group; 0 where there is none."""
        return self.groups[0].probability if self.groups else 0.0

    @property
    def text(self) -> str:
        """The answer in words."""
        best = self.best
        return "not in this collection" if best is None else f"{self.verdict}: {best.name}"

    def __str__(self) -> str:
        return self.text

    def as_json(self) -> dict[str, Any]:
        """As the command line prints it and the HTTP API answers it."""
        best = self.best
        return {
            "verdict": self.verdict,
            "text": self.text,
            "label": best.label if best else None,
            "id": best.hits[0].id if best else None,
            "probability": round(self.probability, 6),
            "metadata": best.metadata if best else {},
            "groups": [group.as_json() for group in self.groups],
        }


def _group(hits: Iterable[Hit], regions: Sequence[Collection[int]]) -> tuple[Group, ...]:
    # Labels and ids may be the same texts.
    members: dict[Key, list[Hit]] = {}
    for hit in filter(_is_possible, hits):
        key: Key = (0, hit.label) if hit.label is not None else (1, hit.id)
        members.setdefault(key, []).append(hit)
    keyed = [(key, hit) for key, hits in members.items() for hit in hits]
    ranked = rank_by_evidence((key, _score(hit), _is_proven(hit)) for key, hit in keyed)
    summed = rank_by_evidence((key, _log_odds(hit), _is_proven(hit)) for key, hit in keyed)
    places = {key: _place(members[key][0], regions) for key in members}
    log_odds = {key: score for key, (score, _) in summed.items()}
    probabilities = {key: _probability(key, log_odds, places) for key in log_odds}
    return tuple(
        Group(
            label=key[1] if key[0] == 0 else None,
            hits=tuple(members[key]),
            score=score,
            probability=probabilities[key],
            verified=verified,
            metadata=_shared_metadata(members[key]),
        )
        for key, (score, verified) in ranked.items()
    )


def _place(hit: Hit, regions: Sequence[Collection[int]]) -> int | None:
    """The region that a hit is proven for; None: no single one."""
    places = (place for place, ranks in enumerate(regions) if hit.rank in ranks)
    return next(places, None)


def _probability(
    key: Key, log_odds: Mapping[Key, float], places: Mapping[Key, int | None]
) -> float:
    own = log_odds[key]
    if key[0] == 1:
        return 1 / (1 + math.exp(-own))
    # Rivals are the labels, itself included, that are not proven for another region.
    apart = {places[key], None}
    rivals = [
        value
        for other, value in log_odds.items()
        if other[0] == 0 and (places[key] is None or places[other] in apart)
    ]
    shift = max(*rivals, 0.0)
    return math.exp(own - shift) / (math.exp(-shift) + sum(math.exp(v - shift) for v in rivals))


def _is_possible(hit: Hit) -> bool:
    return hit.mark != "different"


def _is_proven(hit: Hit) -> bool:
    return hit.verified or hit.mark == "same"


def _score(hit: Hit) -> float:
    return max(hit.score, MAX_LOG_ODDS) if hit.mark == "same" else hit.score


def _log_odds(hit: Hit) -> float:
    return MAX_LOG_ODDS if hit.mark == "same" else log_odds_of(hit.probability)


def _shared_metadata(hits: Sequence[Hit]) -> dict[str, str]:
    # An empty value, as of a photo that a visitor took, says nothing.
    values: dict[str, set[str]] = {}
    for key, value in (item for hit in hits for item in hit.metadata.items() if item[1]):
        values.setdefault(key, set()).add(value)
    return {key: each.pop() for key, each in values.items() if len(each) == 1}

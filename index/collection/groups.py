"""Groups of the same instance: the photos of an index that show one thing.

Each photo is compared with its shortlist. Verified pairs join photos to groups, the surest pair
first (single linkage; the connected components of the pairs). What people marked
(:mod:`index.answers.marks`) decides: photos marked the same are one group, and a pair that would
bring photos marked as different into one group is passed over.

Verified pairs are kept (:mod:`index.storage.pair_table`), so that only photos that are new or
changed are compared again.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from delg.types import Progress
from index.answers.marks import Mark
from index.arguments import check_probability, whole_number
from index.collection.disjoint_sets import DisjointSets
from index.collection.duplicates import join_same_files
from index.log_odds import probability_of
from index.search.verified_matches import find_verified_matches
from index.storage.catalog_tables import ImageRow
from index.storage.pair_table import PairTable, VerifiedPair
from index.storage.store import Store
from index.verification.calibration import Calibration

# Photos of the shortlist that each is compared with.
DEPTH = 20
# Seconds of work that a kill may lose.
_SECONDS = 2.0

Pair = tuple[int, int]


@dataclass(frozen=True)
class Member:
    """A photo of a group.

    Attributes:
        id: of the photo.
        strength: probability of its best pair within the group.
    """

    id: str
    strength: float


@dataclass(frozen=True)
class InstanceGroup:
    """Photos of one thing.

    Attributes:
        representative: id of the photo with the strongest pairs to the others.
        strength: probability of the weakest pair that holds the group together.
        members: by id.
    """

    representative: str
    strength: float
    members: tuple[Member, ...]

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the members."""
        return tuple(member.id for member in self.members)

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "representative": self.representative,
            "strength": round(self.strength, 6),
            "members": [
                {"id": member.id, "strength": round(member.strength, 6)} for member in self.members
            ],
        }


@dataclass(frozen=True)
class InstanceGroups:
    """Groups of two photos or more, the largest first.

    Attributes:
        photos: of the index that can be found.
        compared: of them, those that were compared now and not before.
        pending: of them, those that were not compared yet.
    """

    groups: tuple[InstanceGroup, ...]
    photos: int
    compared: int
    pending: int = 0


def find_groups(
    store: Store,
    calibration: Calibration,
    marks: Iterable[Mark],
    depth: int = DEPTH,
    min_probability: float = 0.0,
    again: bool = False,
    progress: Progress | None = None,
    compare: bool = True,
) -> InstanceGroups:
    """Group the photos of an index; see the head of this file.

    Args:
        calibration: of the model that made the index.
        marks: what people said.
        depth: photos of the shortlist that each photo is compared with.
        min_probability: of the pairs that join photos; verified they are anyway.
        again: compare all photos again.
        compare: False groups by what was compared before.

    Raises:
        UsageError: ``depth`` is below 1, or ``min_probability`` no probability.
        DelgError: features cannot be read, or the pairs cannot be kept.
    """
    depth = whole_number("depth", depth, 1)
    check_probability("min_probability", min_probability)
    images = store.searchable_images()
    table = PairTable(store.folder)
    if not compare:
        known = table.is_of(_digest(store, calibration, depth))
        done = table.compared() if known else {}
        pending = sum(done.get(row) != image.content for row, image in images.items())
        pairs = table.pairs() if known else []
        groups = group_photos(images, pairs, marks, min_probability)
        return InstanceGroups(groups, len(images), 0, pending)
    if again:
        table.clear()
    compared = _compare(store, calibration, table, images, depth, progress)
    groups = group_photos(images, table.pairs(), marks, min_probability)
    return InstanceGroups(groups, len(images), compared)


def _compare(
    store: Store,
    calibration: Calibration,
    table: PairTable,
    images: Mapping[int, ImageRow],
    depth: int,
    progress: Progress | None,
) -> int:
    """Compare the photos that were not compared as they are; returns their number."""
    table.start(_digest(store, calibration, depth))
    done = table.compared()
    stale = {row for row, text in done.items() if row not in images or images[row].content != text}
    table.forget(stale)
    known = {(pair.low, pair.high) for pair in table.pairs()}
    pending = sorted(images.keys() - (done.keys() - stale))
    photos: dict[int, str] = {}
    pairs: list[VerifiedPair] = []
    saved = time.monotonic()
    for number, row in enumerate(pending, 1):
        verified = _pairs_of(store, calibration, images[row], depth, known)
        known |= {(pair.low, pair.high) for pair in verified}
        photos[row] = images[row].content
        pairs += verified
        if number == len(pending) or time.monotonic() - saved > _SECONDS:
            table.put(photos, pairs)
            photos, pairs, saved = {}, [], time.monotonic()
        if progress is not None:
            progress(number, len(pending), 0)
    return len(pending)


def _pairs_of(
    store: Store, calibration: Calibration, image: ImageRow, depth: int, known: set[Pair]
) -> list[VerifiedPair]:
    def is_new(row: int, similarity: float) -> bool:
        return _ordered(image.row, row) not in known

    matches = find_verified_matches(
        store, calibration, store.features(image), depth, {image.id}, is_new
    )
    return [
        VerifiedPair(*_ordered(image.row, match.row), match.verification.log_odds)
        for match in matches
    ]


def _digest(store: Store, calibration: Calibration, depth: int) -> str:
    """Of what decides whether two photos match."""
    settings = store.settings
    parts = (
        settings.matching.model_dump_json(),
        settings.verification.model_dump_json(),
        calibration.model_dump_json(),
        store.adaptation.digest if store.adaptation is not None else "",
        str(depth),
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _ordered(a: int, b: int) -> Pair:
    return (a, b) if a < b else (b, a)


def group_photos(
    images: Mapping[int, ImageRow],
    verified: Iterable[VerifiedPair],
    marks: Iterable[Mark],
    min_probability: float = 0.0,
) -> tuple[InstanceGroup, ...]:
    """Groups of photos by their pairs, the largest first; see the head of this file.

    Args:
        images: the photos, by row number.
        verified: pairs of photos; those of others are left out.
    """
    verdicts = _verdicts(images, marks)
    apart = [pair for pair, is_same in verdicts.items() if not is_same]
    # Of contradicting marks the last ones count.
    certain = [pair for pair, is_same in reversed(verdicts.items()) if is_same]
    log_odds = {
        (pair.low, pair.high): pair.log_odds
        for pair in verified
        if pair.low in images
        and pair.high in images
        and probability_of(pair.log_odds) >= min_probability
    }
    log_odds |= dict.fromkeys([*certain, *_same_files(images)], math.inf)
    for pair in apart:
        log_odds.pop(pair, None)
    order = {pair: place for place, pair in enumerate(certain)}
    ranked = sorted(log_odds, key=lambda pair: (-log_odds[pair], order.get(pair, len(order)), pair))
    sets = DisjointSets(apart)
    joining = [pair for pair in ranked if sets.join(*pair)]
    return _as_groups(images, sets, log_odds, joining)


def _verdicts(images: Mapping[int, ImageRow], marks: Iterable[Mark]) -> dict[Pair, bool]:
    """Whether two photos of the index were marked as the same, the first mark first."""
    by_id = {image.id: row for row, image in images.items()}
    by_file: dict[str, list[int]] = {}
    for row, image in images.items():
        by_file.setdefault(image.sha256, []).append(row)
    verdicts: dict[Pair, bool] = {}
    for mark in sorted(marks, key=lambda mark: mark.at):
        other = by_id.get(mark.image)
        for row in by_file.get(mark.query, ()) if other is not None and mark.query else ():
            if row != other and other is not None:
                pair = _ordered(row, other)
                verdicts.pop(pair, None)
                verdicts[pair] = mark.verdict == "same"
    return verdicts


def _same_files(images: Mapping[int, ImageRow]) -> list[Pair]:
    """Photos that are one file, each with the oldest."""
    sets = join_same_files(images)
    return [(sets.root(row), row) for row in images if sets.root(row) != row]


def _as_groups(
    images: Mapping[int, ImageRow],
    sets: DisjointSets,
    log_odds: Mapping[Pair, float],
    joining: Iterable[Pair],
) -> tuple[InstanceGroup, ...]:
    weakest: dict[int, float] = {}
    members: dict[int, set[int]] = {}
    for pair in joining:
        root = sets.root(pair[0])
        weakest[root] = min(weakest.get(root, math.inf), log_odds[pair])
        members.setdefault(root, set()).update(pair)
    best: dict[int, float] = {}
    total: dict[int, float] = {}
    for (a, b), value in log_odds.items():
        if sets.root(a) == sets.root(b):
            for row in (a, b):
                best[row] = max(best.get(row, -math.inf), value)
                total[row] = total.get(row, 0.0) + probability_of(value)
    groups = [
        InstanceGroup(
            images[_representative(rows, images, total)].id,
            probability_of(weakest[root]),
            tuple(
                sorted(
                    (Member(images[row].id, probability_of(best[row])) for row in rows),
                    key=lambda member: member.id,
                )
            ),
        )
        for root, rows in members.items()
    ]
    return tuple(sorted(groups, key=lambda group: (-len(group.members), group.ids)))


def _representative(
    rows: Iterable[int], images: Mapping[int, ImageRow], total: Mapping[int, float]
) -> int:
    """The photo with the strongest pairs; of equal ones the one with the most pixels."""
    return min(rows, key=lambda row: (-round(total[row], 6), -images[row].pixels, row))

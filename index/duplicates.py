"""Photos that are in an index more than once: the same file, or nearly the same picture.

Files with the same SHA-256 are the same for sure. Of the rest, pairs whose global descriptors are
very similar are compared point by point; the same picture saved again, shrunk or cropped a little
keeps most of its points where they were. What this may cost is bounded: photos, pairs and seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index.storage.catalog_tables import ImageRow
from index.storage.store import Store
from index.verification.pair import verify_features

SAME_FILE, NEAR = "same file", "near"
# Rows whose similarities with all others are computed at once.
_BLOCK = 512


@dataclass(frozen=True)
class Limits:
    """What is a near-duplicate, and what a search for them may cost.

    Attributes:
        similarity: of global descriptors, at least.
        inliers: verified matches, at least, and ``inlier_rate`` of the features of the photo
            that has fewer.
        photos: looked at, from the oldest on.
        pairs: compared point by point, the most similar first.
        seconds: after which what has been found is given.
    """

    similarity: float = 0.7
    inliers: int = 40
    inlier_rate: float = 0.35
    photos: int = 30_000
    pairs: int = 3_000
    seconds: float = 120.0


@dataclass(frozen=True)
class Group:
    """Images that show the same picture.

    Attributes:
        ids: sorted.
        kind: ``SAME_FILE`` if all are the same bytes, otherwise ``NEAR``.
    """

    ids: tuple[str, ...]
    kind: str


@dataclass(frozen=True)
class Duplicates:
    """Groups of images, the largest first.

    Attributes:
        photos, compared: how many were looked at, and how many pairs compared point by point.
        complete: whether no limit cut the search short.
    """

    groups: tuple[Group, ...]
    photos: int
    compared: int
    complete: bool


# Called with the part done, 0 to 1; it may raise to stop.
Progress = Callable[[float], None]


class _Sets:
    """Which rows belong together."""

    def __init__(self) -> None:
        self._parents: dict[int, int] = {}

    def root(self, one: int) -> int:
        while (parent := self._parents.get(one, one)) != one:
            self._parents[one] = self._parents.get(parent, parent)
            one = parent
        return one

    def join(self, a: int, b: int) -> None:
        low, high = sorted((self.root(a), self.root(b)))
        self._parents[high] = low


def find_duplicates(
    store: Store, limits: Limits | None = None, progress: Progress = lambda part: None
) -> Duplicates:
    """Groups of photos that show the same picture; see the head of this file."""
    limits = limits or Limits()
    until = time.monotonic() + limits.seconds
    images = {image.row: image for image in store.catalog.images("ok")}
    lost = set(store.unreadable)
    sets, first = _Sets(), dict[str, int]()
    for row in sorted(images):
        # Features made elsewhere may have no file.
        if images[row].sha256:
            sets.join(row, first.setdefault(images[row].sha256, row))
    rows = np.array(
        [r for r in sorted(images) if sets.root(r) == r and images[r].segment not in lost],
        np.int64,
    )
    looked = rows[: limits.photos]
    pairs, in_time = _similar_pairs(store, looked, limits, until, progress)
    compared = 0
    for a, b in pairs[: limits.pairs]:
        if time.monotonic() > until:
            in_time = False
            break
        progress(0.5 + 0.5 * compared / len(pairs[: limits.pairs]))
        compared += 1
        if sets.root(a) != sets.root(b) and _near(store, images[a], images[b], limits):
            sets.join(a, b)
    members: dict[int, list[int]] = {}
    for row in images:
        members.setdefault(sets.root(row), []).append(row)
    groups = []
    for group in members.values():
        if len(group) > 1:
            same = len({images[row].sha256 or row for row in group}) == 1
            ids = tuple(sorted(images[row].id for row in group))
            groups.append(Group(ids, SAME_FILE if same else NEAR))
    complete = in_time and len(looked) == len(rows) and len(pairs) <= limits.pairs
    groups.sort(key=lambda one: (-len(one.ids), one.ids))
    return Duplicates(tuple(groups), len(looked), compared, complete)


def _similar_pairs(
    store: Store, rows: NDArray[np.int64], limits: Limits, until: float, progress: Progress
) -> tuple[list[tuple[int, int]], bool]:
    """Pairs of rows that are similar enough, the most similar first; whether all were seen."""
    vectors = store.global_descriptors(rows)
    found: list[tuple[float, int, int]] = []
    for start in range(0, len(rows), _BLOCK):
        if time.monotonic() > until:
            return _best_first(found, rows), False
        progress(0.5 * start / len(rows))
        products = vectors[start : start + _BLOCK] @ vectors[start:].T
        a, b = np.nonzero(np.triu(products >= limits.similarity, 1))
        alike = products[a, b]
        # A heap of photos that are all alike must not fill the memory.
        best = np.argsort(-alike, kind="stable")[: 2 * limits.pairs]
        found += zip(alike[best].tolist(), (a[best] + start).tolist(), (b[best] + start).tolist(),
                     strict=True)  # fmt: skip
        if len(found) > 20 * limits.pairs:
            found = sorted(found, reverse=True)[: 2 * limits.pairs]
    return _best_first(found, rows), True


def _best_first(
    found: list[tuple[float, int, int]], rows: NDArray[np.int64]
) -> list[tuple[int, int]]:
    found.sort(key=lambda one: (-one[0], one[1:]))
    return [(int(rows[a]), int(rows[b])) for _, a, b in found]


def _near(store: Store, a: ImageRow, b: ImageRow, limits: Limits) -> bool:
    one, other = store.features(a), store.features(b)
    seen = verify_features(one, other, store.settings)
    features = min(len(one.local), len(other.local))
    return seen.verified and seen.inliers >= max(limits.inliers, limits.inlier_rate * features)

"""Photos that are in an index more than once: the same file, or nearly the same picture.

Files with the same SHA-256 are the same for sure. Of the rest, pairs whose global descriptors are
very similar are compared by their local features; the same picture saved again, resized or cropped
a little keeps most of them. The work is bounded: photos, pairs and seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from index.collection.disjoint_sets import DisjointSets
from index.results import Verification
from index.storage.ann_index import Rows
from index.storage.catalog_tables import ImageRow
from index.storage.store import Store
from index.verification.calibration import Calibration
from index.verification.pair import verify_features

SAME_FILE, NEAR = "same file", "near"
# Rows whose similarities to all others are computed at once.
_BLOCK = 512


@dataclass(frozen=True)
class Limits:
    """What counts as a near-duplicate, and how much work the search may be.

    Attributes:
        similarity: smallest inner product of the global descriptors.
        inliers: smallest number of verified matches, and ``inlier_rate`` their smallest share of
            the features of the photo that has fewer.
        photos: largest number searched, from the oldest on.
        pairs: largest number compared by local features, the most similar first.
        seconds: after which the search ends with what it has.
    """

    similarity: float = 0.5
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
        photos: number of photos searched.
        compared: number of pairs compared by local features.
        complete: whether no limit cut the search short.
    """

    groups: tuple[Group, ...]
    photos: int
    compared: int
    complete: bool


# Called with the share of the work that is done, 0 to 1; it may raise to stop.
ShareDone = Callable[[float], None]


def find_duplicates(
    store: Store,
    calibration: Calibration,
    limits: Limits | None = None,
    progress: ShareDone = lambda share: None,
) -> Duplicates:
    """Groups of photos that show the same picture; see the head of this file.

    Args:
        calibration: of the model that made the index.
    """
    limits = limits or Limits()
    deadline = time.monotonic() + limits.seconds
    images = {image.row: image for image in store.catalog.images("ok")}
    sets = join_same_files(images)
    rows = np.array(
        [
            row
            for row in sorted(images)
            if sets.root(row) == row and images[row].segment not in store.unreadable
        ],
        np.int64,
    )
    searched = rows[: limits.photos]
    pairs, in_time = _similar_pairs(store, searched, limits, deadline, progress)
    compared = 0
    for a, b in pairs[: limits.pairs]:
        if time.monotonic() > deadline:
            in_time = False
            break
        progress(0.5 + 0.5 * compared / len(pairs[: limits.pairs]))
        compared += 1
        if sets.root(a) == sets.root(b):
            continue
        first, second = store.features(images[a]), store.features(images[b])
        verification = verify_features(first, second, store.settings, calibration)
        if _is_near(verification, min(len(first.local), len(second.local)), limits):
            sets.join(a, b)
    complete = in_time and len(searched) == len(rows) and len(pairs) <= limits.pairs
    return Duplicates(_groups(images, sets), len(searched), compared, complete)


def join_same_files(images: Mapping[int, ImageRow]) -> DisjointSets:
    """The rows with images of the same bytes belong together; the oldest is the root."""
    sets, first = DisjointSets(), dict[str, int]()
    for row in sorted(images):
        # Features made elsewhere may have no file.
        if digest := images[row].sha256:
            sets.join(row, first.setdefault(digest, row))
    return sets


def _groups(images: dict[int, ImageRow], sets: DisjointSets) -> tuple[Group, ...]:
    members: dict[int, list[ImageRow]] = {}
    for row, image in images.items():
        members.setdefault(sets.root(row), []).append(image)
    groups = []
    for group in members.values():
        if len(group) > 1:
            is_same_file = len({image.sha256 or image.row for image in group}) == 1
            ids = tuple(sorted(image.id for image in group))
            groups.append(Group(ids, SAME_FILE if is_same_file else NEAR))
    groups.sort(key=lambda group: (-len(group.ids), group.ids))
    return tuple(groups)


def _similar_pairs(
    store: Store, rows: Rows, limits: Limits, deadline: float, progress: ShareDone
) -> tuple[list[tuple[int, int]], bool]:
    """Pairs of rows that are similar enough, the most similar first; whether time sufficed."""
    # The limit is for descriptors as the model makes them.
    vectors = store.stored_descriptors(rows)
    pairs: list[tuple[float, int, int]] = []
    for start in range(0, len(rows), _BLOCK):
        if time.monotonic() > deadline:
            return _best_first(pairs, rows), False
        progress(0.5 * start / len(rows))
        products = vectors[start : start + _BLOCK] @ vectors[start:].T
        a, b = np.nonzero(np.triu(products >= limits.similarity, 1))
        similarities = products[a, b]
        # Thousands of photos that are all alike must not fill the memory.
        best = np.argsort(-similarities, kind="stable")[: 2 * limits.pairs]
        pairs += zip(
            similarities[best].tolist(),
            (a[best] + start).tolist(),
            (b[best] + start).tolist(),
            strict=True,
        )
        if len(pairs) > 20 * limits.pairs:
            pairs = sorted(pairs, reverse=True)[: 2 * limits.pairs]
    return _best_first(pairs, rows), True


def _best_first(pairs: list[tuple[float, int, int]], rows: Rows) -> list[tuple[int, int]]:
    pairs.sort(key=lambda pair: (-pair[0], pair[1:]))
    return [(int(rows[a]), int(rows[b])) for _, a, b in pairs]


def _is_near(verification: Verification, features: int, limits: Limits) -> bool:
    enough = max(limits.inliers, limits.inlier_rate * features)
    return verification.verified and verification.inliers >= enough

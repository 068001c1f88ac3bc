"""Photos too plain to be verified: with so few local features that only their overall look finds
them."""

from __future__ import annotations

from index.search.notes import FEW_FEATURES
from index.storage.places import by_segment
from index.storage.store import Store


def plain_photos(store: Store, texture_score: float) -> dict[int, int]:
    """Row number -> number of local features of the photos that have few, the fewest first; none
    where no photo has any, as with a model of global descriptors alone.

    Args:
        texture_score: local features with lower scores lie on plain surfaces, and do not count.
    """
    counts = _count_features(store, texture_score)
    if not any(counts.values()):
        return {}
    few = ((count, row) for row, count in counts.items() if count < FEW_FEATURES)
    return {row: count for count, row in sorted(few)}


def _count_features(store: Store, texture_score: float) -> dict[int, int]:
    counts: dict[int, int] = {}
    for number, rows, positions in by_segment(store.places()):
        features = store.segments[number].count_features(texture_score)[positions]
        counts.update(zip(rows.tolist(), features.tolist(), strict=True))
    return counts

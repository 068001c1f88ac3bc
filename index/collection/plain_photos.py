"""Photos too plain to be verified: with so few local features that only their overall look finds
them."""

from __future__ import annotations

import numpy as np

from index.search.notes import FEW_FEATURES
from index.storage.store import Store


def plain_photos(store: Store) -> dict[int, int]:
    """Row number -> number of local features of the photos that have few, the fewest first; none
    where no photo has any, as with a model of global descriptors alone."""
    counts = _count_features(store)
    if not any(counts.values()):
        return {}
    few = ((count, row) for row, count in counts.items() if count < FEW_FEATURES)
    return {row: count for count, row in sorted(few)}


def _count_features(store: Store) -> dict[int, int]:
    table = store.catalog.searchable()
    counts: dict[int, int] = {}
    for number in np.unique(table[:, 1]).tolist():
        if number in store.unreadable:
            continue
        rows, _, positions = table[table[:, 1] == number].T
        sizes = np.diff(store.segments[number].offsets)[positions]
        counts.update(zip(rows.tolist(), sizes.tolist(), strict=True))
    return counts

"""The shortlist by local features: which photos are verified, by global and local similarity.

The global descriptor misses what fills a small part of a photo, or is printed on it; ASMK* over
visual words finds it by its local features (:mod:`index.storage.inverted_file`). Which candidates
are verified goes by

    priority = similarity + weight · ASMK* / mean of the query's highest ASMK*

The mean belongs to one query, so priorities do not compare across queries, and they are no scores.
For a model without a global head, ASMK* is the similarity itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from delg.types import FloatArray
from index.search.candidates import ImageKey, shortlist
from index.selection import Selection
from index.storage.store import Rows, Store
from index.storage.vocabulary import BinaryWords

# Candidates for each that is verified, by either similarity.
_DEPTH = 3
_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, eq=False)
class WordSimilarities:
    """ASMK* similarities of a query to the photos of several stores.

    Attributes:
        rows: by store, int64 (n,), ascending.
        values: by store, float32 (n,), 0 to 1.
    """

    rows: Sequence[Rows]
    values: Sequence[FloatArray]

    def of(self, image: ImageKey) -> float:
        """That of an image; 0 where it has no words."""
        rows = self.rows[image.store]
        place = int(np.searchsorted(rows, image.row))
        is_known = place < len(rows) and rows[place] == image.row
        return float(self.values[image.store][place]) if is_known else 0.0

    def best(self, count: int) -> list[tuple[ImageKey, float]]:
        """The ``count`` highest over all stores, the highest first, without zeros."""
        highest = self._highest(count)
        least = float(highest.min()) if len(highest) == count else 0.0
        images = [
            (ImageKey(number, int(row)), float(value))
            for number, (rows, values) in enumerate(zip(self.rows, self.values, strict=True))
            for row, value in _at_least(rows, values, max(least, _TINY))
        ]
        images.sort(key=lambda item: (-item[1], item[0]))
        return images[:count]

    def normalizer(self, images: int) -> float:
        """The mean of the ``images`` highest values; at least a tiny number."""
        highest = self._highest(images)
        return max(float(highest.mean()) if len(highest) else 0.0, _TINY)

    def _highest(self, count: int) -> FloatArray:
        """The ``count`` highest values over all stores, in no order; fewer if there are fewer."""
        parts = [
            np.partition(values, -count)[-count:] if len(values) > count else values
            for values in self.values
        ]
        values = np.concatenate(parts)
        return np.partition(values, -count)[-count:] if len(values) > count else values


def _at_least(rows: Rows, values: FloatArray, least: float) -> Iterator[tuple[int, float]]:
    chosen = values >= least
    return zip(rows[chosen].tolist(), values[chosen].tolist(), strict=True)


def quantize_query(stores: Sequence[Store], descriptors: FloatArray) -> BinaryWords | None:
    """A query's visual words; None where no store has any.

    Args:
        stores: all of one model; the first one's settings are used.
        descriptors: float32 (N, d), local, the best first.
    """
    spec = stores[0].settings.local_shortlist
    inverted = next((file for store in stores if (file := store.inverted_file())), None)
    if inverted is None or not len(descriptors):
        return None
    return inverted.vocabulary.query_words(descriptors[: spec.query_features], spec.assignments)


def shortlist_for_verification(
    stores: Sequence[Store],
    descriptor: FloatArray,
    words: BinaryWords | None,
    count: int,
    verified: int,
    selection: Selection,
) -> dict[ImageKey, float]:
    """The candidates of a query and their similarities; the first ``verified`` are to be verified.

    Args:
        stores: all of one model; the first one's settings are used.
        descriptor: float32 (D,), the query's global descriptor, unit length.
        words: its visual words; None: the global descriptor decides alone.
        count: images at most, over all stores; at least ``verified``.
        verified: that are to be verified. The others follow by similarity.
        selection: of the images.
    """
    local = None
    if words is not None:
        local = _word_similarities(stores, words, selection)
        if all(map(_is_ranked_by_words, stores)):
            return _by_words(local, count)
    if local is None or not verified:
        return shortlist(stores, descriptor, count, selection)
    nearest = shortlist(stores, descriptor, max(count, _DEPTH * verified), selection)
    first = _first_to_verify(stores, descriptor, nearest, local, verified)
    others = ((image, value) for image, value in nearest.items() if image not in first)
    return first | dict(islice(others, count - len(first)))


def _first_to_verify(
    stores: Sequence[Store],
    descriptor: FloatArray,
    nearest: dict[ImageKey, float],
    local: WordSimilarities,
    count: int,
) -> dict[ImageKey, float]:
    """The ``count`` of highest priority, with their similarities.

    Args:
        nearest: the most similar by global descriptor, more than are wanted.
    """
    spec = stores[0].settings.local_shortlist
    candidates = dict(nearest)
    best = [image for image, _ in local.best(_DEPTH * count) if image not in candidates]
    for number, store in enumerate(stores):
        rows = [image.row for image in best if image.store == number]
        vectors = store.global_descriptors(np.array(rows, np.int64))
        keys = (ImageKey(number, row) for row in rows)
        candidates |= zip(keys, (vectors @ descriptor).tolist(), strict=True)
    weight = spec.weight / local.normalizer(spec.normalizer_images)
    ordered = sorted(
        candidates, key=lambda image: (-candidates[image] - weight * local.of(image), image)
    )
    return {image: candidates[image] for image in ordered[:count]}


def _by_words(local: WordSimilarities, count: int) -> dict[ImageKey, float]:
    """The images by ASMK* alone; those that share no word with the query come last, at 0."""
    ranked = dict(local.best(count))
    rest = (
        ImageKey(number, row) for number, rows in enumerate(local.rows) for row in rows.tolist()
    )
    missing = (image for image in rest if image not in ranked)
    return ranked | dict.fromkeys(islice(missing, count - len(ranked)), 0.0)


def _is_ranked_by_words(store: Store) -> bool:
    """Whether ASMK* is the similarity: the model has no global head, and all photos have words."""
    inverted = store.inverted_file() if store.catalog.meta("aggregated") else None
    return inverted is not None and len(inverted) == len(store.searchable())


def _word_similarities(
    stores: Sequence[Store], query: BinaryWords, selection: Selection
) -> WordSimilarities:
    parts = [store.word_similarities(query, selection) for store in stores]
    return WordSimilarities([rows for rows, _ in parts], [values for _, values in parts])

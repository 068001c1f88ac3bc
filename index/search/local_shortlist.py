"""The shortlist by local features: which photos are verified, by global and local similarity.

The global descriptor misses what fills a small part of a photo, or is printed on it; ASMK* over
visual words finds it by its local features (:mod:`index.storage.inverted_file`). Which candidates
are verified goes by

    priority = similarity + weight · ASMK* / mean of the query's highest ASMK*

The mean belongs to one query, so priorities do not compare across queries, and they are no scores.
For a model without a global head, ASMK* is the similarity itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import islice

import numpy as np

from delg.types import FloatArray
from index.search.candidates import ImageKey
from index.search.requests import Shortlisted, ShortlistRequest, SimilaritiesRequest
from index.search.scatter import Scatter
from index.search.shard import SearchContext
from index.selection import Selection
from index.storage.ann_index import Rows
from index.storage.vocabulary import BinaryWords

# Candidates for each that is verified, by either similarity.
_DEPTH = 3
_TINY = float(np.finfo(np.float32).tiny)
_Values = dict[ImageKey, float]


def quantize_query(context: SearchContext, descriptors: FloatArray) -> BinaryWords | None:
    """A query's visual words; None where the indexes have none.

    Args:
        context: of the indexes.
        descriptors: float32 (N, d), local, the best first.
    """
    spec, vocabulary = context.settings.local_shortlist, context.vocabulary
    if vocabulary is None or not len(descriptors):
        return None
    return vocabulary.query_words(descriptors[: spec.query_features], spec.assignments)


def shortlist_for_verification(
    shards: Scatter,
    descriptor: FloatArray,
    words: BinaryWords | None,
    count: int,
    verified: int,
    selection: Selection,
) -> dict[ImageKey, float]:
    """The candidates of a query and their similarities; the first ``verified`` are to be verified.

    Args:
        shards: all of one model.
        descriptor: float32 (D,), the query's global descriptor, unit length.
        words: its visual words; None: the global descriptor decides alone.
        count: images at most, over all shards; at least ``verified``.
        verified: that are to be verified. The others follow by similarity.
        selection: of the images.
    """
    if words is not None and shards.context.is_aggregated:
        request = ShortlistRequest(descriptor, count, words, count, True, selection)
        parts = shards.ask_all(request)
        if all(part.is_ranked_by_words for part in parts.values()):
            return dict(_best_words(parts, count))
    if words is None or not verified:
        request = ShortlistRequest(descriptor, count, None, 0, False, selection)
        return dict(_most_similar(shards.ask_all(request), count))
    spec = shards.context.settings.local_shortlist
    depth = max(count, _DEPTH * verified)
    word_count = max(_DEPTH * verified, spec.normalizer_images)
    request = ShortlistRequest(descriptor, depth, words, word_count, False, selection)
    parts = shards.ask_all(request)
    nearest = dict(_most_similar(parts, depth))
    first = _first_to_verify(shards, descriptor, parts, nearest, verified)
    others = ((image, value) for image, value in nearest.items() if image not in first)
    return first | dict(islice(others, count - len(first)))


def _first_to_verify(
    shards: Scatter,
    descriptor: FloatArray,
    parts: Mapping[int, Shortlisted],
    nearest: _Values,
    count: int,
) -> _Values:
    """The ``count`` of highest priority, with their similarities.

    Args:
        nearest: the most similar by global descriptor, more than are wanted.
    """
    spec = shards.context.settings.local_shortlist
    candidates, local = dict(nearest), _word_values(parts)
    best = _best_words(parts, max(_DEPTH * count, spec.normalizer_images))
    others = [image for image, _ in best[: _DEPTH * count] if image not in candidates]
    for places, values in shards.ask_about(others, partial(SimilaritiesRequest, descriptor)):
        candidates |= zip([others[place] for place in places], values.tolist(), strict=True)
    weight = spec.weight / _normalizer([value for _, value in best[: spec.normalizer_images]])
    ordered = sorted(
        candidates, key=lambda image: (-candidates[image] - weight * local.get(image, 0.0), image)
    )
    return {image: candidates[image] for image in ordered[:count]}


def _normalizer(highest: list[float]) -> float:
    """The mean of the highest ASMK*; at least a tiny number."""
    return max(float(np.mean(highest)) if highest else 0.0, _TINY)


def _most_similar(parts: Mapping[int, Shortlisted], count: int) -> list[tuple[ImageKey, float]]:
    """The ``count`` most similar by global descriptor over all shards."""
    return _merge(((part.rows, part.similarities, number) for number, part in parts.items()), count)


def _best_words(parts: Mapping[int, Shortlisted], count: int) -> list[tuple[ImageKey, float]]:
    """The ``count`` highest ASMK* over all shards."""
    return _merge(
        ((part.word_rows, part.highest_words, number) for number, part in parts.items()), count
    )


def _merge(
    parts: Iterable[tuple[Rows, FloatArray, int]], count: int
) -> list[tuple[ImageKey, float]]:
    """The ``count`` highest values of images, the highest first; of equal ones the first added."""
    all_rows, all_values, numbers = zip(*parts, strict=True)
    rows, values = np.concatenate(all_rows), np.concatenate(all_values)
    shards = np.repeat(numbers, [len(part) for part in all_rows])
    order = np.lexsort((shards, rows, -values))[:count]
    keys = map(ImageKey, rows[order].tolist(), shards[order].tolist())
    return list(zip(keys, values[order].tolist(), strict=True))


def _word_values(parts: Mapping[int, Shortlisted]) -> _Values:
    """ASMK* of all images that shards offer."""
    values: _Values = {}
    for number, part in parts.items():
        values.update(_keyed(part.rows, part.word_values, number))
        values.update(_keyed(part.word_rows, part.highest_words, number))
    return values


def _keyed(rows: Rows, values: FloatArray, shard: int) -> Iterator[tuple[ImageKey, float]]:
    keys = (ImageKey(row, shard) for row in rows.tolist())
    return zip(keys, values.tolist(), strict=True)

"""The shortlist by local features: which photos are verified, by global and local similarity.

The global descriptor misses what fills a small part of a photo, or is printed on it; ASMK* over
visual words finds it by its local features (:mod:`index.storage.inverted_file`). Which candidates
are verified goes by

    priority = similarity + weight · ASMK* / mean of the query's highest ASMK*

The mean belongs to one query, so priorities do not compare across queries, and they are no scores.
For a model without a global head, ASMK* is the similarity itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from delg.types import FloatArray
from index.search.candidates import ImageKey
from index.search.requests import Shortlisted, ShortlistRequest, SimilaritiesRequest
from index.search.scatter import Scatter
from index.search.shard import SearchContext
from index.selection import Selection
from index.settings import LocalShortlistSettings
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


class Shortlist:
    """The candidates of a query in one orientation, however many of them are to be verified.

    What shards answer is kept: where nothing is proven, more are verified, and asking goes over all
    photos of a collection.

    Args:
        shards: all of one model.
        descriptor: float32 (D,), the query's global descriptor, unit length.
        words: its visual words; None: the global descriptor decides alone.
        selection: of the images.
        deepest: candidates that are verified at most, if that is known; whoever needs more of them
            than at first will mostly need all.
    """

    def __init__(
        self,
        shards: Scatter,
        descriptor: FloatArray,
        words: BinaryWords | None,
        selection: Selection,
        deepest: int = 0,
    ) -> None:
        self._shards, self._descriptor, self._words = shards, descriptor, words
        self._selection, self._deepest = selection, deepest
        # What shards were asked for last and what they answered, by whether words alone decide.
        self._answers: dict[bool, tuple[ShortlistRequest, dict[int, Shortlisted]]] = {}

    def candidates(self, count: int, verified: int) -> dict[ImageKey, float]:
        """The candidates and their similarities; the first ``verified`` are to be verified.

        Args:
            count: images at most, over all shards; at least ``verified``.
            verified: that are to be verified. The others follow by similarity.
        """
        if self._words is not None and self._shards.context.is_aggregated:
            parts = self._ask(count, count, by_words=True)
            if all(part.is_ranked_by_words for part in parts.values()):
                return dict(_best_words(parts, count))
        if self._words is None or not verified:
            similarities, _ = _most_similar(self._ask(count), count)
            return similarities
        depth = max(count, _DEPTH * verified)
        parts = self._ask(depth, self._word_count(verified))
        nearest, local = _most_similar(parts, depth)
        first = self._first_to_verify(parts, nearest, local, verified)
        others = ((image, value) for image, value in nearest.items() if image not in first)
        return first | dict(islice(others, count - len(first)))

    def _word_count(self, verified: int) -> int:
        """Images by words that take part, for so many that are to be verified."""
        return max(_DEPTH * verified, self._spec.normalizer_images)

    @property
    def _spec(self) -> LocalShortlistSettings:
        return self._shards.context.settings.local_shortlist

    def _ask(
        self, count: int, word_count: int = 0, by_words: bool = False
    ) -> Mapping[int, Shortlisted]:
        """What shards offer: at least so many images by each similarity, if they have them."""
        if by_words in self._answers:
            asked, answers = self._answers[by_words]
            if count <= asked.count and word_count <= asked.word_count:
                return answers
            count = max(count, _DEPTH * self._deepest)
            word_count = word_count and max(word_count, self._word_count(self._deepest))
        words = self._words if word_count else None
        request = ShortlistRequest(
            self._descriptor, count, words, word_count, by_words, self._selection
        )
        answers = self._shards.ask_all(request)
        self._answers[by_words] = request, answers
        return answers

    def _first_to_verify(
        self, parts: Mapping[int, Shortlisted], nearest: _Values, local: _Values, count: int
    ) -> _Values:
        """The ``count`` of highest priority, with their similarities.

        Args:
            nearest: the most similar by global descriptor, more than are wanted.
            local: their ASMK*.
        """
        candidates = dict(nearest)
        best = _best_words(parts, self._word_count(count))
        others = [image for image, _ in best[: _DEPTH * count] if image not in candidates]
        request = partial(SimilaritiesRequest, self._descriptor)
        for places, values in self._shards.ask_about(others, request):
            candidates |= zip([others[place] for place in places], values.tolist(), strict=True)
        local = local | dict(best)
        highest = [value for _, value in best[: self._spec.normalizer_images]]
        weight = self._spec.weight / _normalizer(highest)
        ordered = sorted(
            candidates,
            key=lambda image: (-candidates[image] - weight * local[image], image),
        )
        return {image: candidates[image] for image in ordered[:count]}


def _normalizer(highest: list[float]) -> float:
    """The mean of the highest ASMK*; at least a tiny number."""
    return max(float(np.mean(highest)) if highest else 0.0, _TINY)


def _most_similar(parts: Mapping[int, Shortlisted], count: int) -> tuple[_Values, _Values]:
    """The ``count`` most similar by global descriptor over all shards: similarities and ASMK*."""
    rows = {number: part.rows for number, part in parts.items()}
    values = [part.similarities for part in parts.values()]
    images, places = _highest(rows, values, count)
    similarities = np.concatenate(values)[places].tolist()
    local = np.concatenate([part.word_values for part in parts.values()])[places].tolist()
    return dict(zip(images, similarities, strict=True)), dict(zip(images, local, strict=True))


def _best_words(parts: Mapping[int, Shortlisted], count: int) -> list[tuple[ImageKey, float]]:
    """The ``count`` highest ASMK* over all shards."""
    rows = {number: part.word_rows for number, part in parts.items()}
    values = [part.highest_words for part in parts.values()]
    images, places = _highest(rows, values, count)
    return list(zip(images, np.concatenate(values)[places].tolist(), strict=True))


def _highest(
    rows: Mapping[int, Rows], values: Sequence[FloatArray], count: int
) -> tuple[list[ImageKey], NDArray[np.intp]]:
    """The images of the ``count`` highest values, the highest first; of equal ones the first added.

    Args:
        rows: of the images of each shard, by its number.
        values: of these images, shard by shard.

    Returns:
        The images, and their places in the values of all shards, joined.
    """
    all_rows = np.concatenate(list(rows.values()))
    shards = np.repeat(list(rows), [len(part) for part in rows.values()])
    places = np.lexsort((shards, all_rows, -np.concatenate(values)))[:count]
    keys = map(ImageKey, all_rows[places].tolist(), shards[places].tolist())
    return list(keys), places

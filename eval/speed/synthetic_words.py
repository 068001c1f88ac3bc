"""Synthetic visual words by the million.

Words are drawn with unequal frequency, as those of real photos are, and signs at random.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from index.storage.inverted_file import Postings
from index.storage.vocabulary import Vocabulary

# Few photos are drawn, and repeated with signs of their own: drawing takes longest.
CHUNK = 10_000
# A word's frequency falls with its rank to this power.
_DECAY = 0.5


def draw_words(rng: np.random.Generator, photos: int, count: int, words: int) -> NDArray[np.uint16]:
    """``count`` different words among ``words`` for each photo, ascending: (photos, count)."""
    frequency = np.arange(1, words + 1) ** -_DECAY
    # The largest of these keys are a draw without replacement (Efraimidis and Spirakis).
    keys = np.log1p(-rng.random((photos, words), np.float32)) / frequency.astype(np.float32)
    return np.sort(np.argpartition(keys, -count)[:, -count:]).astype(np.uint16)


def draw_signs(rng: np.random.Generator, count: int, size: int) -> NDArray[np.uint8]:
    """Random bytes (count, size)."""
    return rng.integers(0, 256, (count, size), np.uint8)


class Words:
    """Draws the words of photos.

    Args:
        vocabulary: of the words.
        count: words of each photo.
        photos: that will be drawn, at most.
        seed: of everything.
    """

    def __init__(self, vocabulary: Vocabulary, count: int, photos: int, seed: int = 0) -> None:
        self._vocabulary, self._count = vocabulary, count
        self._rng = np.random.default_rng(seed)
        self._drawn = draw_words(self._rng, min(photos, CHUNK), count, vocabulary.size)

    def postings(self, photos: int) -> Postings:
        """The words of so many further photos, at most as many as are drawn at once."""
        words = self._drawn[self._rng.permutation(len(self._drawn))[:photos]]
        counts = np.full(len(words), self._count, np.uint16)
        signs = draw_signs(self._rng, words.size, self._vocabulary.sign_bytes)
        return Postings(self._vocabulary.digest, counts, words.ravel(), signs)

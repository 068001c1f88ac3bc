"""The inverted file of visual words: search among a million synthetic photos, and growth.

Words are drawn with unequal frequency, as those of real photos are, and signs at random; a query
has as many words as a photo of much texture. The vocabulary has the size of the shipped ones.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import numpy as np

from delg.extraction.aggregation import ALPHA, TAU
from eval.speed.harness import Bench, Growth, Point, Result, Row, milliseconds, stage
from index.settings import StoreSettings
from index.storage.inverted_file import InvertedFile, Postings
from index.storage.vocabulary import MAX_DIM, WORDS, BinaryWords, Vocabulary

_COUNT, _QUICK_COUNT, _GROWING = 1_000_000, 20_000, (1_000, 10_000, 100_000)
_CHUNK, _QUERIES, _QUERY_WORDS = 10_000, 20, 1_300
# A word's frequency falls with its rank to this power.
_DECAY = 0.5
_TIME = Growth("ASMK* similarities to all photos", "photos", "ms")
_SIZE = Growth("The inverted file in memory", "photos", "MiB")
_MIB = 1 << 20


def _vocabulary() -> Vocabulary:
    centroids = np.zeros((WORDS, MAX_DIM), np.float16)
    return Vocabulary(np.zeros(MAX_DIM, np.float32), np.eye(MAX_DIM, dtype=np.float32), centroids)


def _draw_words(rng: np.random.Generator, photos: int, count: int) -> np.ndarray:
    """``count`` different words for each photo, ascending: uint16 (photos, count)."""
    frequency = np.arange(1, WORDS + 1) ** -_DECAY
    # The largest of these keys are a draw without replacement (Efraimidis and Spirakis).
    keys = np.log1p(-rng.random((photos, WORDS), np.float32)) / frequency.astype(np.float32)
    return np.sort(np.argpartition(keys, -count)[:, -count:]).astype(np.uint16)


def _draw_signs(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.integers(0, 256, (count, MAX_DIM // 8), np.uint8)


def _build(count: int) -> InvertedFile:
    vocabulary, words_per_photo = _vocabulary(), StoreSettings().max_words
    inverted = InvertedFile(vocabulary, ALPHA, TAU)
    rng = np.random.default_rng(0)
    # Few photos are drawn, and repeated with signs of their own: drawing takes longest.
    words = _draw_words(rng, min(count, _CHUNK), words_per_photo)
    for start in range(0, count, _CHUNK):
        chunk = words[rng.permutation(len(words))[: min(_CHUNK, count - start)]]
        counts = np.full(len(chunk), words_per_photo, np.uint16)
        signs = _draw_signs(rng, chunk.size)
        postings = Postings(vocabulary.digest, counts, chunk.ravel(), signs)
        inverted.add(np.arange(start, start + len(chunk)), postings)
    return inverted


def _queries() -> list[BinaryWords]:
    rng = np.random.default_rng(1)
    words = _draw_words(rng, _QUERIES, _QUERY_WORDS)
    return [BinaryWords(photo, _draw_signs(rng, _QUERY_WORDS)) for photo in words]


def _times(inverted: InvertedFile) -> list[float]:
    queries = _queries()
    inverted.similarities(queries[0])
    return [milliseconds(partial(inverted.similarities, query)) for query in queries]


@stage("words_million", "words_million_bytes", "words_million_build")
def words_million(bench: Bench) -> Iterator[Result]:
    """ASMK* similarities of a query to all photos."""
    count = _QUICK_COUNT if bench.quick else _COUNT
    started = time.perf_counter()
    inverted = _build(count)
    seconds = time.perf_counter() - started
    times = _times(inverted)
    yield Row.of("words_million", times, note=f"{count:,} photos, {_QUERY_WORDS:,} words asked")
    note = "per photo, in memory"
    yield Row.of("words_million_bytes", [inverted.bytes / count], "bytes", note=note)
    yield Row.of("words_million_build", [seconds], "s", note="drawing and adding")
    if bench.quick:
        return
    yield Point(_TIME, "ASMK*", count, float(np.median(times)))
    yield Point(_SIZE, "ASMK*", count, inverted.bytes / _MIB)
    for count in _GROWING:
        inverted = _build(count)
        yield Point(_TIME, "ASMK*", count, float(np.median(_times(inverted))))
        yield Point(_SIZE, "ASMK*", count, inverted.bytes / _MIB)

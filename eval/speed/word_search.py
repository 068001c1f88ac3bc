"""The inverted file of visual words: search among a million synthetic photos, and growth.

A query has as many words as a photo of much texture. The vocabulary has the size of the shipped
ones.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import numpy as np

from delg.extraction.aggregation import ALPHA, TAU
from eval.speed.harness import Bench, Growth, Point, Result, Row, milliseconds, stage
from eval.speed.synthetic_words import CHUNK, Words, draw_signs, draw_words
from index.settings import StoreSettings
from index.storage.inverted_file import InvertedFile
from index.storage.vocabulary import MAX_DIM, WORDS, BinaryWords, Vocabulary

_COUNT, _QUICK_COUNT = 1_000_000, 20_000
# Fewer photos, by the names of rows.
_GROWING = {"words_15k": 15_000, "words_100k": 100_000}
_ROWS = "", "_bytes", "_build"
_QUERIES, _QUERY_WORDS = 20, 1_300
_TIME = Growth("ASMK* similarities to all photos", "photos", "ms")
_SIZE = Growth("The inverted file in memory", "photos", "MiB")
_MIB = 1 << 20


def _vocabulary() -> Vocabulary:
    centroids = np.zeros((WORDS, MAX_DIM), np.float16)
    return Vocabulary(np.zeros(MAX_DIM, np.float32), np.eye(MAX_DIM, dtype=np.float32), centroids)


def _build(count: int) -> InvertedFile:
    vocabulary, words_per_photo = _vocabulary(), StoreSettings().max_words
    inverted = InvertedFile(vocabulary, ALPHA, TAU)
    words = Words(vocabulary, words_per_photo, count)
    for start in range(0, count, CHUNK):
        rows = np.arange(start, min(start + CHUNK, count))
        inverted.add(rows, words.postings(len(rows)))
    return inverted


def _queries() -> list[BinaryWords]:
    rng = np.random.default_rng(1)
    words = draw_words(rng, _QUERIES, _QUERY_WORDS, WORDS)
    return [BinaryWords(photo, draw_signs(rng, _QUERY_WORDS, MAX_DIM // 8)) for photo in words]


def _times(inverted: InvertedFile) -> list[float]:
    queries = _queries()
    inverted.similarities(queries[0])
    return [milliseconds(partial(inverted.similarities, query)) for query in queries]


@stage(*(name + row for name in _GROWING for row in _ROWS))
def words_thousands(bench: Bench) -> Iterator[Result]:
    """The same as :func:`words_million` with fewer photos."""
    for name, count in _GROWING.items():
        yield from _measure(name, min(count, _QUICK_COUNT) if bench.quick else count, bench.quick)


@stage(*("words_million" + row for row in _ROWS))
def words_million(bench: Bench) -> Iterator[Result]:
    """ASMK* similarities of a query to all photos."""
    yield from _measure("words_million", _QUICK_COUNT if bench.quick else _COUNT, bench.quick)


def _measure(name: str, count: int, quick: bool) -> Iterator[Result]:
    started = time.perf_counter()
    inverted = _build(count)
    seconds = time.perf_counter() - started
    times = _times(inverted)
    yield Row.of(name, times, note=f"{count:,} photos, {_QUERY_WORDS:,} words asked")
    note = "per photo, in memory"
    yield Row.of(f"{name}_bytes", [inverted.bytes / count], "bytes", note=note)
    yield Row.of(f"{name}_build", [seconds], "s", note="drawing and adding")
    if not quick:
        yield Point(_TIME, "ASMK*", count, float(np.median(times)))
        yield Point(_SIZE, "ASMK*", count, inverted.bytes / _MIB)

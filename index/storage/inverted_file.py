"""An inverted file in memory: for every visual word the photos that have it, with the signs of
their residuals, so that the ASMK* similarities of a query to all photos come from the lists of its
own words.

It is derived from the words in the segments; :mod:`index.storage.word_file` keeps it on disk.
Postings lie in blocks of at most 65,536 photos, in which a photo's number takes two bytes and all
sums stay in the processor's cache. New photos make a new block; blocks of like size are joined, so
that adding one photo at a time costs little on average. Removed photos leave a block when half of
it is removed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from delg.compiled import compiled
from delg.errors import DelgError
from delg.extraction.aggregation import selectivity
from delg.types import FloatArray
from index.storage.places import by_segment
from index.storage.vocabulary import BinaryWords, Vocabulary

if TYPE_CHECKING:
    from index.storage.segments import Segment

MAX_BLOCK_IMAGES = 1 << 16

Rows = NDArray[np.int64]
_WORD_BYTES = 8


@dataclass(frozen=True, eq=False)
class Postings:
    """The words of some photos, photo by photo.

    Attributes:
        vocabulary: digest of the vocabulary.
        counts: uint16 (n,), words of each photo.
        words: uint16 (t,), ascending within a photo.
        signs: uint8 (t, b), of the residuals, see :class:`index.storage.vocabulary.BinaryWords`.
    """

    vocabulary: str
    counts: NDArray[np.uint16]
    words: NDArray[np.uint16]
    signs: NDArray[np.uint8]

    @classmethod
    def of(cls, vocabulary: Vocabulary, photos: Sequence[BinaryWords]) -> Postings:
        """Of photos one by one."""
        no_signs = np.zeros((0, vocabulary.sign_bytes), np.uint8)
        return cls(
            vocabulary.digest,
            np.array([len(photo) for photo in photos], np.uint16),
            np.concatenate([np.zeros(0, np.uint16), *(photo.words for photo in photos)]),
            np.concatenate([no_signs, *(photo.signs for photo in photos)]),
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Postings]) -> Postings:
        """Of one vocabulary, one after the other."""
        return cls(
            parts[0].vocabulary,
            np.concatenate([part.counts for part in parts]),
            np.concatenate([part.words for part in parts]),
            np.concatenate([part.signs for part in parts]),
        )

    def are_of(self, vocabulary: Vocabulary) -> bool:
        """Whether the words are of that vocabulary."""
        is_wide = self.signs.shape[1] == vocabulary.sign_bytes
        return self.vocabulary == vocabulary.digest and is_wide

    def __len__(self) -> int:
        return len(self.counts)

    @cached_property
    def _offsets(self) -> NDArray[np.int64]:
        return np.concatenate([[0], np.cumsum(self.counts, dtype=np.int64)])

    def fit(self, images: int) -> bool:
        """Whether the parts fit each other and that many photos."""
        return (
            self.counts.shape == (images,)
            and self.counts.dtype == self.words.dtype == np.uint16
            and self.signs.dtype == np.uint8
            and self.signs.ndim == 2
            and self.words.shape == (len(self.signs),)
            and int(self.counts.sum(dtype=np.int64)) == len(self.words)
        )

    def photo(self, position: int) -> BinaryWords:
        """The words of the photo at that position."""
        part = slice(self._offsets[position], self._offsets[position + 1])
        return BinaryWords(np.array(self.words[part]), np.array(self.signs[part]))

    def take(self, chosen: NDArray[np.bool_]) -> Postings:
        """Of the photos where ``chosen`` (n,) is true."""
        kept = np.repeat(chosen, self.counts)
        return Postings(self.vocabulary, self.counts[chosen], self.words[kept], self.signs[kept])


class Block:
    """The postings of at most ``MAX_BLOCK_IMAGES`` photos, by word.

    Attributes:
        rows: int64 (n,), row numbers of the photos.
        is_removed: bool (n,).
        counts: uint16 (n,), words of each photo.
        starts: int64 (K + 1): word k has the postings starts[k] … starts[k + 1].
        images: uint16 (t,), places of the photos in the block.
        signs: uint64 (t, ⌈r / 64⌉), of the residuals, filled up with zeros.
    """

    # Their types by name.
    ARRAYS: ClassVar[Mapping[str, type[np.generic]]] = {
        "rows": np.int64,
        "is_removed": np.bool_,
        "counts": np.uint16,
        "starts": np.int64,
        "images": np.uint16,
        "signs": np.uint64,
    }

    def __init__(
        self,
        rows: Rows,
        is_removed: NDArray[np.bool_],
        counts: NDArray[np.uint16],
        starts: NDArray[np.int64],
        images: NDArray[np.uint16],
        signs: NDArray[np.uint64],
    ) -> None:
        self.rows, self.is_removed, self.counts = rows, is_removed, counts
        self.starts, self.images, self.signs = starts, images, signs
        self._lengths = np.sqrt(np.maximum(counts, 1)).astype(np.float32)

    @classmethod
    def of(cls, rows: Rows, postings: Postings, vocabulary_size: int) -> Block:
        """Of photos under their row numbers (n,)."""
        order = np.argsort(postings.words, kind="stable")
        ends = np.cumsum(np.bincount(postings.words, minlength=vocabulary_size))
        images = np.repeat(np.arange(len(rows), dtype=np.uint16), postings.counts)
        return cls(
            rows,
            np.zeros(len(rows), bool),
            postings.counts,
            np.concatenate([[0], ends]).astype(np.int64),
            images[order],
            _as_integers(postings.signs[order]),
        )

    def fits(self, vocabulary: Vocabulary) -> bool:
        """Whether the arrays, which may come from a damaged file, fit each other."""
        count, postings = len(self.rows), len(self.images)
        width = -(-vocabulary.sign_bytes // _WORD_BYTES)
        return (
            all(getattr(self, name).dtype == dtype for name, dtype in self.ARRAYS.items())
            and self.rows.shape == self.is_removed.shape == self.counts.shape == (count,)
            and count <= MAX_BLOCK_IMAGES
            and self.starts.shape == (vocabulary.size + 1,)
            and self.starts[0] == 0
            and self.starts[-1] == postings
            and bool((np.diff(self.starts) >= 0).all())
            and self.images.shape == (postings,)
            and self.signs.shape == (postings, width)
            and (not postings or int(self.images.max()) < count)
        )

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def bytes(self) -> int:
        arrays = self.rows, self.counts, self.starts, self.images, self.signs, self._lengths
        return sum(array.nbytes for array in arrays)

    def similarities(
        self, words: NDArray[np.int64], signs: NDArray[np.uint64], table: FloatArray
    ) -> FloatArray:
        sums = np.zeros(len(self.rows), np.float32)
        _accumulate(words, signs, self.starts, self.images, self.signs, table, sums)
        return sums / self._lengths

    def postings(self, vocabulary: Vocabulary) -> tuple[Rows, Postings]:
        """Those of the photos that are left, photo by photo."""
        words = np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))
        order = np.argsort(self.images, kind="stable")
        signs = self.signs.view(np.uint8).reshape(-1, _WORD_BYTES * self.signs.shape[1])[order]
        postings = Postings(
            vocabulary.digest,
            self.counts,
            words[order].astype(np.uint16),
            signs[:, : vocabulary.sign_bytes],
        )
        left = ~self.is_removed
        return self.rows[left], postings.take(left)


class InvertedFile:
    """ASMK* similarities of a query to all photos that were added.

    Args:
        vocabulary: of all words in it.
        alpha, tau: of the selectivity, see :mod:`delg.extraction.aggregation`.
        blocks: that it had before.

    Attributes:
        changes: photos added or removed since it was made, or since the caller set it to 0.
    """

    def __init__(
        self, vocabulary: Vocabulary, alpha: float, tau: float, blocks: Sequence[Block] = ()
    ) -> None:
        self.vocabulary = vocabulary
        differing = np.arange(vocabulary.dim + 1, dtype=np.float32)
        self._table = selectivity(
            np.float32(1) - differing * np.float32(2 / vocabulary.dim), alpha, tau
        )
        self._blocks, self.changes = list(blocks), 0
        self._known_order: tuple[Rows, NDArray[np.intp] | None] | None = None
        # Numbers of segments, which are never used again.
        self._without_words: set[int] = set()

    def __len__(self) -> int:
        return sum(int((~block.is_removed).sum()) for block in self._blocks)

    @property
    def blocks(self) -> Sequence[Block]:
        """What it consists of."""
        return self._blocks

    @property
    def bytes(self) -> int:
        """Memory that the postings take."""
        return sum(block.bytes for block in self._blocks)

    def rows(self) -> Rows:
        """Row numbers of the photos in it, in no order."""
        parts = [block.rows[~block.is_removed] for block in self._blocks]
        return np.concatenate([np.zeros(0, np.int64), *parts])

    def add(self, rows: Rows, postings: Postings) -> None:
        """Add photos (n) under row numbers (n,) that are not in it."""
        self._known_order = None
        self.changes += len(rows)
        for start in range(0, len(rows), MAX_BLOCK_IMAGES):
            chosen = np.zeros(len(rows), bool)
            chosen[start : start + MAX_BLOCK_IMAGES] = True
            self._blocks.append(Block.of(rows[chosen], postings.take(chosen), self.vocabulary.size))
            self._join_blocks()

    def update(self, table: NDArray[np.int64], segments: Mapping[int, Segment]) -> None:
        """Hold exactly those of the photos that can be found whose segment has their words.

        Args:
            table: int64 (N, 3), row, segment and position of each photo that can be found.
            segments: by number; the photos of those that cannot be read are left out.
        """
        known = self.rows()
        self.remove(np.setdiff1d(known, table[:, 0]))
        is_new = ~np.isin(table[:, 0], known) & ~np.isin(table[:, 1], list(self._without_words))
        batch: list[tuple[Rows, Postings]] = []
        for number, rows, positions in by_segment(table[is_new]):
            postings = self._postings_in(number, segments)
            if postings is not None:
                chosen = np.zeros(len(postings), bool)
                chosen[positions] = True
                batch.append((rows, postings.take(chosen)))
            if sum(len(rows) for rows, _ in batch) >= MAX_BLOCK_IMAGES:
                self._add_batch(batch)
                batch = []
        self._add_batch(batch)

    def _postings_in(self, number: int, segments: Mapping[int, Segment]) -> Postings | None:
        try:
            postings = segments[number].postings
        except (KeyError, DelgError):
            return None  # Once it can be read again, it is read.
        if postings is None or not postings.are_of(self.vocabulary):
            self._without_words.add(number)
            return None
        return postings

    def _add_batch(self, batch: list[tuple[Rows, Postings]]) -> None:
        if batch:
            rows = np.concatenate([rows for rows, _ in batch])
            self.add(rows, Postings.concatenate([postings for _, postings in batch]))

    def _join_blocks(self) -> None:
        while len(self._blocks) > 1:
            older, newer = self._blocks[-2:]
            if len(older) > 2 * len(newer) or len(older) + len(newer) > MAX_BLOCK_IMAGES:
                return
            self._blocks[-2:] = [self._rebuilt([older, newer])]

    def _rebuilt(self, blocks: Sequence[Block]) -> Block:
        parts = [block.postings(self.vocabulary) for block in blocks]
        rows = np.concatenate([rows for rows, _ in parts])
        postings = Postings.concatenate([part for _, part in parts])
        return Block.of(rows, postings, self.vocabulary.size)

    def remove(self, rows: Rows) -> None:
        """Remove the photos under these row numbers."""
        self._known_order = None
        self.changes += len(rows)
        for number, block in enumerate(self._blocks):
            block.is_removed |= np.isin(block.rows, rows)
            if 2 * int(block.is_removed.sum()) > len(block):
                self._blocks[number] = self._rebuilt([block])
        self._blocks = [block for block in self._blocks if len(block)]

    def similarities(self, query: BinaryWords) -> tuple[Rows, FloatArray]:
        """The row numbers of all photos, ascending, and their similarities to the query, float32, 0
        to 1."""
        words, signs = query.words.astype(np.int64), _as_integers(query.signs)

        def of_block(block: Block) -> FloatArray:
            return block.similarities(words, signs, self._table)

        if len(self._blocks) > 1:
            with ThreadPoolExecutor(os.cpu_count()) as threads:
                parts = list(threads.map(of_block, self._blocks))
        else:
            parts = [of_block(block) for block in self._blocks]
        values = np.concatenate([np.zeros(0, np.float32), *parts])
        rows, order = self._order()
        values = values[order] if order is not None else values
        return rows, values / np.float32(np.sqrt(max(len(query), 1)))

    def _order(self) -> tuple[Rows, NDArray[np.intp] | None]:
        """The rows, ascending, and where they stand in the blocks; None: in the same order."""
        if self._known_order is None:
            rows = np.concatenate([np.zeros(0, np.int64), *(b.rows for b in self._blocks)])
            kept = ~np.concatenate([np.zeros(0, bool), *(b.is_removed for b in self._blocks)])
            if kept.all() and (rows[1:] > rows[:-1]).all():
                self._known_order = rows, None
            else:
                order = np.flatnonzero(kept)
                order = order[np.argsort(rows[order])]
                self._known_order = rows[order], order
        return self._known_order


def _as_integers(signs: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Bits (t, b) as uint64 (t, ⌈b / 8⌉), filled up with zeros."""
    padding = -signs.shape[1] % _WORD_BYTES
    padded = np.pad(signs, ((0, 0), (0, padding))) if padding else signs
    return np.ascontiguousarray(padded).view(np.uint64)


@compiled
def _accumulate(
    query_words: NDArray[np.int64],
    query_signs: NDArray[np.uint64],
    starts: NDArray[np.int64],
    images: NDArray[np.uint16],
    signs: NDArray[np.uint64],
    table: FloatArray,
    sums: FloatArray,
) -> None:
    """Add to ``sums`` (n,), photo by photo, the selectivity of each word that it shares."""
    for number in range(len(query_words)):
        word = query_words[number]
        for posting in range(starts[word], starts[word + 1]):
            differing = 0
            for part in range(signs.shape[1]):
                bits = query_signs[number, part] ^ signs[posting, part]
                # The number of ones, by adding neighbouring groups of bits.
                bits -= (bits >> np.uint64(1)) & np.uint64(0x5555555555555555)
                low = bits & np.uint64(0x3333333333333333)
                bits = low + ((bits >> np.uint64(2)) & np.uint64(0x3333333333333333))
                bits = (bits + (bits >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
                differing += np.int64((bits * np.uint64(0x0101010101010101)) >> np.uint64(56))
            sums[images[posting]] += table[differing]

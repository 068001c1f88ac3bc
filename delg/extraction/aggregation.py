"""Aggregation of local descriptors over visual words: VLAD, ASMK, and their regional forms.

Every descriptor goes to its nearest words of a vocabulary, and the residuals to a word's centroid
are summed. VLAD (Jégou et al., CVPR 2010) scales all sums of a photo to unit length together; ASMK
(Tolias, Avrithis, Jégou, ICCV 2013) scales each word's, and compares two photos word by word:

    similarity = Σ σ(u) / √(n₁ n₂),   σ(u) = u^α for u > τ, else 0

over the words that both have, with u the inner product of a word's two vectors and n the number of
words of a photo. ASMK* keeps the signs of the sums alone: u = 1 − 2 · h / d, for d signs of which h
differ. The regional forms (Detect-to-Retrieve, arXiv 1812.01584) are made of several regions'
VLADs, each of unit length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from delg.types import FloatArray

# Published: exponent and threshold of the selectivity σ.
ALPHA, TAU = 3.0, 0.0
# Length below which a sum of residuals counts as none.
_MIN_LENGTH = 1e-6


@dataclass(frozen=True, eq=False)
class WordVectors:
    """One vector for each visual word of a photo.

    Attributes:
        words: int64 (w,), ascending, each word once.
        vectors: float32 (w, d).
    """

    words: NDArray[np.int64]
    vectors: FloatArray

    def __len__(self) -> int:
        return len(self.words)


def sum_residuals(
    descriptors: FloatArray,
    assignments: NDArray[np.integer],
    centroids: FloatArray,
    weights: FloatArray | None = None,
) -> WordVectors:
    """The sums of the residuals of each word.

    Args:
        descriptors: float32 (N, d).
        assignments: integers (N, a), the words of each descriptor; (N,) for one each.
        centroids: float32 (K, d).
        weights: float32 (N,), how much each descriptor counts; None: alike.
    """
    words = assignments[:, None] if assignments.ndim == 1 else assignments
    residuals = descriptors[:, None] - centroids[words]
    if weights is not None:
        residuals *= weights[:, None, None]
    residuals = residuals.reshape(-1, centroids.shape[1])
    return _sum_by_word(words.ravel().astype(np.int64), residuals)


def vlad(residuals: WordVectors) -> WordVectors:
    """VLAD of the sums of residuals: all of them together have unit length.

    Words that it does not have are zeros in the vector of K · d numbers of the paper.
    """
    length = float(np.linalg.norm(residuals.vectors))
    return WordVectors(residuals.words, residuals.vectors / max(length, _MIN_LENGTH))


def regional_vlad(regions: Sequence[WordVectors]) -> WordVectors:
    """R-VLAD: the mean of the regions' VLADs.

    Args:
        regions: sums of residuals, of one region each; the whole photo is a region too.

    Raises:
        ValueError: there are none.
    """
    if not regions:
        raise ValueError("a photo has one region at least, itself")
    parts = [vlad(region) for region in regions]
    words = np.concatenate([part.words for part in parts])
    total = _sum_by_word(words, np.concatenate([part.vectors for part in parts]))
    return WordVectors(total.words, total.vectors / np.float32(len(parts)))


def asmk(residuals: WordVectors) -> WordVectors:
    """ASMK of sums of residuals: each word's vector has unit length; words whose residuals cancel
    are left out. Of :func:`regional_vlad` it makes R-ASMK."""
    lengths = np.linalg.norm(residuals.vectors, axis=1)
    kept = lengths > _MIN_LENGTH
    vectors = residuals.vectors[kept] / lengths[kept, None]
    return WordVectors(residuals.words[kept], vectors.astype(np.float32))


def binarize(vectors: FloatArray) -> NDArray[np.uint8]:
    """The signs of ASMK*: vectors (w, d) as bits uint8 (w, ⌈d / 8⌉), the most significant first; 1
    for positive numbers."""
    return np.packbits(vectors > 0, axis=1)


def selectivity(
    inner_products: NDArray[np.floating], alpha: float = ALPHA, tau: float = TAU
) -> FloatArray:
    """σ of inner products of any shape, −1 to 1."""
    chosen = np.where(inner_products > tau, inner_products, 0)
    return np.asarray(np.sign(chosen) * np.abs(chosen) ** alpha, np.float32)


def vlad_similarity(first: WordVectors, second: WordVectors) -> float:
    """Inner product of two VLADs, or R-VLADs."""
    of_first, of_second = _common(first.words, second.words)
    return float((first.vectors[of_first] * second.vectors[of_second]).sum())


def asmk_similarity(
    first: WordVectors, second: WordVectors, alpha: float = ALPHA, tau: float = TAU
) -> float:
    """Similarity of two photos by ASMK, 0 where one has no words; 1 with itself."""
    of_first, of_second = _common(first.words, second.words)
    products = (first.vectors[of_first] * second.vectors[of_second]).sum(axis=1)
    return _normalize(selectivity(products, alpha, tau), len(first), len(second))


def asmk_star_similarity(
    first: WordVectors, second: WordVectors, alpha: float = ALPHA, tau: float = TAU
) -> float:
    """The same by ASMK*: of the vectors only the signs count."""
    of_first, of_second = _common(first.words, second.words)
    dim = first.vectors.shape[1]
    bits = binarize(first.vectors[of_first]) ^ binarize(second.vectors[of_second])
    differing = np.unpackbits(bits, axis=1, count=dim).sum(axis=1, dtype=np.float32)
    products = np.asarray(1 - 2 * differing / np.float32(dim), np.float32)
    return _normalize(selectivity(products, alpha, tau), len(first), len(second))


def _normalize(selected: FloatArray, first_words: int, second_words: int) -> float:
    return float(selected.sum()) / float(np.sqrt(max(first_words * second_words, 1)))


def _common(
    first: NDArray[np.int64], second: NDArray[np.int64]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Where the words that both have stand in each."""
    _, of_first, of_second = np.intersect1d(first, second, True, return_indices=True)
    return of_first, of_second


def _sum_by_word(words: NDArray[np.int64], vectors: FloatArray) -> WordVectors:
    if not len(words):
        return WordVectors(np.zeros(0, np.int64), np.zeros((0, vectors.shape[1]), np.float32))
    order = np.argsort(words, kind="stable")
    words = words[order]
    starts = np.flatnonzero(np.diff(words, prepend=-1))
    sums = np.add.reduceat(vectors[order], starts, axis=0)
    return WordVectors(words[starts], sums.astype(np.float32))

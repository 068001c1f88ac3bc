"""The visual vocabulary of a model: descriptors to words, and photos to binarised words (ASMK*).

It is learnt once, on photos like those that the model was trained on, and lies beside the model's
weights, as the codebook does, so that all indexes of a model agree. Descriptors are whitened by PCA
and scaled to unit length; the words are the centroids of k-means. See
:mod:`delg.extraction.aggregation` for what becomes of the residuals.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from delg.errors import DelgError, ModelError
from delg.extraction.aggregation import WordVectors, asmk, binarize, sum_residuals
from delg.files import atomic_write
from delg.network.weights import read_weights, weights_digest
from delg.paths import exists
from delg.types import FloatArray
from delg.zoo.registry import find_model

# What the catalog of an index calls the digest of the vocabulary whose words its segments hold.
VOCABULARY_DIGEST = "vocabulary_digest"
# Words and components by default: few enough to assign hundreds of features in milliseconds.
WORDS, MAX_DIM = 4096, 64
# Words are numbered by 16 bits.
MAX_WORDS = 1 << 16
# Descriptors per word that k-means needs, and uses at most.
MIN_PER_WORD, MAX_PER_WORD = 10, 64
_KMEANS_ITERATIONS = 12
# Descriptors of a photo for each word that is kept: more are not worth their assignment.
_DESCRIPTORS_PER_WORD = 3
# Directions of less than this share of the largest variance are noise, not to be whitened.
_MIN_VARIANCE = 1e-3
_TINY = 1e-12


@dataclass(frozen=True, eq=False)
class BinaryWords:
    """A photo by ASMK*.

    Attributes:
        words: uint16 (w,), ascending, each word once.
        signs: uint8 (w, ⌈r / 8⌉), of the residuals, the most significant bit first.
        vocabulary: its digest; may be empty where it is known otherwise.
    """

    words: NDArray[np.uint16]
    signs: NDArray[np.uint8]
    vocabulary: str = ""

    def __len__(self) -> int:
        return len(self.words)


NO_WORDS = BinaryWords(np.zeros(0, np.uint16), np.zeros((0, 0), np.uint8))


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Visual words for unit vectors (N, d).

    Attributes:
        mean: float32 (d,).
        projection: float32 (d, r), PCA and whitening.
        centroids: float16 (K, r).
    """

    mean: FloatArray
    projection: FloatArray
    centroids: NDArray[np.float16]

    @classmethod
    def train(
        cls, descriptors: FloatArray, words: int = WORDS, dim: int | None = None
    ) -> Vocabulary:
        """Learn words from a sample; the same sample gives the same words.

        Args:
            descriptors: float32 (N, d), unit length, N at least ``MIN_PER_WORD`` · ``words``.
            words: K, at most ``MAX_WORDS``.
            dim: r; None: d, but at most ``MAX_DIM``.
        """
        rng = np.random.default_rng(0)
        chosen = np.sort(rng.permutation(len(descriptors))[: MAX_PER_WORD * words])
        sample = np.asarray(descriptors[chosen], np.float32)
        mean, projection = _whitening(sample, dim or min(MAX_DIM, sample.shape[1]))
        with threadpool_limits(1, "blas"):
            vectors = _unit((sample - mean) @ projection)
        return cls(
            mean,
            projection,
            kmeans(vectors, words, _KMEANS_ITERATIONS, MAX_PER_WORD).astype(np.float16),
        )

    @property
    def size(self) -> int:
        """Number of words, K."""
        return len(self.centroids)

    @property
    def dim(self) -> int:
        """Width of the residuals, r."""
        return self.projection.shape[1]

    @property
    def sign_bytes(self) -> int:
        """Bytes of the signs of one residual, ⌈r / 8⌉."""
        return -(-self.dim // 8)

    @cached_property
    def digest(self) -> str:
        """Of its numbers, 16 hexadecimal digits."""
        return weights_digest(_arrays(self))[:16]

    @cached_property
    def _float_centroids(self) -> FloatArray:
        return self.centroids.astype(np.float32)

    @cached_property
    def _nearest(self) -> Any:
        import faiss

        index = faiss.IndexFlatL2(self.dim)
        index.add(self._float_centroids)
        return index

    def project(self, descriptors: FloatArray) -> FloatArray:
        """Unit vectors (N, d) as the words are compared with: float32 (N, r), unit length."""
        return _unit((descriptors - self.mean) @ self.projection)

    def assign(self, vectors: FloatArray, count: int = 1) -> NDArray[np.int64]:
        """The nearest words of projected vectors (N, r), the nearest first: int64 (N, count)."""
        count = min(count, self.size)
        if not len(vectors):
            return np.zeros((0, count), np.int64)
        return np.asarray(self._nearest.search(np.ascontiguousarray(vectors), count)[1])

    def residuals(self, descriptors: FloatArray, assignments: int = 1) -> WordVectors:
        """The sums of residuals of each word, for descriptors float32 (N, d) that each go to their
        ``assignments`` nearest words."""
        vectors = self.project(descriptors)
        return sum_residuals(vectors, self.assign(vectors, assignments), self._float_centroids)

    def query_words(self, descriptors: FloatArray, assignments: int) -> BinaryWords:
        """A query's words; see :meth:`residuals`."""
        return replace(_binarize(self.residuals(descriptors, assignments)), vocabulary=self.digest)

    def photo_words(self, descriptors: FloatArray, max_words: int) -> BinaryWords:
        """The words of a photo to be stored.

        Args:
            descriptors: float32 (N, d), the best first.
            max_words: words at most; the words of the best features are kept.
        """
        vectors = self.project(descriptors[: _DESCRIPTORS_PER_WORD * max_words])
        assignments = self.assign(vectors)[:, 0]
        _, first = np.unique(assignments, return_index=True)
        kept = assignments[np.sort(first)[:max_words]]
        is_kept = np.isin(assignments, kept)
        return _binarize(
            sum_residuals(vectors[is_kept], assignments[is_kept], self._float_centroids)
        )


def read_vocabulary(path: Path, local_dim: int) -> Vocabulary:
    """Read a vocabulary.

    Args:
        path: of the file.
        local_dim: d, width of the descriptors that it has to fit.

    Raises:
        ModelError: it is missing, damaged, or for descriptors of another width.
    """
    vocabulary = _check(read_weights(path), str(path))
    width = len(vocabulary.mean)
    if width != local_dim:
        raise ModelError(
            f"{path}: a vocabulary for local descriptors of {width} numbers; the model's have "
            f"{local_dim}"
        )
    return vocabulary


def write_vocabulary(path: Path, vocabulary: Vocabulary) -> None:
    """Write a vocabulary.

    Raises:
        DelgError: it cannot be written; a file that was there before is unchanged.
    """
    with atomic_write(path) as temporary, h5py.File(temporary, "w", track_order=True) as file:
        for name, values in _arrays(vocabulary).items():
            file.create_dataset(name, data=values)


def find_vocabulary(model: str, weights: str, local_dim: int) -> Vocabulary | None:
    """The vocabulary of a model; None if it has none or is not here.

    Args:
        model: name or folder; empty for features made elsewhere.
        weights: another weight file for it; may be empty.
        local_dim: width of the local descriptors.

    Raises:
        ModelError: the vocabulary is damaged.
    """
    try:
        path = find_model(model, weights or None).vocabulary if model else None
    except DelgError:
        return None
    if path is None or not exists(path):
        return None
    return _read_once(path, path.stat().st_mtime_ns, local_dim)


@lru_cache(maxsize=4)
def _read_once(path: Path, mtime_ns: int, local_dim: int) -> Vocabulary:
    """Shared by all indexes of a model, until the file changes."""
    return read_vocabulary(path, local_dim)


def _binarize(residuals: WordVectors) -> BinaryWords:
    vectors = asmk(residuals)
    return BinaryWords(vectors.words.astype(np.uint16), binarize(vectors.vectors))


def _whitening(sample: FloatArray, dim: int) -> tuple[FloatArray, FloatArray]:
    """Mean (d,) and projection (d, dim) to the leading directions, of equal variance each."""
    mean = sample.mean(axis=0, dtype=np.float64)
    centred = sample - mean
    variances, directions = np.linalg.eigh(centred.T @ centred / len(sample))
    leading = np.argsort(-variances)[:dim]
    floor = max(_MIN_VARIANCE * float(variances[leading[0]]), _TINY)
    projection = directions[:, leading] / np.sqrt(np.maximum(variances[leading], floor))
    return mean.astype(np.float32), projection.astype(np.float32)


def kmeans(
    vectors: FloatArray, words: int, iterations: int, max_per_word: int, seed: int = 1234
) -> FloatArray:
    """Centroids float32 (words, r) of vectors (N, r); the same vectors give the same.

    Args:
        iterations: of Lloyd's algorithm.
        max_per_word: vectors per word that are used at most, drawn by chance.
        seed: of all that is drawn; 1234 is FAISS's own.
    """
    import faiss

    parameters = faiss.ClusteringParameters()
    parameters.niter, parameters.min_points_per_centroid = iterations, 1
    parameters.max_points_per_centroid, parameters.seed = max_per_word, seed
    clustering = faiss.Clustering(vectors.shape[1], words, parameters)
    clustering.train(np.ascontiguousarray(vectors), faiss.IndexFlatL2(vectors.shape[1]))
    return np.asarray(faiss.vector_to_array(clustering.centroids)).reshape(words, -1)


def _arrays(vocabulary: Vocabulary) -> dict[str, np.ndarray]:
    return {
        "mean": vocabulary.mean,
        "projection": vocabulary.projection,
        "centroids": vocabulary.centroids,
    }


def _check(arrays: dict[str, np.ndarray], origin: str) -> Vocabulary:
    if arrays.keys() != {"mean", "projection", "centroids"}:
        raise ModelError(
            f"{origin}: not a vocabulary, which holds mean, projection and centroids alone"
        )
    mean, projection, centroids = arrays["mean"], arrays["projection"], arrays["centroids"]
    is_vocabulary = (
        mean.dtype == projection.dtype == np.float32
        and centroids.dtype == np.float16
        and mean.ndim == 1
        and projection.ndim == centroids.ndim == 2
        and len(mean) == len(projection) > 0
        and 0 < projection.shape[1] == centroids.shape[1] <= len(mean)
        and 0 < len(centroids) <= MAX_WORDS
        and all(bool(np.isfinite(array).all()) for array in arrays.values())
    )
    if not is_vocabulary:
        raise ModelError(f"{origin}: the parts of the vocabulary do not fit each other")
    return Vocabulary(mean, projection, centroids)


def _unit(vectors: NDArray[np.floating]) -> FloatArray:
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None]
    return np.asarray(vectors / np.maximum(norms, _TINY), np.float32)

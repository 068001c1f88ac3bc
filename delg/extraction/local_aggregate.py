"""A global descriptor joined from what the network pools and from the local descriptors.

What a network pools tells what kind of thing a photo shows; its local descriptors tell which one,
even where the thing fills little of the photo. They are aggregated as VLAD over few words, each
descriptor counting as its attention says (:mod:`delg.extraction.descriptor_attention`) and each
word's sum of residuals scaled to unit length against repeated structure (intra-normalisation,
Arandjelović and Zisserman, CVPR 2013), and adapted by a whitening within classes
(:mod:`delg.network.within_class`): photos of one label are a class, and so are a photo and a
photograph of it. Both unit vectors are joined, and whitened so once more, together. No component is
left out there: those in which the photos that it learns from vary least still tell other things
apart. As all are kept they can be rotated, by chance, which leaves similarities as they are and
spreads each descriptor over its components, so that a byte holds each. All that is learnt lies
beside the model's settings (``delg model aggregate``), and says for which weights.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from delg.extraction.aggregation import asmk, sum_residuals
from delg.extraction.descriptor_attention import DescriptorAttention
from delg.extraction.rotation import random_rotation
from delg.network.learnt_arrays import read_learnt, write_learnt
from delg.network.within_class import fit_projection, project, scatter_within
from delg.settings import AggregateSettings
from delg.types import FloatArray

# Chosen on development sets and on labels that were not learnt from: the shrinkage of both
# whitenings, and how much of the scatter within classes is that of photos and photographs of them;
# the rest is that of labels.
_SHRINKAGE, _JOINT_SHRINKAGE, _PHOTOGRAPHS = 0.9, 0.4, 0.4
_LEARN = "delg model aggregate"
# Before the names of the attention's arrays.
_ATTENTION = "attention_"
_TINY = 1e-12


@dataclass(frozen=True, eq=False)
class Classes:
    """Which of N descriptors are of one thing.

    Attributes:
        photos: int64 (N,), the same number for a photo and photographs of it.
        labels: int64 (N,), the same number for photos of one label; −1: none.
    """

    photos: NDArray[np.int64]
    labels: NDArray[np.int64]

    def scatter(self, vectors: FloatArray) -> NDArray[np.float64]:
        """The scatter (C, C) within them of vectors (N, C)."""
        of_photos = scatter_within(vectors, self.photos)
        is_labelled = self.labels >= 0
        if not is_labelled.any():
            return of_photos
        of_labels = scatter_within(vectors[is_labelled], self.labels[is_labelled])
        return _PHOTOGRAPHS * of_photos + (1 - _PHOTOGRAPHS) * of_labels


@dataclass(frozen=True, eq=False)
class LocalAggregate:
    """What aggregates local descriptors, and joins them with the network's global one.

    Attributes:
        words: float32 (K, d), centroids.
        mean: float32 (K · d,).
        kernel: float32 (K · d, adapted_dim); see :func:`delg.network.within_class.project`.
        joint_mean: float32 (D + adapted_dim,).
        joint_kernel: float32 (D + adapted_dim, D + adapted_dim).
        base: digest of the weights of the network that it was learnt for.
        attention: what weighs the descriptors; None: all alike.
    """

    words: FloatArray
    mean: FloatArray
    kernel: FloatArray
    joint_mean: FloatArray
    joint_kernel: FloatArray
    base: str
    attention: DescriptorAttention | None = None

    @classmethod
    def fit(
        cls,
        words: FloatArray,
        attention: DescriptorAttention | None,
        descriptors: FloatArray,
        aggregates: FloatArray,
        classes: Classes,
        adapted_dim: int,
        base: str,
    ) -> LocalAggregate:
        """Learn it; the same input gives the same.

        Args:
            words: float32 (K, d).
            attention: see above.
            descriptors: float32 (N, D), the network's own, unit length.
            aggregates: float32 (N, K · d); see :func:`aggregate`.
            classes: of the N photos.
            adapted_dim: see above, at most K · d.
            base: see above.
        """
        mean, kernel = fit_adaptation(aggregates, classes, adapted_dim)
        both = np.concatenate([descriptors, project(aggregates, mean, kernel)], axis=1)
        joint_mean, joint_kernel = fit_projection(
            both, classes.scatter(both), both.shape[1], _JOINT_SHRINKAGE
        )
        joint_kernel = joint_kernel @ random_rotation(both.shape[1], both.shape[1])
        return cls(words, mean, kernel, joint_mean, joint_kernel, base, attention)

    def join(self, descriptor: FloatArray, local_descriptors: FloatArray) -> FloatArray:
        """The joint descriptor float32 (D + adapted_dim,), unit length.

        Args:
            descriptor: float32 (D,), the network's own, of any length.
            local_descriptors: float32 (N, d) of the same photo; where there are none, theirs
                is zero.
        """
        adapted = np.zeros(self.kernel.shape[1], np.float32)
        if len(local_descriptors):
            summed = aggregate(local_descriptors, self.words, self.attention)
            adapted = _project_vector(summed, self.mean, self.kernel)
        both = np.concatenate([_to_unit(descriptor), adapted])
        return _project_vector(both, self.joint_mean, self.joint_kernel)

    def save(self, path: Path) -> None:
        """Write it; the matrices as float16.

        Raises:
            DelgError: it cannot be written.
        """
        write_learnt(path, self._arrays(), self.base)

    @classmethod
    def load(
        cls, path: Path, spec: AggregateSettings, dims: tuple[int, int], base: str
    ) -> LocalAggregate:
        """Read it.

        Args:
            path: of the file.
            spec: of the model.
            dims: D and d, widths of the network's global and local descriptors.
            base: digest of the network's weights, which it must have been learnt for.

        Raises:
            ModelError: it is missing, damaged, of other widths, or of other weights.
        """
        dim, local_dim = dims
        summed, both = spec.words * local_dim, dim + spec.adapted_dim
        shapes = {
            "words": (spec.words, local_dim),
            "mean": (summed,),
            "kernel": (summed, spec.adapted_dim),
            "joint_mean": (both,),
            "joint_kernel": (both, both),
        }
        of_attention = {}
        if spec.attention_hidden:
            of_attention = DescriptorAttention.shapes(local_dim, spec.attention_hidden)
        shapes |= {_ATTENTION + name: shape for name, shape in of_attention.items()}
        learnt = read_learnt(path, shapes, base, _LEARN)
        arrays = {name: learnt.pop(_ATTENTION + name) for name in of_attention}
        attention = DescriptorAttention(**arrays) if arrays else None
        return cls(**learnt, base=base, attention=attention)

    def _arrays(self) -> dict[str, FloatArray]:
        names = [field.name for field in fields(self) if field.name not in ("base", "attention")]
        arrays = {name: getattr(self, name) for name in names}
        if self.attention is not None:
            arrays |= {_ATTENTION + name: each for name, each in self.attention.arrays().items()}
        return arrays


def fit_adaptation(
    aggregates: FloatArray, classes: Classes, dim: int
) -> tuple[FloatArray, FloatArray]:
    """Learn what adapts aggregates (N, K · d) to ``dim`` numbers: mean (K · d,) and kernel (K · d,
    dim); see :func:`delg.network.within_class.project`."""
    return fit_projection(aggregates, classes.scatter(aggregates), dim, _SHRINKAGE)


def nearest_words(descriptors: FloatArray, words: FloatArray) -> NDArray[np.int64]:
    """The nearest of words (K, d) to each of descriptors (N, d): int64 (N,)."""
    # |x − w|² without |x|², which is the same for all.
    distances = (words**2).sum(axis=1) - 2 * np.einsum("nd,kd->nk", descriptors, words)
    return np.asarray(distances.argmin(axis=1), np.int64)


def aggregate(
    descriptors: FloatArray, words: FloatArray, attention: DescriptorAttention | None = None
) -> FloatArray:
    """VLAD with intra-normalisation.

    Args:
        descriptors: float32 (N, d), unit length.
        words: float32 (K, d), centroids.
        attention: what weighs the descriptors; None: all alike.

    Returns:
        float32 (K · d,), unit length; zeros where there are no descriptors.
    """
    weights = None if attention is None else attention.weigh(descriptors)
    sums = asmk(sum_residuals(descriptors, nearest_words(descriptors, words), words, weights))
    dense = np.zeros(words.shape, np.float32)
    dense[sums.words] = sums.vectors / np.float32(np.sqrt(max(len(sums), 1)))
    return dense.ravel()


def _project_vector(vector: FloatArray, mean: FloatArray, kernel: FloatArray) -> FloatArray:
    """:func:`delg.network.within_class.project` for one vector (C,), in one thread: other photos
    are extracted at the same time, and BLAS would take the cores from them."""
    return _to_unit(np.einsum("c,cd->d", vector - mean, kernel))


def _to_unit(vector: FloatArray) -> FloatArray:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), _TINY), np.float32)

"""Within-class whitening: what differs between photos of one thing counts less.

A linear map learnt from labelled vectors, in closed form. The scatter of photos around the mean of
their label is whitened away, so that directions in which photos of one thing differ (light, view,
surroundings) are weighed down, and those in which things differ come out (Mikolajczyk and Matas,
ICCV 2007; Radenovic et al., arXiv 1711.02512, section III).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from delg.types import FloatArray

_TINY = 1e-12


def fit_within_class(
    vectors: FloatArray, labels: NDArray[np.int64], dim: int, shrinkage: float
) -> tuple[FloatArray, FloatArray]:
    """Learn ``x -> (x - mean) @ kernel``.

    Args:
        vectors: float32 (N, C).
        labels: int64 (N,), which thing each shows; at least one of them repeats.
        dim: components kept, at most C: those of the largest variance once the scatter within
            labels is white.
        shrinkage: 0 to 1, how far that scatter is pulled towards the same variance in all
            directions (Ledoit and Wolf 2004), so that what few labels do not show is left as it is.

    Returns:
        mean float32 (C,) and kernel float32 (C, dim), whose largest entry is 1.
    """
    return fit_projection(vectors, scatter_within(vectors, labels), dim, shrinkage)


def scatter_within(vectors: FloatArray, labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Covariance (C, C) of vectors (N, C) around the means of their labels (N,)."""
    _, members, counts = np.unique(labels, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), vectors.shape[1]))
    np.add.at(sums, members, vectors)
    deviations = vectors - (sums / counts[:, None])[members]
    return deviations.T @ deviations / max(len(vectors) - len(counts), 1)


def fit_projection(
    vectors: FloatArray, within: NDArray[np.float64], dim: int, shrinkage: float
) -> tuple[FloatArray, FloatArray]:
    """:func:`fit_within_class`, given the scatter (C, C) within labels."""
    mean = vectors.mean(axis=0, dtype=np.float64)
    level = np.trace(within) / len(within)
    within = (1 - shrinkage) * within + shrinkage * level * np.eye(len(within))
    variances, axes = np.linalg.eigh(within)
    whitening = axes * np.maximum(variances, _TINY * level) ** -0.5 @ axes.T
    white = (vectors - mean) @ whitening
    kernel = whitening @ main_axes(white.T @ white, dim)
    return mean.astype(np.float32), (kernel / np.abs(kernel).max()).astype(np.float32)


def main_axes(scatter: NDArray[np.float64], dim: int) -> NDArray[np.float64]:
    """The ``dim`` eigenvectors (C, dim) of the largest eigenvalues, with signs that repeat."""
    axes = np.linalg.eigh(scatter)[1][:, ::-1][:, :dim]
    return axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(dim)])


def project(vectors: FloatArray, mean: FloatArray, kernel: FloatArray) -> FloatArray:
    """Vectors (N, C) mapped by :func:`fit_within_class`: float32 (N, dim), unit length."""
    projected = (vectors - mean) @ kernel
    lengths = np.linalg.norm(projected, axis=1, keepdims=True)
    return np.asarray(projected / np.maximum(lengths, _TINY), np.float32)

"""Whitening learnt from data: principal components, scaled by a power of their variance."""

from __future__ import annotations

import numpy as np

from delg.errors import DelgError
from delg.types import FloatArray


def fit_pca(
    vectors: FloatArray, dim: int, power: float = 0.5, shrinkage: float = 0.0
) -> tuple[FloatArray, FloatArray]:
    """Learn ``x -> x @ kernel + bias``, which centres, projects and scales.

    Args:
        vectors: float (N, C), N > dim.
        dim: components kept, at most C.
        power: each component is divided by its variance to this power; 0.5 whitens fully, 0.25
            halves the effect, 0 only rotates.
        shrinkage: 0 to 1, how far the variances are pulled towards their mean before scaling, so
            that components of small variance are not amplified.

    Returns:
        kernel float32 (C, dim) and bias float32 (dim,).

    Raises:
        DelgError: too few vectors for that many components.
    """
    count, channels = vectors.shape
    if dim > channels or count <= dim:
        raise DelgError(
            f"{dim} components need more than {dim} vectors of at least {dim} channels; "
            f"there are {count} of {channels}: give more photos"
        )
    mean = vectors.mean(axis=0, dtype=np.float64)
    centred = vectors - mean
    variances, axes = np.linalg.eigh(centred.T @ centred / (count - 1))
    order = np.argsort(-variances)[:dim]
    variances, axes = variances[order], axes[:, order]
    variances = (1 - shrinkage) * variances + shrinkage * variances.mean()
    # Signs of eigenvectors are arbitrary; fixing them makes the fit repeat on every machine.
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(dim)])
    kernel = axes * np.maximum(variances, 1e-12) ** -power
    return kernel.astype(np.float32), (-mean @ kernel).astype(np.float32)

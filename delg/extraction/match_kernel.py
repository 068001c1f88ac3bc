"""A global descriptor aggregated from local ones, for models without a global head.

The local descriptors are summed in their second-order form, x xᵀ, so that the inner product of two
photos is the sum of (x · y)² over all pairs of their features: similar pairs count, the many others
hardly do. This is the order-two match kernel (Tolias, Avrithis, Jégou, arXiv 1304.1378;
Carreira et al., ECCV 2012), with the signed square root of VLAD and Fisher vectors against bursts
of repeated structure. There is no codebook to learn, so two indexes always agree.
"""

from __future__ import annotations

import numpy as np

from delg.extraction.rotation import random_rotation
from delg.types import FloatArray

# Wider descriptors are rotated at random and cut to this width, as the aggregate grows with d².
MAX_WIDTH = 64


def aggregated_dim(local_dim: int) -> int:
    """Width of the aggregate of descriptors of width ``local_dim``."""
    width = min(local_dim, MAX_WIDTH)
    return width * (width + 1) // 2


def aggregate(descriptors: FloatArray) -> FloatArray | None:
    """The aggregate of local descriptors.

    Args:
        descriptors: float32 (N, d), unit length.

    Returns:
        float32 (aggregated_dim(d),), unit length; None where there are no features.
    """
    if not len(descriptors):
        return None
    if descriptors.shape[1] > MAX_WIDTH:
        descriptors = descriptors @ random_rotation(descriptors.shape[1], MAX_WIDTH)
    second = descriptors.T @ descriptors
    row, column = np.triu_indices(len(second))
    # Every pair off the diagonal stands in the matrix twice and here once.
    values = second[row, column] * np.where(row == column, 1, np.sqrt(2)).astype(np.float32)
    rooted = np.sign(values) * np.sqrt(np.abs(values))
    length = float(np.linalg.norm(rooted))
    return (rooted / length).astype(np.float32) if length > 0 else None

"""Random rotations, which keep inner products and spread vectors over their components."""

from __future__ import annotations

from functools import cache

import numpy as np

from delg.types import FloatArray


@cache
def random_rotation(dim: int, kept: int) -> FloatArray:
    """Orthonormal columns float32 (dim, kept), the same on every machine.

    Args:
        dim: of the vectors that are rotated.
        kept: components, at most ``dim``; with fewer, inner products are kept on average.
    """
    drawn = np.random.default_rng(0).normal(size=(dim, kept))
    q, r = np.linalg.qr(drawn)
    return (q * np.sign(np.diag(r))).astype(np.float32)

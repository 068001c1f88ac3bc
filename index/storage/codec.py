"""Local descriptors as bytes: unit vectors in, unit vectors out."""

from __future__ import annotations

import numpy as np

from delg.types import FloatArray

_TINY = 1e-12


def encode(descriptors: FloatArray, codec: str) -> np.ndarray:
    """Encode unit vectors.

    int8 stretches each vector until its largest component is ±127; as only its direction counts,
    the stretch need not be kept.

    Args:
        descriptors: float32 (N, d), unit length.
        codec: "int8", "float16" or "float32".

    Returns:
        (N, d) of the codec's type.
    """
    if codec != "int8":
        return descriptors.astype(codec)
    peak = np.abs(descriptors).max(axis=1, keepdims=True, initial=_TINY)
    return np.rint(descriptors * (127 / peak)).astype(np.int8)


def decode(encoded: np.ndarray) -> FloatArray:
    """Decode what :func:`encode` returned; encoding the result again gives the same bytes.

    Args:
        encoded: int8, float16 or float32 (N, d).

    Returns:
        float32 (N, d), unit length (from float16 to about a thousandth).
    """
    values = encoded.astype(np.float32)
    if encoded.dtype != np.int8:
        return values
    norms = np.sqrt(np.einsum("ij,ij->i", values, values))[:, None]
    return values / np.maximum(norms, _TINY)

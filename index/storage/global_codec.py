"""Global descriptors as they are stored.

A byte for each component has steps of 1/512 and a range of ±127/512, ten times what a component of
1,536 is in root mean square; beyond it components are clipped. It moves similarities by some .0003
and lengths by no more than float16 does. Similarities are the same by a segment and by FAISS, whose
codes are the same bytes.
"""

from __future__ import annotations

import numpy as np

from delg.types import FloatArray
from index.settings import GlobalCodec

# Steps to 1. A power of two, so that nothing is rounded but by the step.
STEPS = 512
_LARGEST = 127
# Rounding makes a vector longer or shorter by a few thousandths at most.
_STRETCHES = np.linspace(0.997, 1.003, 41, dtype=np.float32)


def encode_global(descriptors: FloatArray, codec: GlobalCodec) -> np.ndarray:
    """Encode unit vectors.

    Args:
        descriptors: float32 (..., D).
        codec: the type that components are stored in.

    Returns:
        The same shape, of that type.
    """
    if codec != "int8":
        return descriptors.astype(codec)
    return _in_steps(descriptors * np.float32(STEPS)).astype(np.int8)


def _in_steps(values: FloatArray) -> FloatArray:
    """Vectors (..., D) in whole steps, of the length that they had: of some stretches by a few
    thousandths that which keeps it best once it is rounded. Whole steps stay what they are."""
    best = _rounded(values)
    changed = (best != values).any(axis=-1)
    vectors = values[changed]
    lengths = np.linalg.norm(vectors, axis=-1)
    least = np.full(lengths.shape, np.inf, np.float32)
    rounded = best[changed]
    for stretch in _STRETCHES:
        steps = _rounded(vectors * stretch)
        deviations = np.abs(np.linalg.norm(steps, axis=-1) - lengths)
        is_better = deviations < least
        least[is_better], rounded[is_better] = deviations[is_better], steps[is_better]
    best[changed] = rounded
    return best


def _rounded(values: FloatArray) -> FloatArray:
    return np.rint(values).clip(-_LARGEST, _LARGEST)


def decode_global(encoded: np.ndarray) -> FloatArray:
    """What :func:`encode_global` kept, float32; encoding it again gives the same bytes."""
    values = np.asarray(encoded, np.float32)
    return values / np.float32(STEPS) if encoded.dtype == np.int8 else values

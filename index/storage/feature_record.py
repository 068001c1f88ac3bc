"""A local feature as a record of bytes: code, keypoint, scale, score.

    code      m bytes, see :mod:`index.storage.product_quantizer`
    keypoint  3 bytes: x and y, 12 bits each, in 4096ths of the photo's width and height
    scale     1 byte: a sixteenth of an octave, from 2⁻⁸
    score     1 byte: an eighth of an octave, from 2⁻¹⁶

Encoding what was decoded gives the same bytes.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from delg.compiled import compiled
from delg.types import FloatArray, LocalFeatures
from index.storage.product_quantizer import ProductQuantizer

# Bytes of a record after the code.
EXTRA_BYTES = 5
_KEYPOINT_STEPS = 4096
# Steps per octave, and the byte that stands for 1; the byte 0 stands for the value 0.
_SCALE, _SCORE = (16, 128), (8, 128)

Records = NDArray[np.uint8]
Size = tuple[int, int]


def encode_records(features: LocalFeatures, size: Size, quantizer: ProductQuantizer) -> Records:
    """Features of one photo as uint8 (N, m + 5).

    Args:
        features: keypoints outside the photo move to its border.
        size: width and height of the photo, pixels.
        quantizer: gives the codes of m bytes.
    """
    records = np.empty((len(features), quantizer.code_bytes + EXTRA_BYTES), np.uint8)
    records[:, :-EXTRA_BYTES] = quantizer.encode(features.descriptors)
    steps = (features.keypoints.astype(np.float64) + 0.5) * (_KEYPOINT_STEPS / np.array(size))
    x, y = np.clip(np.floor(steps), 0, _KEYPOINT_STEPS - 1).astype(np.uint16).T
    records[:, -5] = x >> 4
    records[:, -4] = (x & 15) << 4 | y >> 8
    records[:, -3] = y & 255
    records[:, -2] = _to_byte(features.scales, *_SCALE)
    records[:, -1] = _to_byte(features.scores, *_SCORE)
    return records


def decode_records(records: Records, size: Size, quantizer: ProductQuantizer) -> LocalFeatures:
    """The features, about as they were encoded; see :func:`encode_records`."""
    return LocalFeatures(
        keypoints=decode_keypoints(records, size),
        descriptors=quantizer.reconstruct(records[:, :-EXTRA_BYTES]),
        scales=decode_scales(records),
        scores=decode_scores(records),
    )


def decode_keypoints(records: Records, size: Size) -> FloatArray:
    """The keypoints, float32 (N, 2), (x, y), pixels of a photo of that (width, height)."""
    return _decode_keypoints(records, *size)


def decode_scales(records: Records) -> FloatArray:
    """The scales, float32 (N,)."""
    return _from_byte(records[:, -2], *_SCALE)


def decode_scores(records: Records) -> FloatArray:
    """The scores, float32 (N,)."""
    return _from_byte(records[:, -1], *_SCORE)


def invert_record_scales(records: Records) -> Records:
    """A copy of the records with 1 / scale for each scale; 0 stays 0."""
    inverted = records.copy()
    # Octaves count from the middle of the byte's range, so that its negative modulo 256 is exact.
    inverted[:, -2] = np.negative(records[:, -2])
    return inverted


@compiled
def _decode_keypoints(records: Records, width: int, height: int) -> FloatArray:
    keypoints = np.empty((len(records), 2), np.float32)
    first = records.shape[1] - EXTRA_BYTES
    for number in range(len(records)):
        # As wide integers: a byte shifted left by four bits would lose them.
        high, middle = np.int64(records[number, first]), np.int64(records[number, first + 1])
        x, y = high << 4 | middle >> 4, (middle & 15) << 8 | records[number, first + 2]
        keypoints[number, 0] = (x + 0.5) * (width / _KEYPOINT_STEPS) - 0.5
        keypoints[number, 1] = (y + 0.5) * (height / _KEYPOINT_STEPS) - 0.5
    return keypoints


def _to_byte(values: FloatArray, steps: int, byte_of_1: int) -> NDArray[np.uint8]:
    with np.errstate(divide="ignore"):
        octaves = np.log2(np.maximum(values, 0).astype(np.float64))
    return np.clip(np.rint(octaves * steps) + byte_of_1, 0, 255).astype(np.uint8)


def _from_byte(values: NDArray[np.uint8], steps: int, byte_of_1: int) -> FloatArray:
    return _table(steps, byte_of_1)[values]


@cache
def _table(steps: int, byte_of_1: int) -> FloatArray:
    """The value of each byte, float32 (256,)."""
    octaves = (np.arange(256) - byte_of_1) / steps
    return np.where(np.arange(256) == 0, 0, np.exp2(octaves)).astype(np.float32)

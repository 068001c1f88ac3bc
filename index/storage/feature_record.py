"""A local feature as a record of bytes: code, place, scale, score.

    code    m bytes, see :mod:`index.storage.product_quantizer`
    place   3 bytes: x and y, 12 bits each, in 4096ths of the photo's width and height
    scale   1 byte: a sixteenth of an octave, from 2⁻⁸
    score   1 byte: an eighth of an octave, from 2⁻¹⁶

Packing what was unpacked gives the same bytes.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from delg.compiled import compiled
from delg.types import FloatArray, LocalFeatures
from index.storage.product_quantizer import ProductQuantizer

# Bytes besides the code.
EXTRA = 5
_STEPS = 4096
# Steps an octave, and the byte that stands for 1; the byte 0 stands for nothing at all.
_SCALE, _SCORE = (16, 128), (8, 128)

Records = NDArray[np.uint8]
Size = tuple[int, int]


def encode_records(features: LocalFeatures, size: Size, quantizer: ProductQuantizer) -> Records:
    """Features of a photo of that (width, height) as uint8 (N, m + 5); places stay inside it."""
    records = np.empty((len(features), quantizer.code_bytes + EXTRA), np.uint8)
    records[:, :-EXTRA] = quantizer.encode(features.descriptors)
    steps = (features.keypoints.astype(np.float64) + 0.5) * (_STEPS / np.array(size))
    x, y = np.clip(np.floor(steps), 0, _STEPS - 1).astype(np.uint16).T
    records[:, -5] = x >> 4
    records[:, -4] = (x & 15) << 4 | y >> 8
    records[:, -3] = y & 255
    records[:, -2] = _to_byte(features.scales, *_SCALE)
    records[:, -1] = _to_byte(features.scores, *_SCORE)
    return records


def keypoints(records: Records, size: Size) -> FloatArray:
    """The places (N, 2), (x, y), pixels of a photo of that (width, height)."""
    return _keypoints(records, *size)


def scales(records: Records) -> FloatArray:
    """The scales (N,)."""
    return _from_byte(records[:, -2], *_SCALE)


def decode_records(records: Records, size: Size, quantizer: ProductQuantizer) -> LocalFeatures:
    """The features, about as they were packed."""
    return LocalFeatures(
        keypoints=keypoints(records, size),
        descriptors=quantizer.reconstruct(records[:, :-EXTRA]),
        scales=scales(records),
        scores=_from_byte(records[:, -1], *_SCORE),
    )


@compiled
def _keypoints(records: Records, width: int, height: int) -> FloatArray:
    places = np.empty((len(records), 2), np.float32)
    first = records.shape[1] - EXTRA
    for number in range(len(records)):
        # As wide integers: a byte moved up by four places would lose them.
        high, middle = np.int64(records[number, first]), np.int64(records[number, first + 1])
        x, y = high << 4 | middle >> 4, (middle & 15) << 8 | records[number, first + 2]
        places[number, 0] = (x + 0.5) * (width / _STEPS) - 0.5
        places[number, 1] = (y + 0.5) * (height / _STEPS) - 0.5
    return places


def _to_byte(values: FloatArray, steps: int, one: int) -> NDArray[np.uint8]:
    with np.errstate(divide="ignore"):
        octaves = np.log2(np.maximum(values, 0).astype(np.float64))
    return np.clip(np.rint(octaves * steps) + one, 0, 255).astype(np.uint8)


def _from_byte(values: NDArray[np.uint8], steps: int, one: int) -> FloatArray:
    return _table(steps, one)[values]


@cache
def _table(steps: int, one: int) -> FloatArray:
    """What each byte stands for."""
    octaves = (np.arange(256) - one) / steps
    return np.where(np.arange(256) == 0, 0, np.exp2(octaves)).astype(np.float32)

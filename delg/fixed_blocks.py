"""An inverted residual block in fixed point, in one pass: expand, depthwise, project.

Its wide map is never whole: rows of it are float32 in the cache, as many as the depthwise kernel
looks at (Sandler et al., MobileNetV2, arXiv 1801.04381, section 5, says why it may).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from delg.compiled import compiled
from delg.fixed_kernels import (
    SUMS,
    VECTOR,
    by_channel_1,
    by_channel_2,
    by_channel_3,
    clip_1,
    clip_2,
    clip_3,
    finish,
)
from delg.fixed_point import Factors, add_products, keep
from delg.values import FloatArray

# Wide numbers lie between 0 and this (ReLU6).
_SIX = np.float32(6)
# What a narrow number may not be below and above.
_LOWEST, _HIGHEST = np.finfo(np.float32).min, np.finfo(np.float32).max


class BlockFactors(NamedTuple):
    """Weights of a block as the loop reads them.

    Attributes:
        expand: of no panels where the block does not expand.
        taps: of the depthwise convolution, float32 (panels, size * size, 16 v), panels as of
            ``expand``.
        bias: float32 (panels * 16 v,).
        project: its inputs are never negative.
    """

    expand: Factors
    taps: FloatArray
    bias: FloatArray
    project: Factors


@compiled
def _clip(vectors: int, tile: int, units: int, bias: int) -> None:
    zero = np.float32(0)
    if vectors == 3:
        clip_3(tile, units, bias, zero, _SIX)
    elif vectors == 2:
        clip_2(tile, units, bias, zero, _SIX)
    else:
        clip_1(tile, units, bias, zero, _SIX)


@compiled
def _by_channel(
    vectors: int, rows: int, at: int, size: int, apart: int, w: int, out: int, wide: int
) -> None:
    if vectors == 3:
        by_channel_3(rows, at, size, apart, w, out, wide)
    elif vectors == 2:
        by_channel_2(rows, at, size, apart, w, out, wide)
    else:
        by_channel_1(rows, at, size, apart, w, out, wide)


@compiled
def _expand(pixels: Any, scales: Any, p: int, width: int, factors: Any, row: Any, at: int) -> None:
    """The row of the input that begins at pixel ``p``, to float32 (panels, columns, 16 v) from
    column ``at`` on; the columns before are 0, those behind become so."""
    channels, chunk = pixels.shape[1], factors.chunk
    panels, columns, panel_wide = row.shape
    vectors, inputs = panel_wide // VECTOR, 2 * factors.weights.shape[1]
    at_pixels, at_scales = pixels.ctypes.data, scales.ctypes.data
    at_units, at_bias = factors.units.ctypes.data, factors.bias.ctypes.data
    for panel in range(panels):
        to = row.ctypes.data + 4 * panel_wide * (panel * columns + at)
        offset = 4 * panel_wide * panel
        for x in range(p, p + width, SUMS // vectors):
            at_weights = factors.weights[panel].ctypes.data
            for channel in range(0, inputs, chunk):
                add_products(
                    vectors, at_pixels + 2 * (x * channels + channel), 2 * channels, at_weights,
                    chunk // 2, at_scales + 4 * x, to, 4 * panel_wide, channel,
                )  # fmt: skip
                at_weights += 2 * chunk * panel_wide
            _clip(vectors, to, at_units + offset, at_bias + offset)
            to += 4 * VECTOR * SUMS
        row[panel, at + width :] = 0


@compiled
def _widen(pixels: Any, scales: Any, p: int, width: int, row: Any, at: int) -> None:
    """As :func:`_expand`, where a block does not: the numbers themselves."""
    panels, _, panel_wide = row.shape
    for panel in range(panels):
        low = panel * panel_wide
        for x in range(width):
            for c in range(min(panel_wide, pixels.shape[1] - low)):
                row[panel, at + x, c] = np.float32(pixels[p + x, low + c]) * scales[p + x]


@compiled
def inverted_residual(
    pixels: Any,
    scales: Any,
    height: int,
    width: int,
    margin: int,
    factors: Any,
    size: int,
    stride: int,
    before: int,
    residual: bool,
    out: Any,
    out_scales: Any,
    out_width: int,
    out_margin: int,
    first: int,
    last: int,
) -> None:
    """Rows ``first`` to ``last`` of a block.

    Args:
        pixels, scales: the input, as in :class:`delg.fixed_point.FixedMap`; ``height``, ``width``
            and ``margin`` too.
        factors: :class:`BlockFactors`.
        size, stride, before: of the depthwise convolution; ``before`` are the zeros it sees above
            and left of the map.
        residual: whether the input is added to the output.
        out, out_scales, out_width, out_margin: of the output's map.
    """
    expand, taps, project = factors.expand, factors.taps, factors.project
    panels, _, panel_wide = taps.shape
    vectors, wide = panel_wide // VECTOR, panels * panel_wide
    # Tiles write behind the last pixel, and look at what is there.
    columns = before + width + size + (stride + 1) * SUMS
    rows = np.zeros((size, panels, columns, panel_wide), np.float32)
    held = np.full(size, -size)
    addresses = np.empty(size, np.int64)
    sums = np.empty((out_width + SUMS, wide), np.float32)
    middle = np.zeros((out_width + SUMS, wide), np.int16)
    middle_scales = np.zeros(out_width + SUMS, np.float32)
    ones = np.ones(wide, np.float32)
    out_panels, out_panel = project.weights.shape[0], project.weights.shape[2]
    out_vectors, out_wide = out_panel // VECTOR, out_panels * out_panel
    inputs, chunk, lowest = 2 * project.weights.shape[1], project.chunk, np.float32(_LOWEST)
    narrow = np.empty((SUMS, out_wide), np.float32)
    tile = SUMS // out_vectors
    for y in range(first, last):
        for down in range(size):
            r = stride * y - before + down
            slot = (r + size) % size
            if held[slot] != r:
                held[slot] = r
                if r < 0 or r >= height:
                    rows[slot] = 0
                elif expand.weights.shape[0]:
                    p = margin + r * (width + 1)
                    _expand(pixels, scales, p, width, expand, rows[slot], before)
                else:
                    _widen(pixels, scales, margin + r * (width + 1), width, rows[slot], before)
            addresses[down] = rows[slot].ctypes.data
        for panel in range(panels):
            for x in range(0, out_width, SUMS // vectors):
                _by_channel(
                    vectors, addresses.ctypes.data,
                    4 * panel_wide * (panel * columns + stride * x), size,
                    4 * panel_wide * stride, taps[panel].ctypes.data,
                    sums.ctypes.data + 4 * (x * wide + panel * panel_wide), 4 * wide,
                )  # fmt: skip
        for x in range(out_width):
            row, bias = sums.ctypes.data + 4 * wide * x, factors.bias.ctypes.data
            zero = np.float32(0)
            largest = finish(row, ones.ctypes.data, bias, 0, zero, zero, _SIX, wide // VECTOR)
            keep(row, largest, middle, middle_scales, x)
        for x in range(0, out_width, tile):
            for panel in range(out_panels):
                at_weights = project.weights[panel].ctypes.data
                to = narrow.ctypes.data + 4 * panel * out_panel
                for channel in range(0, inputs, chunk):
                    add_products(
                        out_vectors, middle.ctypes.data + 2 * (x * wide + channel), 2 * wide,
                        at_weights, chunk // 2, middle_scales.ctypes.data + 4 * x, to,
                        4 * out_wide, channel,
                    )  # fmt: skip
                    at_weights += 2 * chunk * out_panel
            for r in range(min(tile, out_width - x)):
                p = out_margin + y * (out_width + 1) + x + r
                more, scale = 0, lowest
                if residual:
                    more, scale = pixels.ctypes.data + 2 * p * pixels.shape[1], scales[p]
                row = narrow.ctypes.data + 4 * out_wide * r
                largest = finish(
                    row, project.units.ctypes.data, project.bias.ctypes.data, more, scale, lowest,
                    np.float32(_HIGHEST), out.shape[1] // VECTOR,
                )  # fmt: skip
                keep(row, largest, out, out_scales, p)
        out_scales[out_margin + y * (out_width + 1) + out_width] = 0

"""An inverted residual block in fixed point, in one pass: expand, depthwise, project.

Its wide map is never whole: rows of it are float32 in the cache, as many as the depthwise kernel
looks at (Sandler et al., MobileNetV2, arXiv 1801.04381, section 5, says why it may).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from delg.compiled import compiled
from delg.fixed_kernels import (
    DEPTHWISE_SUMS,
    HIGHEST,
    SUMS,
    VECTOR,
    clip,
    depthwise_3,
    depthwise_3_by_2,
    depthwise_5,
    depthwise_5_by_2,
    finish,
)
from delg.fixed_point import Factors, add_products, floats, keep
from delg.values import FloatArray

# Pixels that are projected together, at least.
_TOGETHER = 48
# Columns of zeros a kernel may see behind a map.
_MOST_BEHIND = 4
# Wide numbers lie between 0 and this (ReLU6).
SIX = np.float32(6)
# What a narrow number may not be below and above.
_LOWEST, _HIGHEST = np.finfo(np.float32).min, np.finfo(np.float32).max


class BlockFactors(NamedTuple):
    """Weights of a block as the loop reads them.

    Attributes:
        expand: 1×1; or, in the first block, what the stem does.
        taps: of the depthwise convolution, float32 (wide / 16, size * size, 16).
        bias: float32 (wide,).
        project: 1×1, of inputs that are never negative.
    """

    expand: Factors
    taps: FloatArray
    bias: FloatArray
    project: Factors


@compiled
def _depthwise(
    size: int, stride: int, rows: int, at: int, w: int, bias: int, out: int, wide: int, tiles: int
) -> None:
    if size == 3 and stride == 1:
        depthwise_3(rows, at, w, bias, SIX, out, wide, tiles)
    elif size == 3:
        depthwise_3_by_2(rows, at, w, bias, SIX, out, wide, tiles)
    elif stride == 1:
        depthwise_5(rows, at, w, bias, SIX, out, wide, tiles)
    else:
        depthwise_5_by_2(rows, at, w, bias, SIX, out, wide, tiles)


@compiled
def _clip_panel(vectors: int, row: int, across: int, units: int, bias: int, width: int) -> None:
    for v in range(vectors):
        at = 4 * VECTOR * v
        clip(row + across * v, units + at, bias + at, np.float32(0), SIX, width)


@compiled
def _expand(pixels: Any, scales: Any, p: int, width: int, factors: Any, row: Any, at: int) -> None:
    """The row of the input that begins at pixel ``p``, to float32 (wide / 16, columns, 16) from
    column ``at`` on; the columns behind become 0."""
    channels, chunk, panel_wide = pixels.shape[1], factors.chunk, factors.weights.shape[2]
    vectors, inputs = panel_wide // VECTOR, 2 * factors.weights.shape[1]
    at_pixels, at_scales = pixels.ctypes.data, scales.ctypes.data
    at_units, at_bias = factors.units.ctypes.data, factors.bias.ctypes.data
    first_weights, first_to = factors.weights.ctypes.data, row.ctypes.data + 4 * VECTOR * at
    across = row.strides[0]
    tiles = -(-width // (SUMS // vectors))
    for panel in range(factors.weights.shape[0]):
        to, offset = first_to + across * vectors * panel, 4 * panel_wide * panel
        at_weights = first_weights + factors.weights.strides[0] * panel
        for channel in range(0, inputs, chunk):
            add_products(
                vectors, at_pixels + 2 * (p * channels + channel), 2 * channels, at_weights,
                chunk // 2, at_scales + 4 * p, 4, to, 4 * VECTOR, across, channel, tiles,
            )  # fmt: skip
            at_weights += 2 * chunk * panel_wide
        _clip_panel(vectors, to, across, at_units + offset, at_bias + offset, width)
    row[:, at + width : at + width + _MOST_BEHIND] = 0


@compiled
def _expand_image(
    image: Any, unit: Any, y: int, width: int, factors: Any, row: Any, at: int
) -> None:
    """As :func:`_expand`, row ``y`` of the stem; see :func:`delg.fixed_point.convolve_image`."""
    pairs, panel_wide = factors.chunk // 2, factors.weights.shape[2]
    vectors, kernel_rows = panel_wide // VECTOR, factors.weights.shape[1] // pairs
    at_image, at_unit = image.ctypes.data + image.strides[0] * 2 * y, unit.ctypes.data
    at_units, at_bias = factors.units.ctypes.data, factors.bias.ctypes.data
    first_weights, first_to = factors.weights.ctypes.data, row.ctypes.data + 4 * VECTOR * at
    across, apart = row.strides[0], 2 * image.strides[1]
    tiles = -(-width // (SUMS // vectors))
    for panel in range(factors.weights.shape[0]):
        to, offset = first_to + across * vectors * panel, 4 * panel_wide * panel
        at_weights = first_weights + factors.weights.strides[0] * panel
        for k in range(kernel_rows):
            add_products(
                vectors, at_image + image.strides[0] * k, apart, at_weights, pairs, at_unit, 0, to,
                4 * VECTOR, across, k, tiles,
            )  # fmt: skip
            at_weights += 4 * pairs * panel_wide
        _clip_panel(vectors, to, across, at_units + offset, at_bias + offset, width)
    row[:, at + width : at + width + _MOST_BEHIND] = 0


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
            and ``margin`` too. For the first block an image and its unit, as for
            :func:`delg.fixed_point.convolve_image`, and the size of the map the stem makes of it.
        factors: :class:`BlockFactors`.
        size, stride, before: of the depthwise convolution; ``before`` are the zeros it sees above
            and left of the map.
        residual: whether the input is added to the output.
        out, out_scales, out_width, out_margin: of the output's map.
    """
    taps, project = factors.taps, factors.project
    across, wide = taps.shape[0], taps.shape[0] * VECTOR
    # Tiles write and look behind the last pixel.
    columns = max(before + width, stride * out_width) + size + (stride + 1) * SUMS
    rows = floats(size * across * columns * VECTOR).reshape((size, across, columns, VECTOR))
    # What the kernel may see beside the map; what lies further is of no matter.
    rows[:, :, :before] = 0
    held = np.full(size, -size)
    addresses = np.empty(size, np.int64)
    # Rows that are projected together, so that few tiles are left empty.
    together = min(last - first, -(-_TOGETHER // out_width))
    middle = floats((together * out_width + SUMS) * wide // 2)
    scale = np.full(1, SIX / np.float32(HIGHEST))
    out_panels, out_panel = project.weights.shape[0], project.weights.shape[2]
    out_vectors, out_wide = out_panel // VECTOR, out_panels * out_panel
    inputs, chunk, lowest = 2 * project.weights.shape[1], project.chunk, np.float32(_LOWEST)
    narrow = floats((together * out_width + SUMS) * out_wide)
    out_channels = out.shape[1]
    at_pixels, at_out = pixels.ctypes.data, out.ctypes.data
    at_taps, at_bias = taps.ctypes.data, factors.bias.ctypes.data
    first_weights, at_scale = project.weights.ctypes.data, scale.ctypes.data
    at_units, at_offsets = project.units.ctypes.data, project.bias.ctypes.data
    at_addresses, at_middle, at_narrow = (
        addresses.ctypes.data,
        middle.ctypes.data,
        narrow.ctypes.data,
    )
    for start in range(first, last, together):
        end = min(start + together, last)
        for y in range(start, end):
            for down in range(size):
                r = stride * y - before + down
                slot = (r + size) % size
                if held[slot] != r:
                    held[slot] = r
                    if r < 0 or r >= height:
                        rows[slot] = 0
                    elif pixels.ndim == 3:
                        _expand_image(pixels, scales, r, width, factors.expand, rows[slot], before)
                    else:
                        p = margin + r * (width + 1)
                        _expand(pixels, scales, p, width, factors.expand, rows[slot], before)
                addresses[down] = rows.ctypes.data + rows.strides[0] * slot
            at_row = at_middle + 2 * (y - start) * out_width * wide
            for v in range(across):
                _depthwise(
                    size, stride, at_addresses, rows.strides[1] * v, at_taps + taps.strides[0] * v,
                    at_bias + 4 * VECTOR * v, at_row + 2 * VECTOR * v, 2 * wide,
                    -(-out_width // DEPTHWISE_SUMS),
                )  # fmt: skip
        count = (end - start) * out_width
        for panel in range(out_panels):
            at_weights = first_weights + project.weights.strides[0] * panel
            for channel in range(0, inputs, chunk):
                add_products(
                    out_vectors, at_middle + 2 * channel, 2 * wide, at_weights, chunk // 2,
                    at_scale, 0, at_narrow + 4 * panel * out_panel, 4 * out_wide, 4 * VECTOR,
                    channel, -(-count // (SUMS // out_vectors)),
                )  # fmt: skip
                at_weights += 2 * chunk * out_panel
        row = at_narrow
        for y in range(start, end):
            p = out_margin + y * (out_width + 1)
            for _ in range(out_width):
                more, more_scale = 0, lowest
                if pixels.ndim == 2 and residual:
                    more, more_scale = at_pixels + 2 * p * pixels.shape[1], scales[p]
                largest = finish(
                    row, at_units, at_offsets, more, more_scale, lowest, np.float32(_HIGHEST),
                    out_channels // VECTOR,
                )  # fmt: skip
                out_scales[p] = keep(row, largest, at_out + 2 * p * out_channels, out_channels)
                row += 4 * out_wide
                p += 1
            out_scales[p] = 0
    # Until here, as Numba frees what is not named any more.
    rows[0, 0, 0, 0] = scale[0] = middle[0] = narrow[0] = addresses[0] = 0

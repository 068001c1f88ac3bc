"""An inverted residual block in fixed point, in one pass: expand, depthwise, project.

Its wide map is never whole: rows of it are float32 in the cache, as many as the depthwise kernel
looks at (Sandler et al., MobileNetV2, arXiv 1801.04381, section 5, says why it may).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from delg.compiled import compiled
from delg.inference.fixed_kernels import (
    DEPTHWISE_SUMS,
    HIGHEST,
    SUMS,
    VECTOR,
    clear,
    clip,
    depthwise_3,
    depthwise_3_by_2,
    depthwise_5,
    depthwise_5_by_2,
)
from delg.inference.fixed_point import LEAST, MOST, Factors, add_products, filled, finish, floats
from delg.types import FloatArray

# Pixels that are projected together, at least.
_TOGETHER = 48
# Wide numbers lie between 0 and this (ReLU6); behind the depthwise convolution it is ``HIGHEST``.
SIX = np.float32(6)
UNIT = SIX / np.float32(HIGHEST)


class BlockFactors(NamedTuple):
    """Weights of a block as the loop reads them.

    Attributes:
        expand: 1×1; or, in the first block, what the stem does.
        taps: of the depthwise convolution, in ``UNIT``, float32 (wide / 16, size * size, 16).
        bias: float32 (wide,), in ``UNIT``.
        project: 1×1, of inputs that are never negative.
    """

    expand: Factors
    taps: FloatArray
    bias: FloatArray
    project: Factors


class Source(NamedTuple):
    """What a block expands: a map, or an image by way of the stem.

    Attributes:
        numbers: int16, of two dimensions.
        scales: float32, of one.
        height, width: of the map that is expanded, or that the stem makes of the image.
        start, row, chunk, pixel: where its numbers lie: the first, and how far the next row, the
            next chunk (of channels, or row of the stem's kernel) and the next pixel are.
        scales_start, scales_row, scales_pixel: the same of the scales.
    """

    numbers: NDArray[np.int16]
    scales: FloatArray
    height: int
    width: int
    start: int
    row: int
    chunk: int
    pixel: int
    scales_start: int = 0
    scales_row: int = 0
    scales_pixel: int = 0


@compiled
def _depthwise(
    size: int, stride: int, rows: int, at: int, w: int, bias: int, out: int, wide: int, tiles: int
) -> None:
    if size == 3 and stride == 1:
        depthwise_3(rows, at, w, bias, out, wide, tiles)
    elif size == 3:
        depthwise_3_by_2(rows, at, w, bias, out, wide, tiles)
    elif stride == 1:
        depthwise_5(rows, at, w, bias, out, wide, tiles)
    else:
        depthwise_5_by_2(rows, at, w, bias, out, wide, tiles)


@compiled
def _expand(
    vectors: int,
    a: int,
    between: int,
    apart: int,
    w: int,
    chunks: int,
    pairs: int,
    scales: int,
    scales_apart: int,
    units: int,
    bias: int,
    to: int,
    across: int,
    width: int,
    after: int,
) -> None:
    """One panel of one row of the wide map, with ``after`` columns of 0 right of it.

    Addresses and counts, as no arrays are counted where threads share them: ``between`` are the
    bytes from chunk to chunk of the input; all else as in
    :func:`delg.inference.fixed_point.add_products`."""
    tiles = -(-width // (SUMS // vectors))
    for chunk in range(chunks):
        add_products(
            vectors, a + between * chunk, apart, w + 4 * VECTOR * vectors * pairs * chunk, pairs,
            scales, scales_apart, to, 4 * VECTOR, across, chunk, tiles,
        )  # fmt: skip
    for v in range(vectors):
        row, offset = to + across * v, 4 * VECTOR * v
        clip(row, units + offset, bias + offset, np.float32(0), SIX, width)
        clear(row + 4 * VECTOR * width, after)


@compiled
def inverted_residual(
    source: Any,
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
        source: :class:`Source`, what is expanded.
        factors: :class:`BlockFactors`.
        size, stride, before: of the depthwise convolution; ``before`` are the zeros it sees above
            and left of the map.
        residual: whether the input is added to the output.
        out, out_scales, out_width, out_margin: of the output's map.
    """
    expand, taps, project = factors.expand, factors.taps, factors.project
    height, width = source.height, source.width
    across, wide, vectors = taps.shape[0], taps.shape[0] * VECTOR, expand.weights.shape[2] // VECTOR
    # Rows of the output that are made together: weights are read once for all, and few tiles are
    # left empty.
    together = max(1, min(last - first, -(-_TOGETHER // out_width)))
    after = size - 1 - before
    held = size + stride * (together - 1)
    # Tiles write behind the last pixel; they look further, but at what is of no matter.
    columns = before + filled(width, SUMS // vectors) + after
    looked_at = stride * (DEPTHWISE_SUMS + size) * VECTOR
    rows = floats(across * held * columns * VECTOR + looked_at)[:-looked_at].reshape(
        (across, held, columns, VECTOR)
    )
    # What the kernel sees left of the map.
    rows[:, :, :before] = 0
    addresses = np.empty((together, size), np.int64)
    middle = floats((together * out_width + SUMS) * wide // 2)
    scale = np.full(1, UNIT)
    out_panels, out_panel = project.weights.shape[0], project.weights.shape[2]
    out_vectors, out_wide = out_panel // VECTOR, out_panels * out_panel
    inputs, chunk = 2 * project.weights.shape[1], project.chunk
    narrow = floats((together * out_width + SUMS) * out_wide)
    at_numbers = source.numbers.ctypes.data + 2 * source.start
    at_scales = source.scales.ctypes.data + 4 * source.scales_start
    at_units, at_offsets = expand.units.ctypes.data, expand.bias.ctypes.data
    expand_weights, pairs = expand.weights.ctypes.data, expand.chunk // 2
    at_rows, at_addresses = rows.ctypes.data, addresses.ctypes.data
    at_taps, at_bias = taps.ctypes.data, factors.bias.ctypes.data
    at_middle, at_narrow, at_scale = middle.ctypes.data, narrow.ctypes.data, scale.ctypes.data
    at_project_units, at_project_bias = project.units.ctypes.data, project.bias.ctypes.data
    at_out, at_out_scales = out.ctypes.data, out_scales.ctypes.data
    begin = stride * first - before
    for start in range(first, last, together):
        end = min(start + together, last)
        behind = stride * (end - 1) - before + size
        for y in range(start, end):
            for down in range(size):
                slot = (stride * y - before + down + held) % held
                addresses[y - start, down] = at_rows + rows.strides[1] * slot
        for panel in range(across // vectors):
            offset = 4 * VECTOR * vectors * panel
            for r in range(begin, behind):
                to = at_rows + rows.strides[1] * ((r + held) % held)
                to += rows.strides[0] * vectors * panel + 4 * VECTOR * before
                if r < 0 or r >= height:
                    for v in range(vectors):
                        clear(to + rows.strides[0] * v, width + after)
                else:
                    _expand(
                        vectors, at_numbers + 2 * source.row * r, 2 * source.chunk,
                        2 * source.pixel, expand_weights + expand.weights.strides[0] * panel,
                        expand.weights.shape[1] // pairs, pairs,
                        at_scales + 4 * source.scales_row * r, 4 * source.scales_pixel,
                        at_units + offset, at_offsets + offset, to, rows.strides[0], width, after,
                    )  # fmt: skip
            for v in range(panel * vectors, (panel + 1) * vectors):
                for y in range(end - start):
                    _depthwise(
                        size, stride, at_addresses + addresses.strides[0] * y, rows.strides[0] * v,
                        at_taps + taps.strides[0] * v, at_bias + 4 * VECTOR * v,
                        at_middle + 2 * (y * out_width * wide + VECTOR * v), 2 * wide,
                        -(-out_width // DEPTHWISE_SUMS),
                    )  # fmt: skip
        begin = behind
        tiles = -(-(end - start) * out_width // (SUMS // out_vectors))
        for panel in range(out_panels):
            at_weights = project.weights.ctypes.data + project.weights.strides[0] * panel
            for channel in range(0, inputs, chunk):
                add_products(
                    out_vectors, at_middle + 2 * channel, 2 * wide, at_weights, chunk // 2,
                    at_scale, 0, at_narrow + 4 * panel * out_panel, 4 * out_wide, 4 * VECTOR,
                    channel, tiles,
                )  # fmt: skip
                at_weights += 2 * chunk * out_panel
        for y in range(start, end):
            p = out_margin + y * (out_width + 1)
            finish(
                at_narrow + 4 * out_wide * out_width * (y - start), 4 * out_wide,
                at_project_units, at_project_bias,
                at_numbers + 2 * source.row * y if residual else 0, 2 * source.pixel,
                at_scales + 4 * source.scales_row * y, LEAST, MOST,
                at_out + out.strides[0] * p, out.strides[0], at_out_scales + 4 * p,
                out.shape[1] // VECTOR, out_width,
            )  # fmt: skip
            out_scales[p + out_width] = 0
    # Until here, as Numba frees what is not named any more.
    rows[0, 0, 0, 0] = scale[0] = middle[0] = narrow[0] = addresses[0, 0] = 0

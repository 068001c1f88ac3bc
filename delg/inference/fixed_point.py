"""Convolutions in 16-bit fixed point, for processors that multiply pairs of 16-bit numbers.

AVX-512 VNNI adds 32 products of 16-bit numbers in the time of 16 in float32. Every pixel of a map
has a scale of its own, every output channel too; products of 64 channels are added up exactly in
32 bits, what they come to in float32. A convolution's output is off by 1e-4 of its size.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from delg.compiled import compiled, may_compile
from delg.inference.fixed_kernels import (
    LARGEST,
    SUMS,
    VECTOR,
    finish_1,
    finish_4,
    products_1,
    products_2,
    products_3,
)
from delg.types import FloatArray

# Input channels whose products are added up in 32 bits, at most.
_CHUNK = 64
# Bytes of a line of the cache.
_LINE = 64
# Pixels of a block, which is finished while it is in the cache: whole tiles.
BLOCK = 48
# What an output without an activation may not be below and above.
LEAST, MOST = np.float32(np.finfo(np.float32).min), np.float32(np.finfo(np.float32).max)
# What the stem's input counts in, if it can.
STEM_UNIT = 1 / 64


def supported() -> bool:
    """Whether this processor can do it, and Numba may compile."""
    from llvmlite.binding import get_host_cpu_features

    features, wanted = get_host_cpu_features(), ("avx512bw", "avx512vnni")
    return may_compile() and all(features.get(one) for one in wanted)


class FixedMap:
    """A map of non-negative or signed numbers: ``pixels[p] * scales[p]``.

    Pixels lie row by row, one more in each row; that one, and those of the margins before the first
    row and behind the last, have the scale 0, which pads all convolutions up to 3×3.

    Args:
        height, width, channels: of the map.

    Attributes:
        pixels: int16 (P, channels).
        scales: float32 (P,).
        margin: pixels before the first row.
        step: pixels from row to row.
        count: pixels from the first to the last, the padding between them with them.
    """

    def __init__(self, height: int, width: int, channels: int) -> None:
        self.height, self.width, self.channels = height, width, channels
        self.step = width + 1
        self.margin, self.count = self.step + 1 + BLOCK, height * self.step
        pixels = self.count + 2 * self.margin
        # Of no matter where the scale is 0.
        self.pixels = np.empty((pixels, channels), np.int16)
        self.scales = np.empty(pixels, np.float32)
        self.scales[: self.margin] = self.scales[-self.margin :] = 0

    def _rows(self) -> tuple[NDArray[np.int16], FloatArray]:
        inside = slice(self.margin, self.margin + self.count)
        grid = (self.height, self.step)
        return self.pixels[inside].reshape(*grid, -1), self.scales[inside].reshape(grid)

    def keep_every_second(self, other: FixedMap) -> None:
        """Become every second pixel of every second row of another, twice as high and wide."""
        pixels, scales = self._rows()
        all_pixels, all_scales = other._rows()
        pixels[:, : self.width] = all_pixels[::2, : other.width : 2]
        scales[:, : self.width] = all_scales[::2, : other.width : 2]
        scales[:, self.width] = 0


@compiled
def filled(number: int, by: int) -> int:
    """The next multiple."""
    return -(-number // by) * by


class Factors(NamedTuple):
    """Weights of a convolution as the loops read them.

    Attributes:
        weights: int16 (panels, K / 2, 16 v, 2); a panel is what a tile has of output channels.
        units: what one of them counts in each output, float32, as many as the panels have.
        bias: float32, as many.
        chunk: input channels whose products are added up in 32 bits; K is a multiple of it.
    """

    weights: NDArray[np.int16]
    units: FloatArray
    bias: FloatArray
    chunk: int


def chunk_of(channels: int) -> int:
    """The largest even number of channels that divides them and can be added up in 32 bits."""
    return max(one for one in range(2, _CHUNK + 1, 2) if channels % one == 0)


def panel_vectors(outputs: int) -> int:
    """Registers of output channels a tile takes: so that few are left empty, but the fewer there
    are the more often pixels are loaded."""
    vectors = filled(outputs, VECTOR) // VECTOR
    cost = {3: 1.0, 2: 1.1, 1: 1.75}
    return min(cost, key=lambda one: filled(vectors, one) * cost[one])


def whole_panels(values: FloatArray, vectors: int) -> FloatArray:
    """(…, outputs) with zeros behind, up to whole panels."""
    behind = filled(values.shape[-1], VECTOR * vectors) - values.shape[-1]
    return np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, behind)])


def split_weights(
    kernel: FloatArray,
    bias: FloatArray,
    chunk: int,
    positive: bool = False,
    largest: int = LARGEST,
) -> Factors:
    """Weights as the loops read them. No chunk's sum can leave 32 bits.

    Args:
        kernel: (K, outputs), K the rows of as many chunks as there are, of ``chunk`` (even) each.
        bias: (outputs,).
        positive: whether no input is below zero, which leaves the weights one bit more.
        largest: the largest number the inputs hold.
    """
    inputs, outputs = kernel.shape
    vectors = panel_vectors(outputs)
    chunks = kernel.reshape(-1, chunk, outputs)
    up, down = chunks.clip(min=0).sum(axis=1), -chunks.clip(max=0).sum(axis=1)
    sums = (np.maximum(up, down) if positive else up + down).max(axis=0)
    # A thousandth less, for what rounding adds.
    bound = 0.999 * 2**31 / largest
    unit = np.maximum(np.maximum(sums / bound, np.abs(kernel).max(axis=0) / 32767), 1e-30)
    whole = whole_panels(np.rint(kernel / unit), vectors).astype(np.int16)
    panels = whole.reshape(inputs // 2, 2, -1, VECTOR * vectors).transpose(2, 0, 3, 1)
    units, offset = (aligned(whole_panels(one.astype("f4"), vectors)) for one in (unit, bias))
    return Factors(aligned(panels), units, offset, chunk)


def aligned(values: NDArray[Any]) -> NDArray[Any]:
    """A copy that begins where a line of the cache does, so that no register lies in two."""
    raw = np.empty(values.nbytes + _LINE, np.uint8)
    first = -raw.ctypes.data % _LINE
    copy = raw[first : first + values.nbytes].view(values.dtype).reshape(values.shape)
    copy[...] = values
    return copy


@compiled
def floats(count: int) -> Any:
    """Float32 (count,), not set, from where a line of the cache begins."""
    raw = np.empty(count + VECTOR, np.float32)
    first = (-raw.ctypes.data % _LINE) // 4
    return raw[first : first + count]


@compiled
def add_products(
    vectors: int,
    a: int,
    apart: int,
    w: int,
    pairs: int,
    scales: int,
    scales_apart: int,
    out: int,
    wide: int,
    across: int,
    add: int,
    tiles: int,
) -> None:
    """The products of :mod:`delg.inference.fixed_kernels`, with so many registers of output
    channels."""
    if vectors == 3:
        products_3(a, apart, w, pairs, scales, scales_apart, out, wide, across, add, tiles)
    elif vectors == 2:
        products_2(a, apart, w, pairs, scales, scales_apart, out, wide, across, add, tiles)
    else:
        products_1(a, apart, w, pairs, scales, scales_apart, out, wide, across, add, tiles)


@compiled
def finish(
    row: int,
    wide: int,
    units: int,
    bias: int,
    added: int,
    added_apart: int,
    added_scales: int,
    least: Any,
    most: Any,
    out: int,
    out_apart: int,
    out_scales: int,
    vectors: int,
    pixels: int,
) -> None:
    """What :mod:`delg.inference.fixed_kernels` says, for so many pixels."""
    done = pixels - pixels % 4
    for x in range(0, done, 4):
        more = added + added_apart * x if added else 0
        finish_4(
            row + wide * x, wide, units, bias, more, added_apart, added_scales + 4 * x,
            least, most, out + out_apart * x, out_apart, out_scales + 4 * x, vectors,
        )  # fmt: skip
    for x in range(done, pixels):
        more = added + added_apart * x if added else 0
        finish_1(
            row + wide * x, wide, units, bias, more, added_apart, added_scales + 4 * x,
            least, most, out + out_apart * x, out_apart, out_scales + 4 * x, vectors,
        )  # fmt: skip


@compiled
def convolve(
    pixels: Any,
    scales: Any,
    taps: Any,
    inputs: int,
    factors: Any,
    added: Any,
    added_scales: Any,
    least: Any,
    most: Any,
    out: Any,
    out_scales: Any,
    step: int,
    margin: int,
    count: int,
    first: int,
    last: int,
) -> None:
    """Blocks ``first`` to ``last`` of a convolution of stride 1.

    Args:
        pixels, scales: the input, as in :class:`FixedMap`; ``step``, ``margin`` and ``count`` too.
        taps: int64 (T,), where the kernel looks, in pixels from its middle.
        inputs: channels of the input without those too many.
        factors: :class:`Factors`, K = T * inputs.
        added, added_scales: a map that is added, or one of no channels; it may be the output's own.
        least, most: float32, what no output may be below and above.
        out, out_scales: of the output's map.
    """
    channels, chunk, weights = pixels.shape[1], factors.chunk, factors.weights
    panels, panel_wide = weights.shape[0], weights.shape[2]
    vectors, wide = panel_wide // VECTOR, panels * panel_wide
    rows = floats(BLOCK * wide)
    at_pixels, at_scales = pixels.ctypes.data, scales.ctypes.data
    at_units, at_bias = factors.units.ctypes.data, factors.bias.ctypes.data
    at_rows, first_weights = rows.ctypes.data, weights.ctypes.data
    at_added, at_added_scales = added.ctypes.data, added_scales.ctypes.data
    at_out, at_out_scales = out.ctypes.data, out_scales.ctypes.data
    out_channels, out_vectors = out.shape[1], out.shape[1] // VECTOR
    for block in range(first, last):
        start = margin + block * BLOCK
        there = min(BLOCK, margin + count - start)
        tiles = -(-there // (SUMS // vectors))
        for panel in range(panels):
            at_weights = first_weights + weights.strides[0] * panel
            fresh = 0
            for tap in taps:
                p = start + tap
                for channel in range(0, inputs, chunk):
                    add_products(
                        vectors, at_pixels + 2 * (p * channels + channel), 2 * channels, at_weights,
                        chunk // 2, at_scales + 4 * p, 4, at_rows + 4 * panel * panel_wide,
                        4 * wide, 4 * VECTOR, fresh, tiles,
                    )  # fmt: skip
                    at_weights += 2 * chunk * panel_wide
                    fresh = 1
        apart = 2 * added.shape[1]
        finish(
            at_rows, 4 * wide, at_units, at_bias, at_added + apart * start if apart else 0, apart,
            at_added_scales + 4 * start, least, most, at_out + 2 * out_channels * start,
            2 * out_channels, at_out_scales + 4 * start, out_vectors, there,
        )  # fmt: skip
        for p in range(start, start + there):
            if (p - margin) % step == step - 1:
                out_scales[p] = 0
    # Until here, as Numba frees what is not named any more.
    rows[0] = 0


@compiled
def convolve_image(
    image: Any,
    unit: Any,
    kernel_rows: int,
    factors: Any,
    least: Any,
    most: Any,
    out: Any,
    out_scales: Any,
    width: int,
    margin: int,
    first: int,
    last: int,
) -> None:
    """Rows ``first`` to ``last`` of the first convolution, of stride 2.

    Args:
        image: int16 (h, w, 3), padded; the kernel's top-left pixel for the output (y, x) is
            (2 y, 2 x).
        unit: float32 (1,), what one of the image's numbers counts.
        kernel_rows: of the kernel.
        factors: :class:`Factors`, a chunk for each row of the kernel, which has one number more
            where that makes pairs of them.
        least, most, out, out_scales, margin: as for :func:`convolve`.
        width: of the output.
    """
    weights, pairs = factors.weights, factors.chunk // 2
    panels, panel_wide = weights.shape[0], weights.shape[2]
    vectors, wide = panel_wide // VECTOR, panels * panel_wide
    tiles = -(-width // (SUMS // vectors))
    rows = floats(tiles * SUMS // vectors * wide)
    at_units, at_bias = factors.units.ctypes.data, factors.bias.ctypes.data
    at_image, apart = image.ctypes.data, 2 * image.strides[1]
    at_rows, at_unit, first_weights = rows.ctypes.data, unit.ctypes.data, weights.ctypes.data
    at_out, at_out_scales = out.ctypes.data, out_scales.ctypes.data
    out_channels, out_vectors = out.shape[1], out.shape[1] // VECTOR
    for y in range(first, last):
        for panel in range(panels):
            at_weights = first_weights + weights.strides[0] * panel
            for k in range(kernel_rows):
                add_products(
                    vectors, at_image + image.strides[0] * (2 * y + k), apart, at_weights, pairs,
                    at_unit, 0, at_rows + 4 * panel * panel_wide, 4 * wide, 4 * VECTOR, k, tiles,
                )  # fmt: skip
                at_weights += 4 * pairs * panel_wide
        start = margin + y * (width + 1)
        finish(
            at_rows, 4 * wide, at_units, at_bias, 0, 0, 0, least, most,
            at_out + 2 * out_channels * start, 2 * out_channels, at_out_scales + 4 * start,
            out_vectors, width,
        )  # fmt: skip
        out_scales[start + width] = 0
    # Until here, as Numba frees what is not named any more.
    rows[0] = 0


@compiled
def largest_of_nine(
    pixels: Any,
    scales: Any,
    step: int,
    margin: int,
    out: Any,
    out_scales: Any,
    width: int,
    out_margin: int,
    first: int,
    last: int,
) -> None:
    """Rows ``first`` to ``last`` of the largest of 3×3 pixels, every second; none is negative."""
    channels = pixels.shape[1]
    rows, once, none = floats(width * channels), floats(channels), floats(channels)
    once[:], none[:] = 1, 0
    apart = 2 * channels
    for y in range(first, last):
        start = out_margin + y * (width + 1)
        for x in range(width):
            row = rows[channels * x : channels * (x + 1)]
            row[:] = 0
            for dy in range(-1, 2):
                for dx in range(-1, 2):
                    p = margin + (2 * y + dy) * step + 2 * x + dx
                    pixel, scale = pixels[p], scales[p]
                    for c in range(channels):
                        row[c] = max(row[c], np.float32(pixel[c]) * scale)
        finish(
            rows.ctypes.data, 2 * apart, once.ctypes.data, none.ctypes.data, 0, 0, 0,
            LEAST, MOST, out.ctypes.data + apart * start, apart, out_scales.ctypes.data + 4 * start,
            channels // VECTOR, width,
        )  # fmt: skip
        out_scales[start + width] = 0
    # Until here, as Numba frees what is not named any more.
    rows[0] = once[0] = none[0] = 0


@compiled
def to_floats(
    pixels: Any, scales: Any, step: int, margin: int, out: Any, first: int, last: int
) -> None:
    """Rows ``first`` to ``last`` of the first channels of a map, as float32 (h, w, channels)."""
    for y in range(first, last):
        for x in range(out.shape[1]):
            p = margin + y * step + x
            pixel, scale, made = pixels[p], scales[p], out[y, x]
            for c in range(len(made)):
                made[c] = np.float32(pixel[c]) * scale


@compiled
def generalised_mean(
    pixels: Any,
    scales: Any,
    step: int,
    margin: int,
    height: int,
    width: int,
    power: float,
    epsilon: float,
    out: Any,
) -> None:
    """GeM over the first channels of a map, float32 (channels,); see
    :class:`delg.network.heads.GeM`."""
    channels = len(out)
    peaks, sums = np.full(channels, np.float32(epsilon)), np.zeros(channels, np.float32)
    for y in range(height):
        for x in range(width):
            pixel, scale = pixels[margin + y * step + x], scales[margin + y * step + x]
            for c in range(channels):
                value = np.float32(pixel[c]) * scale
                peaks[c] = value if value > peaks[c] else peaks[c]
    for y in range(height):
        for x in range(width):
            pixel, scale = pixels[margin + y * step + x], scales[margin + y * step + x]
            for c in range(channels):
                value = np.float32(pixel[c]) * scale
                value = (value if value > epsilon else np.float32(epsilon)) / peaks[c]
                # The usual power takes no logarithm.
                sums[c] += value * value * value if power == 3 else value ** np.float32(power)
    for c in range(channels):
        out[c] = peaks[c] * (sums[c] / (height * width)) ** (1 / power)


@compiled
def scale_image(
    image: Any, middle: Any, times: Any, out: Any, top: int, left: int, first: int, last: int
) -> None:
    """Rows ``first`` to ``last`` of uint8 (h, n), less ``middle`` (n,), ``times`` as much, to int16
    from the number ``left`` of row ``top`` on."""
    # Cut off above zero is rounded.
    above = np.float32(LARGEST + 1.5) - middle * times
    for y in range(first, last):
        row, made = image[y], out[top + y, left : left + len(middle)]
        for i in range(len(middle)):
            made[i] = np.int16(np.int32(np.float32(row[i]) * times + above[i]) - (LARGEST + 1))

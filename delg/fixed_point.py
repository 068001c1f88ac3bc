"""Convolutions in 16-bit fixed point, for processors that multiply pairs of 16-bit numbers.

AVX-512 VNNI adds 32 products of 16-bit numbers in the time of 16 in float32. Every pixel of a map
has a scale of its own, every output channel too; products of 64 channels are added up exactly in
32 bits, what they come to in float32. A convolution's output is off by 1e-4 of its size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from delg.compiled import compiled
from delg.values import FloatArray

# The largest number a map holds; with it the bound of a chunk leaves weights as many bits.
LARGEST = 16383
# Input channels whose products are added up in 32 bits.
CHUNK = 64
# Pixels and output channels that the innermost loop keeps in registers: 12 × 2 of 16 numbers.
TILE, PANEL = 12, 32
# Pixels of a block, which is finished while it is in the cache.
BLOCK = 48
# What the stem's input counts in, if it can.
STEM_UNIT = 1 / 64

# Numbers of 32 bits in a register.
VECTOR = 16
_I32, _I64, _F32 = ir.IntType(32), ir.IntType(64), ir.FloatType()
_INTS, _FLOATS = ir.VectorType(_I32, VECTOR), ir.VectorType(_F32, VECTOR)
_SHORTS = ir.VectorType(ir.IntType(16), VECTOR)
_PAIRS = ir.VectorType(ir.IntType(16), 2 * VECTOR)


def supported() -> bool:
    """Whether this processor can do it, and Numba may compile."""
    from llvmlite.binding import get_host_cpu_features
    from numba import config

    features, numba_settings = get_host_cpu_features(), vars(config)
    wanted = ("avx512bw", "avx512vnni")
    return not numba_settings["DISABLE_JIT"] and all(features.get(one) for one in wanted)


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


def filled(number: int, by: int) -> int:
    """The next multiple."""
    return -(-number // by) * by


def split_weights(
    kernel: FloatArray, rows: int, positive: bool = False
) -> tuple[NDArray[np.int16], FloatArray]:
    """Weights as the loops read them.

    Args:
        kernel: (K, outputs), K the rows of as many chunks as there are, ``rows`` (even) each.
        positive: whether no input is below zero, which leaves the weights one bit more.

    Returns:
        int16 (panels, K / 2, 32, 2), and what one of it counts in each output (outputs,), float32.
        No chunk's sum can leave 32 bits.
    """
    inputs, outputs = kernel.shape
    chunks = kernel.reshape(-1, rows, outputs)
    up, down = chunks.clip(min=0).sum(axis=1), -chunks.clip(max=0).sum(axis=1)
    sums = (np.maximum(up, down) if positive else up + down).max(axis=0)
    # A thousandth less, for what rounding adds.
    bound = 0.999 * 2**31 / LARGEST
    unit = np.maximum(np.maximum(sums / bound, np.abs(kernel).max(axis=0) / 32767), 1e-30)
    whole = np.zeros((inputs, filled(outputs, PANEL)), np.int16)
    whole[:, :outputs] = np.rint(kernel / unit)
    panels = whole.reshape(inputs // 2, 2, -1, PANEL).transpose(2, 0, 3, 1)
    return np.ascontiguousarray(panels), unit.astype(np.float32)


def _pointer(build: Any, address: Any, kind: Any) -> Any:
    return build.inttoptr(address, kind.as_pointer())


def _everywhere(build: Any, value: Any, kind: Any) -> Any:
    unset = ir.Constant(kind, ir.Undefined)
    first = build.insert_element(unset, value, ir.Constant(_I32, 0))
    return build.shuffle_vector(first, unset, ir.Constant(_INTS, None))


def _sum_products(build: Any, multiply: Any, sums: Any, apart: Any, a: Any, w: Any) -> None:
    """One pair of channels, in all sums of the tile: pixels at ``a``, ``apart`` bytes apart."""
    width = len(sums[0])
    columns = [
        build.load(_pointer(build, build.add(w, _I64(64 * v)), _PAIRS), align=2)
        for v in range(width)
    ]
    for r, row in enumerate(sums):
        address = build.add(a, build.mul(apart, _I64(r)))
        both = build.load(_pointer(build, address, _I32), align=2)
        pixel = build.bitcast(_everywhere(build, both, _INTS), _PAIRS)
        for one, column in zip(row, columns, strict=True):
            product = build.call(multiply, [pixel, column])
            build.store(build.add(build.load(one), product), one)


def _products(
    context: Any, a: Any, apart: Any, w: Any, pairs: Any, scales: Any, out: Any, wide: Any, add: Any
) -> Any:
    """Products of one chunk: 12 pixels at ``a``, ``apart`` bytes apart, with the weights at ``w``
    (``pairs`` of channels), times the pixels' ``scales``, to float32 at ``out``, rows ``wide``
    bytes apart; added to what is there if ``add`` is not 0. All are addresses or counts."""

    def generate(context: Any, build: Any, signature: Any, values: Any) -> Any:
        a, apart, w, pairs, scales, out, wide, add = values
        kind = ir.FunctionType(_INTS, [_PAIRS, _PAIRS])
        # With the addition behind it, this becomes one VPDPWSSD.
        multiply = cgutils.get_or_insert_function(
            build.module, kind, "llvm.x86.avx512.pmaddw.d.512"
        )
        sums = [
            [cgutils.alloca_once_value(build, ir.Constant(_INTS, None)) for _ in range(2)]
            for _ in range(TILE)
        ]
        for one in (one for row in sums for one in row):
            build.store(ir.Constant(_INTS, None), one)
        with cgutils.for_range(build, pairs) as loop:
            at_w = build.add(w, build.mul(loop.index, _I64(4 * PANEL)))
            at_a = build.add(a, build.mul(loop.index, _I64(4)))
            _sum_products(build, multiply, sums, apart, at_a, at_w)

        def write(adding: bool) -> None:
            for r, row in enumerate(sums):
                address = build.add(scales, _I64(4 * r))
                scale = build.load(_pointer(build, address, _F32), align=4)
                scale = _everywhere(build, scale, _FLOATS)
                for v, one in enumerate(row):
                    at = build.add(build.add(out, build.mul(wide, _I64(r))), _I64(64 * v))
                    place = _pointer(build, at, _FLOATS)
                    value = build.sitofp(build.load(one), _FLOATS)
                    value = build.fmul(value, scale, flags=("contract",))
                    if adding:
                        there = build.load(place, align=4)
                        value = build.fadd(value, there, flags=("contract",))
                    build.store(value, place, align=4)

        with build.if_else(build.icmp_signed("!=", add, _I64(0))) as (more, first):
            with more:
                write(True)
            with first:
                write(False)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 8), generate


def _larger(build: Any, x: Any, y: Any) -> Any:
    return build.select(build.fcmp_ordered(">", x, y), x, y)


def _absolute(build: Any, x: Any) -> Any:
    kind = ir.FunctionType(_FLOATS, [_FLOATS])
    name = "llvm.fabs.v16f32"
    return build.call(cgutils.get_or_insert_function(build.module, kind, name), [x])


def _finishing(
    context: Any, row: Any, units: Any, bias: Any, added: Any, scale: Any, least: Any, vectors: Any
) -> Any:
    """Sums of a pixel to its output, where they lie: times ``units``, plus ``bias``, plus the
    numbers at ``added`` times ``scale`` if that is not 0, none below ``least``. Addresses of
    ``vectors`` times 16 numbers, two float32; gives the largest absolute value, float32."""

    def generate(context: Any, build: Any, signature: Any, values: Any) -> Any:
        row, units, bias, added, scale, least, vectors = values
        most = cgutils.alloca_once_value(build, ir.Constant(_FLOATS, None))
        build.store(ir.Constant(_FLOATS, None), most)
        low, scale = (_everywhere(build, one, _FLOATS) for one in (least, scale))

        def write(adding: bool) -> None:
            with cgutils.for_range(build, vectors) as loop:
                step = build.mul(loop.index, _I64(4 * VECTOR))
                place, unit, offset = (
                    _pointer(build, build.add(one, step), _FLOATS) for one in (row, units, bias)
                )
                value = build.load(place, align=4)
                value = build.fmul(value, build.load(unit, align=4), flags=("contract",))
                value = build.fadd(value, build.load(offset, align=4), flags=("contract",))
                if adding:
                    at = build.add(added, build.mul(loop.index, _I64(2 * VECTOR)))
                    more = build.load(_pointer(build, at, _SHORTS), align=2)
                    more = build.sitofp(build.sext(more, _INTS), _FLOATS)
                    more = build.fmul(more, scale, flags=("contract",))
                    value = build.fadd(value, more, flags=("contract",))
                value = _larger(build, value, low)
                build.store(value, place, align=4)
                build.store(_larger(build, _absolute(build, value), build.load(most)), most)

        with build.if_else(build.icmp_signed("!=", added, _I64(0))) as (more, alone):
            with more:
                write(True)
            with alone:
                write(False)
        found = build.load(most)
        for half in (8, 4, 2, 1):
            order = [(lane + half) % VECTOR for lane in range(VECTOR)]
            turned = build.shuffle_vector(found, found, ir.Constant(_INTS, order))
            found = _larger(build, found, turned)
        return build.extract_element(found, ir.Constant(_I32, 0))

    whole, number = [types.int64] * 4, [types.float32] * 2
    return types.float32(*whole, *number, types.int64), generate


def _keeping(context: Any, row: Any, times: Any, pixel: Any, vectors: Any) -> Any:
    """Float32 at ``row``, times ``times``, rounded to int16 at ``pixel``."""

    def generate(context: Any, build: Any, signature: Any, values: Any) -> Any:
        row, times, pixel, vectors = values
        times = _everywhere(build, times, _FLOATS)
        # Cut off above zero is rounded.
        above = ir.Constant(_FLOATS, [LARGEST + 1.5] * VECTOR)
        back = ir.Constant(_INTS, [LARGEST + 1] * VECTOR)
        with cgutils.for_range(build, vectors) as loop:
            at = build.add(row, build.mul(loop.index, _I64(4 * VECTOR)))
            value = build.load(_pointer(build, at, _FLOATS), align=4)
            value = build.fmul(value, times, flags=("contract",))
            value = build.fptosi(build.fadd(value, above, flags=("contract",)), _INTS)
            value = build.trunc(build.sub(value, back), _SHORTS)
            to = build.add(pixel, build.mul(loop.index, _I64(2 * VECTOR)))
            build.store(value, _pointer(build, to, _SHORTS), align=2)
        return context.get_dummy_value()

    return types.void(types.int64, types.float32, types.int64, types.int64), generate


_tile: Any = intrinsic(_products)
_finished: Any = intrinsic(_finishing)
_kept: Any = intrinsic(_keeping)


@compiled
def _keep(row: int, most: Any, pixels: Any, scales: Any, p: int) -> None:
    """Numbers at the address ``row``, of at most ``most``, as pixel ``p`` of a map."""
    most, channels = max(most, np.float32(1e-20)), pixels.shape[1]
    times = np.float32(LARGEST) / most
    _kept(row, times, pixels.ctypes.data + 2 * p * channels, channels // VECTOR)
    scales[p] = most / np.float32(LARGEST)


@compiled
def convolve(
    pixels: Any,
    scales: Any,
    taps: Any,
    weights: Any,
    units: Any,
    bias: Any,
    added: Any,
    added_scales: Any,
    least: Any,
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
        weights, units: of :func:`split_weights`, K = T * channels.
        bias: float32 (outputs,).
        added, added_scales: a map that is added, or one of no channels; it may be the output's own.
        least: float32, what no output may be below.
        out, out_scales: of the output's map.
    """
    channels = pixels.shape[1]
    panels = weights.shape[0]
    wide = panels * PANEL
    rows = np.empty((BLOCK, wide), np.float32)
    at_pixels, at_scales = pixels.ctypes.data, scales.ctypes.data
    at_units, at_bias, vectors = units.ctypes.data, bias.ctypes.data, len(units) // VECTOR
    for block in range(first, last):
        start = margin + block * BLOCK
        there = min(BLOCK, margin + count - start)
        for panel in range(panels):
            for tile in range(0, there, TILE):
                # Named in the loop, or Numba frees it before.
                to = rows.ctypes.data + 4 * (tile * wide + panel * PANEL)
                at_weights = weights[panel].ctypes.data
                fresh = 0
                for tap in taps:
                    p = start + tile + tap
                    for channel in range(0, channels, CHUNK):
                        _tile(
                            at_pixels + 2 * (p * channels + channel), 2 * channels, at_weights,
                            CHUNK // 2, at_scales + 4 * p, to, 4 * wide, fresh,
                        )  # fmt: skip
                        at_weights += 2 * CHUNK * PANEL
                        fresh = 1
        for r in range(there):
            p = start + r
            if (p - margin) % step == step - 1:
                out_scales[p] = 0
            else:
                row, more, scale = rows.ctypes.data + 4 * wide * r, 0, least
                if added.shape[1]:
                    more, scale = added.ctypes.data + 2 * p * added.shape[1], added_scales[p]
                most = _finished(row, at_units, at_bias, more, scale, least, vectors)
                _keep(row, most, out, out_scales, p)


@compiled
def convolve_image(
    image: Any,
    unit: Any,
    kernel_rows: int,
    weights: Any,
    units: Any,
    bias: Any,
    least: Any,
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
        unit: float32, what one of the image's numbers counts.
        kernel_rows: of the kernel.
        weights, units: of :func:`split_weights`, K a multiple of ``kernel_rows``, as each row has
            one number more where that makes pairs of them.
        bias, least, out, out_scales, margin: as for :func:`convolve`.
        width: of the output.
    """
    panels = weights.shape[0]
    wide = panels * PANEL
    rows = np.empty((TILE, wide), np.float32)
    ones = np.full(TILE, unit)
    pairs = weights.shape[1] // kernel_rows
    apart = 2 * 2 * image.shape[2]
    for y in range(first, last):
        for x in range(0, width, TILE):
            for panel in range(panels):
                at_weights = weights[panel].ctypes.data
                for k in range(kernel_rows):
                    # Both named in the loop, or Numba frees them before.
                    at_ones, to = ones.ctypes.data, rows.ctypes.data + 4 * panel * PANEL
                    at_image = image[2 * y + k].ctypes.data + apart * x
                    _tile(at_image, apart, at_weights, pairs, at_ones, to, 4 * wide, k)
                    at_weights += 4 * pairs * PANEL
            start = margin + y * (width + 1) + x
            for r in range(min(TILE, width - x)):
                row = rows.ctypes.data + 4 * wide * r
                most = _finished(
                    row, units.ctypes.data, bias.ctypes.data, 0, least, least, len(units) // VECTOR
                )
                _keep(row, most, out, out_scales, start + r)
        out_scales[margin + y * (width + 1) + width] = 0


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
    row = np.empty(channels, np.float32)
    for y in range(first, last):
        start = out_margin + y * (width + 1)
        for x in range(width):
            row[:] = 0
            for dy in range(-1, 2):
                for dx in range(-1, 2):
                    p = margin + (2 * y + dy) * step + 2 * x + dx
                    pixel, scale = pixels[p], scales[p]
                    for c in range(channels):
                        row[c] = max(row[c], np.float32(pixel[c]) * scale)
            _keep(row.ctypes.data, row.max(), out, out_scales, start + x)
        out_scales[start + width] = 0


@compiled
def to_planes(
    pixels: Any, scales: Any, step: int, margin: int, out: Any, first: int, last: int
) -> None:
    """Rows ``first`` to ``last`` of the first channels of a map, as float32 (channels, h, w)."""
    channels, _, width = out.shape
    for y in range(first, last):
        start = margin + y * step
        # So many channels at a time that all pixels of the row stay in the cache.
        for low in range(0, channels, PANEL):
            for c in range(low, min(low + PANEL, channels)):
                for x in range(width):
                    out[c, y, x] = np.float32(pixels[start + x, c]) * scales[start + x]


@compiled
def look_up(image: Any, tables: Any, out: Any, first: int, last: int) -> None:
    """Rows ``first`` to ``last`` of uint8 (h, w, 3) to what ``tables`` (3, 256) say of it."""
    _, width, channels = image.shape
    for y in range(first, last):
        for x in range(width):
            for c in range(channels):
                out[y, x, c] = tables[c, image[y, x, c]]

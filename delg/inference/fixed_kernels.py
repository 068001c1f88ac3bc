"""The innermost loops of fixed point, in registers of 16 numbers (LLVM's language).

They read and write at addresses, check nothing, and are called from compiled loops only. Sums of a
tile are kept in 24 registers: 8 pixels of 48 channels, 12 of 32 or 24 of 16.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from llvmlite.binding import initialize_native_asmparser
from numba.core import cgutils, types
from numba.extending import intrinsic

from delg.inference.registers import F32, I32, I64, everywhere, load, moved, store, times_plus

# Numbers of 32 bits in a register, registers that hold the sums of a tile, and of a depthwise one.
VECTOR, SUMS, DEPTHWISE_SUMS = 16, 24, 12
# The largest number a map holds; with it the bound of a chunk leaves weights as many bits.
LARGEST = 16383
# The same where none is negative and all have one scale.
HIGHEST = 32767

_INTS, _FLOATS = ir.VectorType(I32, VECTOR), ir.VectorType(F32, VECTOR)
_SHORTS = ir.VectorType(ir.IntType(16), VECTOR)
_PAIRS = ir.VectorType(ir.IntType(16), 2 * VECTOR)
# The largest number of a pixel is at least this, so that it can be divided by.
_TINY = 1e-20
# Bytes of a register.
_BYTES = 4 * VECTOR
# Reads the one instruction that is written as such.
initialize_native_asmparser()


def _larger(build: Any, x: Any, y: Any) -> Any:
    return build.select(build.fcmp_ordered(">", x, y), x, y)


def _smaller(build: Any, x: Any, y: Any) -> Any:
    return build.select(build.fcmp_ordered("<", x, y), x, y)


def _absolute(build: Any, x: Any) -> Any:
    kind = ir.FunctionType(_FLOATS, [_FLOATS])
    name = "llvm.fabs.v16f32"
    return build.call(cgutils.get_or_insert_function(build.module, kind, name), [x])


def _rounded(build: Any, x: Any) -> Any:
    """To the nearest whole numbers, int32."""
    kind = ir.FunctionType(_INTS, [_FLOATS])
    return build.call(ir.InlineAsm(kind, "vcvtps2dq $1, $0", "=v,v"), [x])


def _saturated(build: Any, x: Any) -> Any:
    """To int16; what is too large becomes the largest."""
    kind = ir.FunctionType(_SHORTS, [_INTS])
    return build.call(ir.InlineAsm(kind, "vpmovsdw $1, $0", "=v,v"), [x])


def _sums(build: Any, pixels: int, vectors: int, kind: Any) -> list[list[Any]]:
    """The sums of a tile, 0: one list a pixel."""
    rows = [[cgutils.alloca_once(build, kind) for _ in range(vectors)] for _ in range(pixels)]
    for one in (one for row in rows for one in row):
        build.store(ir.Constant(kind, None), one)
    return rows


def _products(vectors: int) -> Any:
    def products(
        context: Any,
        a: Any,
        apart: Any,
        w: Any,
        pairs: Any,
        scales: Any,
        scales_apart: Any,
        out: Any,
        wide: Any,
        across: Any,
        add: Any,
        tiles: Any,
    ) -> Any:
        """Products of one chunk of channels, for a row of ``tiles``.

        Pixels at ``a``, ``apart`` bytes apart, with the weights at ``w`` (``pairs`` of channels),
        times the pixels' ``scales``, ``scales_apart``, to float32 at ``out``, its pixels ``wide``
        bytes apart and registers of one ``across``; added to what is there if ``add`` is not 0. All
        are addresses or counts."""

        def generate(context: Any, build: Any, signature: Any, values: Any) -> Any:
            a, apart, w, pairs, scales, scales_apart, out, wide, across, add, tiles = values
            kind = ir.FunctionType(_INTS, [_INTS, _PAIRS, _PAIRS])
            # As an intrinsic, LLVM takes it apart into two for some processors.
            add_product = ir.InlineAsm(kind, "vpdpwssd $3, $2, $0", "=v,0,v,v")
            pixels = SUMS // vectors
            adding = build.icmp_signed("!=", add, I64(0))

            def tile(a: Any, scales: Any, out: Any) -> None:
                sums = _sums(build, pixels, vectors, _INTS)
                with cgutils.for_range(build, pairs) as loop:
                    at_w = moved(build, w, loop.index, _BYTES * vectors)
                    at_a = moved(build, a, loop.index, 4)
                    columns = [
                        load(build, build.add(at_w, I64(_BYTES * v)), _PAIRS, 2)
                        for v in range(vectors)
                    ]
                    for r, row in enumerate(sums):
                        both = load(build, moved(build, at_a, r, apart), I32, 2)
                        pixel = build.bitcast(everywhere(build, both, _INTS), _PAIRS)
                        for one, column in zip(row, columns, strict=True):
                            total = build.call(add_product, [build.load(one), pixel, column])
                            build.store(total, one)
                with build.if_else(adding) as (more, first):
                    with more:
                        write(sums, scales, out, True)
                    with first:
                        write(sums, scales, out, False)

            def write(sums: Any, scales: Any, out: Any, more: bool) -> None:
                for r, row in enumerate(sums):
                    scale = load(build, moved(build, scales, r, scales_apart), F32)
                    scale = everywhere(build, scale, _FLOATS)
                    for v, one in enumerate(row):
                        at = moved(build, moved(build, out, r, wide), v, across)
                        there = load(build, at, _FLOATS) if more else ir.Constant(_FLOATS, None)
                        value = build.sitofp(build.load(one), _FLOATS)
                        store(build, times_plus(build, value, scale, there), at)

            with cgutils.for_range(build, tiles) as loop:
                first = build.mul(loop.index, I64(pixels))
                starts = ((a, apart), (scales, scales_apart), (out, wide))
                tile(*(moved(build, one, first, step) for one, step in starts))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 11), generate

    return intrinsic(products)


def _depthwise(size: int, stride: int) -> Any:
    def depthwise(
        context: Any,
        rows: Any,
        at: Any,
        w: Any,
        bias: Any,
        out: Any,
        wide: Any,
        tiles: Any,
    ) -> Any:
        """A row of ``tiles`` of 12 pixels of 16 channels, each with the weights of its own channel,
        plus ``bias``, all float32; rounded to int16, none below 0 or above ``HIGHEST``.

        ``rows`` is where the addresses of the kernel's rows are (int64), ``at`` the bytes from them
        to the first pixel; outputs lie ``wide`` bytes apart, inputs and weights densely."""

        def generate(context: Any, build: Any, signature: Any, values: Any) -> Any:
            rows, at, w, bias, out, wide, tiles = values
            with cgutils.for_range(build, tiles) as loop:
                at_tile = moved(build, at, loop.index, DEPTHWISE_SUMS * stride * _BYTES)
                first = build.mul(loop.index, I64(DEPTHWISE_SUMS))
                tile(build, rows, at_tile, w, bias, moved(build, out, first, wide), wide)
            return context.get_dummy_value()

        def tile(build: Any, rows: Any, at: Any, w: Any, bias: Any, out: Any, wide: Any) -> None:
            sums = [cgutils.alloca_once(build, _FLOATS) for _ in range(DEPTHWISE_SUMS)]
            offset = load(build, bias, _FLOATS)
            for one in sums:
                build.store(offset, one)
            with cgutils.for_range(build, I64(size)) as loop:
                row = build.add(load(build, moved(build, rows, loop.index, 8), I64, 8), at)
                row_w = moved(build, w, loop.index, size * _BYTES)
                taps = [
                    load(build, build.add(row_w, I64(_BYTES * tap)), _FLOATS) for tap in range(size)
                ]
                for column in range((DEPTHWISE_SUMS - 1) * stride + size):
                    pixel = load(build, build.add(row, I64(_BYTES * column)), _FLOATS)
                    for x, one in enumerate(sums):
                        if 0 <= column - x * stride < size:
                            tap = taps[column - x * stride]
                            build.store(times_plus(build, pixel, tap, build.load(one)), one)
            low = ir.Constant(_FLOATS, None)
            for x, one in enumerate(sums):
                value = _rounded(build, _larger(build, build.load(one), low))
                store(build, _saturated(build, value), moved(build, out, x, wide), 2)

        return types.void(*[types.int64] * 7), generate

    return intrinsic(depthwise)


def _clipping(
    context: Any, row: Any, unit: Any, bias: Any, least: Any, most: Any, pixels: Any
) -> Any:
    """16 channels of so many pixels that lie densely, where they lie: times what is at ``unit``,
    plus what is at ``bias``, none below ``least`` or above ``most`` (float32)."""

    def generate(context: Any, build: Any, signature: Any, values: Any) -> Any:
        row, unit, bias, least, most, pixels = values
        low, high = (everywhere(build, one, _FLOATS) for one in (least, most))
        unit, offset = (load(build, one, _FLOATS) for one in (unit, bias))
        with cgutils.for_range(build, pixels) as loop:
            at = moved(build, row, loop.index, _BYTES)
            value = times_plus(build, load(build, at, _FLOATS), unit, offset)
            store(build, _smaller(build, _larger(build, value, low), high), at)
        return context.get_dummy_value()

    kinds = [types.int64] * 3 + [types.float32] * 2 + [types.int64]
    return types.void(*kinds), generate


def _clearing(context: Any, row: Any, vectors: Any) -> Any:
    """``vectors`` times 16 float32 become 0."""

    def generate(context: Any, build: Any, signature: Any, values: Any) -> Any:
        row, vectors = values
        with cgutils.for_range(build, vectors) as loop:
            store(build, ir.Constant(_FLOATS, None), moved(build, row, loop.index, _BYTES))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


def _finishing(pixels: int) -> Any:
    def finishing(
        context: Any,
        row: Any,
        wide: Any,
        units: Any,
        bias: Any,
        added: Any,
        added_apart: Any,
        added_scales: Any,
        least: Any,
        most: Any,
        out: Any,
        out_apart: Any,
        out_scales: Any,
        vectors: Any,
    ) -> Any:
        """Sums of pixels, ``wide`` bytes apart at ``row``, to a map's numbers and scales.

        They are times ``units``, plus ``bias``, plus the numbers at ``added`` times
        ``added_scales`` if that is not 0, none below ``least`` or above ``most`` (float32).
        ``vectors`` times 16 channels; all else are addresses, or bytes from pixel to pixel."""

        def generate(context: Any, build: Any, signature: Any, values: Any) -> Any:
            row, wide, units, bias, added, added_apart, added_scales, *values = values
            least, most, out, out_apart, out_scales, vectors = values
            low, high = (everywhere(build, one, _FLOATS) for one in (least, most))
            found = [cgutils.alloca_once(build, _FLOATS) for _ in range(pixels)]
            for one in found:
                build.store(ir.Constant(_FLOATS, None), one)

            def write(adding: bool) -> None:
                scales = [
                    everywhere(build, load(build, moved(build, added_scales, n, 4), F32), _FLOATS)
                    for n in range(pixels if adding else 0)
                ]
                with cgutils.for_range(build, vectors) as loop:
                    unit, offset = (
                        load(build, moved(build, one, loop.index, _BYTES), _FLOATS)
                        for one in (units, bias)
                    )
                    at_row = moved(build, row, loop.index, _BYTES)
                    for n, largest in enumerate(found):
                        place = moved(build, at_row, n, wide)
                        value = times_plus(build, load(build, place, _FLOATS), unit, offset)
                        if adding:
                            at = moved(build, added, loop.index, 2 * VECTOR)
                            more = load(build, moved(build, at, n, added_apart), _SHORTS, 2)
                            more = build.sitofp(build.sext(more, _INTS), _FLOATS)
                            value = times_plus(build, more, scales[n], value)
                        value = _smaller(build, _larger(build, value, low), high)
                        store(build, value, place)
                        value = _larger(build, _absolute(build, value), build.load(largest))
                        build.store(value, largest)

            with build.if_else(build.icmp_signed("!=", added, I64(0))) as (more, alone):
                with more:
                    write(True)
                with alone:
                    write(False)
            largest = _largest_of_each(build, [build.load(one) for one in found])
            few = largest.type
            largest = _larger(build, largest, ir.Constant(few, [_TINY] * pixels))
            scales = build.fmul(largest, ir.Constant(few, [1 / LARGEST] * pixels))
            store(build, scales, out_scales)
            times = build.fdiv(ir.Constant(few, [float(LARGEST)] * pixels), largest)
            each = [_lanes(build, times, times, [n] * VECTOR) for n in range(pixels)]
            with cgutils.for_range(build, vectors) as loop:
                at_row = moved(build, row, loop.index, _BYTES)
                at_out = moved(build, out, loop.index, 2 * VECTOR)
                for n, one in enumerate(each):
                    value = load(build, moved(build, at_row, n, wide), _FLOATS)
                    value = _saturated(build, _rounded(build, build.fmul(value, one)))
                    store(build, value, moved(build, at_out, n, out_apart), 2)
            return context.get_dummy_value()

        kinds = [types.int64] * 7 + [types.float32] * 2 + [types.int64] * 4
        return types.void(*kinds), generate

    return intrinsic(finishing)


def _lanes(build: Any, x: Any, y: Any, lanes: Sequence[int]) -> Any:
    """Lanes of two registers, those of the second counted behind the first's."""
    return build.shuffle_vector(x, y, ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes)))


def _largest_of_each(build: Any, registers: list[Any]) -> Any:
    """The largest number of each of 1, 2, 4 … registers, side by side in one."""
    count, lanes = len(registers), VECTOR
    while len(registers) > 1:
        lanes //= 2
        # Each has pixels in blocks, halves of which go where those of its neighbour leave room.
        lower = [lane for lane in range(2 * VECTOR) if lane % (2 * lanes) < lanes]
        upper = [lane + lanes for lane in lower]
        registers = [
            _larger(build, _lanes(build, x, y, lower), _lanes(build, x, y, upper))
            for x, y in zip(registers[::2], registers[1::2], strict=True)
        ]
    (largest,) = registers
    for half in (8, 4, 2, 1):
        if half < lanes:
            turned = [lane ^ half for lane in range(VECTOR)]
            largest = _larger(build, largest, _lanes(build, largest, largest, turned))
    return _lanes(build, largest, largest, range(0, VECTOR, VECTOR // count))


# By how many registers of channels they take.
products_1, products_2, products_3 = (_products(vectors) for vectors in (1, 2, 3))
# By the sides of the kernel and the stride.
depthwise_3, depthwise_5, depthwise_3_by_2, depthwise_5_by_2 = (
    _depthwise(size, stride) for stride in (1, 2) for size in (3, 5)
)
clear: Any = intrinsic(_clearing)
clip: Any = intrinsic(_clipping)
# By how many pixels.
finish_1, finish_4 = (_finishing(pixels) for pixels in (1, 4))

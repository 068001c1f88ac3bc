"""Photos made smaller: every pixel is the mean of the area it covers.

What OpenCV's ``INTER_AREA`` computes, up to rounding, in a third of its time where a ratio is not
whole. Where Numba may not compile, OpenCV does it.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from delg.compiled import compiled, may_compile
from delg.inference.registers import F32, everywhere, load, moved, store, times_plus
from delg.types import FloatArray

# Rows that are made together.
_ROWS = 4
# Red, green, blue; they are read and written four numbers at a time.
_CHANNELS = 3

_FOUR = ir.VectorType(F32, 4)


def shrink(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A photo at a size that is nowhere larger.

    Args:
        pixels: uint8 (H, W, 3).
        size: width and height, at most W and H.

    Returns:
        uint8 (height, width, 3).
    """
    if not may_compile():
        return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    height, width = pixels.shape[:2]
    out = np.empty((size[1], size[0] * _CHANNELS), np.uint8)
    rows = np.ascontiguousarray(pixels).reshape(height, -1)
    # As decoders give them: the loop is compiled once for all.
    rows.flags.writeable = False
    _average(rows, *_overlaps(height, size[1]), *_overlaps(width, size[0]), out)
    return out.reshape(size[1], size[0], _CHANNELS)


def _overlaps(cells: int, parts: int) -> tuple[NDArray[np.int64], FloatArray]:
    """A side of so many cells in equal parts: for each its first cell (parts,), and what share of
    it that one and those behind it are (parts, taps)."""
    # A part that begins inside a cell may end inside one more than it is long.
    taps = min(cells, -(-cells // parts) + (cells % parts > 0))
    part = np.arange(parts)[:, None]
    first = np.minimum(part * cells // parts, cells - taps)
    cell = first + np.arange(taps)
    begin = np.maximum(cell * parts, part * cells)
    end = np.minimum((cell + 1) * parts, (part + 1) * cells)
    return first[:, 0], (np.maximum(end - begin, 0) / cells).astype(np.float32)


def _summing(
    context: Any, lines: Any, apart: Any, weights: Any, taps: Any, out: Any, out_apart: Any
) -> Any:
    """A pixel of ``_ROWS`` rows: the sum of ``taps`` pixels side by side, times ``weights``.

    All are addresses or counts of bytes, ``apart`` from row to row; float32. A fourth number is
    read and written behind the three of a pixel."""

    def generate(context: Any, build: Any, signature: Any, values: Any) -> Any:
        lines, apart, weights, taps, out, out_apart = values

        sums = [cgutils.alloca_once(build, _FOUR) for _ in range(_ROWS)]
        for one in sums:
            build.store(ir.Constant(_FOUR, None), one)
        with cgutils.for_range(build, taps) as loop:
            weight = load(build, moved(build, weights, loop.index, 4), F32)
            weight = everywhere(build, weight, _FOUR)
            pixel = moved(build, lines, loop.index, 4 * _CHANNELS)
            for row, one in enumerate(sums):
                found = load(build, moved(build, pixel, row, apart), _FOUR)
                build.store(times_plus(build, found, weight, build.load(one)), one)
        for row, one in enumerate(sums):
            store(build, build.load(one), moved(build, out, row, out_apart))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), generate


_sum: Any = intrinsic(_summing)


@compiled
def _average(rows: Any, top: Any, down: Any, left: Any, across: Any, out: Any) -> None:
    """Rows (H, 3 W) to ``out`` (h, 3 w), by :func:`_overlaps` of height and width."""
    height, width, taps = len(top), len(left), across.shape[1]
    numbers, wanted = rows.shape[1], out.shape[1]
    # One number more, as pixels are read and written by four.
    lines = np.zeros((_ROWS, numbers + 1), np.float32)
    found = np.zeros((_ROWS, wanted + 1), np.float32)
    at_lines, at_across, at_found = lines.ctypes.data, across.ctypes.data, found.ctypes.data
    for start in range(0, height, _ROWS):
        count = min(_ROWS, height - start)
        for row in range(count):
            y = start + row
            for tap in range(down.shape[1]):
                source, weight = top[y] + tap, down[y, tap]
                if tap == 0:
                    for i in range(numbers):
                        lines[row, i] = weight * np.float32(rows[source, i])
                elif weight > 0:
                    for i in range(numbers):
                        lines[row, i] += weight * np.float32(rows[source, i])
        for x in range(width):
            _sum(
                at_lines + 4 * _CHANNELS * left[x], lines.strides[0], at_across + 4 * taps * x,
                taps, at_found + 4 * _CHANNELS * x, found.strides[0],
            )  # fmt: skip
        for row in range(count):
            for i in range(wanted):
                out[start + row, i] = np.uint8(np.int32(found[row, i] + np.float32(0.5)))
    # Until here, as Numba frees what is not named any more.
    lines[0, 0] = found[0, 0] = 0

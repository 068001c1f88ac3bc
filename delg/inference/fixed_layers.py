"""Layers in fixed point: what a backbone is made of, written down once and run on every level."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import InitVar, dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from delg.inference.fixed_blocks import SIX, UNIT, BlockFactors, Source, inverted_residual
from delg.inference.fixed_kernels import HIGHEST, LARGEST, SUMS, VECTOR
from delg.inference.fixed_point import (
    BLOCK,
    LEAST,
    MOST,
    STEM_UNIT,
    Factors,
    FixedMap,
    aligned,
    chunk_of,
    convolve,
    convolve_image,
    filled,
    largest_of_nine,
    scale_image,
    split_weights,
    to_floats,
)
from delg.inference.layers import Convolution, InvertedResidual, Weights
from delg.settings import InputSettings
from delg.types import FloatArray

# Height, width, channels.
Size = tuple[int, int, int]
# Rows of a block that are worth a part, as each part expands some rows that others do too.
_BLOCK_ROWS = 16


class Run(Protocol):
    """Runs a loop from 0 to ``count``, in parts if it likes, each of ``grain`` or more if there are
    enough for all threads; it gets ``arguments`` first."""

    def __call__(
        self, loop: Callable[..., None], arguments: tuple[Any, ...], count: int, grain: int = 1, /
    ) -> None: ...


@dataclass
class _Limits:
    """What a step's output may not be below and above."""

    least: np.float32 = field(default=LEAST, kw_only=True)
    most: np.float32 = field(default=MOST, kw_only=True)


@dataclass
class _Conv(_Limits):
    """A convolution of stride 1, 1×1 or 3×3, and what is done with its output at once."""

    kernel: InitVar[FloatArray]
    bias: InitVar[FloatArray]
    positive: bool
    added: int | None = None
    _factors: Factors = field(init=False)

    def __post_init__(self, kernel: FloatArray, bias: FloatArray) -> None:
        self._outputs, self._inputs, height, _ = kernel.shape
        self._reach = height // 2
        self._factors = _factors_of(kernel, bias, self.positive)

    def size(self, x: FixedMap) -> Size:
        return x.height, x.width, filled(self._outputs, VECTOR)

    def fill(self, out: FixedMap, x: FixedMap, added: FixedMap | None, run: Run) -> None:
        around = range(-self._reach, self._reach + 1)
        taps = np.array([dy * x.step + dx for dy in around for dx in around])
        more = FixedMap(0, 0, 0) if added is None else added
        arguments = (
            x.pixels, x.scales, taps, self._inputs, self._factors, more.pixels, more.scales,
            self.least, self.most, out.pixels, out.scales, x.step, x.margin, x.count,
        )  # fmt: skip
        run(convolve, arguments, -(-x.count // BLOCK))


def _factors_of(
    kernel: FloatArray, bias: FloatArray, positive: bool, largest: int = LARGEST
) -> Factors:
    """Of a kernel (out, in, height, width)."""
    outputs, inputs = kernel.shape[:2]
    rows = kernel.transpose(2, 3, 1, 0).reshape(-1, outputs)
    return split_weights(rows, bias, chunk_of(inputs), positive, largest)


@dataclass
class _Stem(_Limits):
    """The first convolution, of an image, of stride 2."""

    kernel: InitVar[FloatArray]
    bias: InitVar[FloatArray]
    spec: InputSettings
    before: int
    factors: Factors = field(init=False)
    unit: FloatArray = field(init=False)

    def __post_init__(self, kernel: FloatArray, bias: FloatArray) -> None:
        self._outputs, inputs, self._size, width = kernel.shape
        numbers = width * inputs
        # Pixels come in red, green and blue.
        order = slice(None, None, -1 if self.spec.channel_order == "bgr" else 1)
        rows = np.zeros((self._size, filled(numbers, 2), self._outputs), np.float32)
        std = np.array(self.spec.std, np.float32)
        values = (kernel.transpose(2, 3, 1, 0) / std[:, None])[:, :, order]
        rows[:, :numbers] = values.reshape(self._size, numbers, self._outputs)
        self.factors = split_weights(rows.reshape(-1, self._outputs), bias, rows.shape[1])
        self._middle = np.array(self.spec.mean, np.float32)[order]
        largest = np.abs([self._middle, 255 - self._middle]).max()
        self.unit = np.array([max(STEM_UNIT, largest / LARGEST)], np.float32)

    def size(self, image: NDArray[np.uint8]) -> Size:
        return image.shape[0] // 2, image.shape[1] // 2, filled(self._outputs, VECTOR)

    def padded(self, image: NDArray[np.uint8], run: Run) -> NDArray[np.int16]:
        """The image as the loops read it, in ``unit``."""
        height, width, channels = image.shape
        # Behind the last column, what a tile looks at for outputs that are not there.
        columns = width + self._size + 2 * SUMS
        padded = np.zeros((height + self._size, columns * channels), np.int16)
        arguments = (
            np.ascontiguousarray(image).reshape(height, -1), np.tile(self._middle, width),
            1 / self.unit[0], padded, self.before, self.before * channels,
        )  # fmt: skip
        run(scale_image, arguments, height)
        return padded.reshape(len(padded), columns, channels)

    def fill(self, out: FixedMap, image: NDArray[np.uint8], added: None, run: Run) -> None:
        arguments = (
            self.padded(image, run), self.unit, self._size, self.factors, self.least, self.most,
            out.pixels, out.scales, out.width, out.margin,
        )  # fmt: skip
        run(convolve_image, arguments, out.height)


class _BlockLoop:
    """What all blocks share: the weights, and the loop."""

    def __init__(self, spec: InvertedResidual, expand: Factors, weights: Weights) -> None:
        kernel, bias = weights.convolution(spec.depthwise)
        self._kernel, self._stride = spec.depthwise.kernel, spec.depthwise.stride
        if self._kernel not in (3, 5) or self._stride not in (1, 2):
            raise NotImplementedError(f"{spec.depthwise} in fixed point")
        # As wide as what is expanded, with the channels that fill it.
        wide = len(expand.bias)
        taps = np.zeros((self._kernel**2, wide), np.float32)
        taps[:, : len(bias)] = kernel.reshape(len(bias), -1).T
        # Sums of more than an int32 holds would turn negative; such weights give 0 or 6 anyway.
        most = np.float32(2**30 / (self._kernel**2 + 1) / SIX)
        taps = (taps / UNIT).clip(-most, most).reshape(len(taps), -1, VECTOR).swapaxes(0, 1)
        bias = np.pad(bias / UNIT, (0, wide - len(bias))).clip(-most, most)
        project = _factors_of(*weights.convolution(spec.project), True, HIGHEST)
        self._factors = BlockFactors(expand, aligned(taps), aligned(bias), project)
        self._before, self._residual = spec.depthwise.around[0], spec.residual
        self._outputs = filled(spec.project.channels[1], VECTOR)

    def _size_of(self, height: int, width: int) -> Size:
        return height // self._stride, width // self._stride, self._outputs

    def _fill(self, out: FixedMap, source: Source, run: Run) -> None:
        arguments = (
            source, self._factors, self._kernel, self._stride, self._before, self._residual,
            out.pixels, out.scales, out.width, out.margin,
        )  # fmt: skip
        run(inverted_residual, arguments, out.height, _BLOCK_ROWS)


class _Block(_BlockLoop):
    """An inverted residual block."""

    def size(self, x: FixedMap) -> Size:
        return self._size_of(x.height, x.width)

    def fill(self, out: FixedMap, x: FixedMap, added: None, run: Run) -> None:
        apart, chunk = x.pixels.shape[1], self._factors.expand.chunk
        where = (x.margin * apart, x.step * apart, chunk, apart, x.margin, x.step, 1)
        self._fill(out, Source(x.pixels, x.scales, x.height, x.width, *where), run)


class _FirstBlock(_BlockLoop):
    """The stem, and the block behind it, which does not expand."""

    def __init__(self, spec: InvertedResidual, stem: _Stem, weights: Weights) -> None:
        super().__init__(spec, stem.factors, weights)
        self._stem = stem

    def size(self, image: NDArray[np.uint8]) -> Size:
        return self._size_of(*self._stem.size(image)[:2])

    def fill(self, out: FixedMap, image: NDArray[np.uint8], added: None, run: Run) -> None:
        height, width, _ = self._stem.size(image)
        padded = self._stem.padded(image, run)
        numbers = padded.reshape(len(padded), -1)
        row = numbers.shape[1]
        # The stem's stride is 2.
        where = (0, 2 * row, row, 2 * padded.shape[2])
        self._fill(out, Source(numbers, self._stem.unit, height, width, *where), run)


class _Halving:
    def size(self, x: FixedMap) -> Size:
        return x.height // 2, x.width // 2, x.channels


class _LargestOfNine(_Halving):
    def fill(self, out: FixedMap, x: FixedMap, added: None, run: Run) -> None:
        arguments = (
            x.pixels, x.scales, x.step, x.margin, out.pixels, out.scales, out.width, out.margin,
        )  # fmt: skip
        run(largest_of_nine, arguments, out.height)


class _EverySecond(_Halving):
    def fill(self, out: FixedMap, x: FixedMap, added: None, run: Run) -> None:
        out.keep_every_second(x)


_Step = _Conv | _Stem | _Block | _FirstBlock | _LargestOfNine | _EverySecond


class FixedLayers:
    """Writes a half of a backbone, as :class:`delg.inference.layers.Layers`, and runs it.

    A tensor is the number of the step that makes it; 0 is the input.

    Args:
        weights: taken by name.
        spec: how an input image is scaled.
        positive: whether no number of the input is below zero.
    """

    def __init__(self, weights: Weights, spec: InputSettings, positive: bool = False) -> None:
        self._weights, self._spec = weights, spec
        # Tensors without numbers below zero.
        self._positive = {0} if positive else set()
        # Each step with the tensor it reads.
        self._steps: list[tuple[_Step, int]] = []
        self._halved: dict[int, int] = {}
        # Tensor -> the last step that reads it.
        self._last_read: dict[int, int] = {}
        self._kept: tuple[int, ...] = ()

    def _step(self, step: _Step, x: int) -> int:
        self._steps.append((step, x))
        self._last_read[x] = len(self._steps)
        return len(self._steps)

    def _last(self, x: int) -> _Limits:
        """The convolution just written, which does the work of what follows it."""
        step = self._steps[-1][0]
        if x != len(self._steps) or not isinstance(step, _Limits) or step.least == 0:
            raise NotImplementedError("fixed point, other than just behind a convolution")
        return step

    def conv(self, x: int, spec: Convolution) -> int:
        """A convolution and its batch norm."""
        values, offset = self._weights.convolution(spec)
        if spec.stride == 2 and spec.kernel > 1:
            return self._step(_Stem(values, offset, self._spec, spec.around[0]), x)
        if spec.stride == 2:
            x = self.every_second(x)
        return self._step(_Conv(values, offset, x in self._positive), x)

    def relu(self, x: int) -> int:
        """max(x, 0)."""
        self._last(x).least = np.float32(0)
        self._positive.add(x)
        return x

    def relu6(self, x: int) -> int:
        """x between 0 and 6."""
        self._last(x).most = SIX
        return self.relu(x)

    def inverted_residual(self, x: int, spec: InvertedResidual) -> int:
        """An inverted residual block that expands."""
        if spec.expand is None:
            raise NotImplementedError("fixed point of a block that does not expand, but the first")
        values, offset = self._weights.convolution(spec.expand)
        expand = _factors_of(values, offset, x in self._positive)
        return self._step(_Block(spec, expand, self._weights), x)

    def stem_and_block(self, image: int, stem: Convolution, block: InvertedResidual) -> int:
        """The first convolution with ReLU6, and a block that does not expand."""
        values, offset = self._weights.convolution(stem)
        first = _Stem(values, offset, self._spec, stem.around[0])
        return self._step(_FirstBlock(block, first, self._weights), image)

    def add(self, x: int, y: int) -> int:
        """x + y."""
        step = self._last(y)
        assert isinstance(step, _Conv)
        step.added = x
        self._last_read[x] = y
        return y

    def largest_of_nine(self, x: int) -> int:
        """The largest of 3×3 cells, at every second cell of every second row."""
        return self._same_sign(self._step(_LargestOfNine(), x), x)

    def every_second(self, x: int) -> int:
        """Every second cell of every second row."""
        if x not in self._halved:
            self._halved[x] = self._same_sign(self._step(_EverySecond(), x), x)
        return self._halved[x]

    def _same_sign(self, made: int, x: int) -> int:
        if x in self._positive:
            self._positive.add(made)
        return made

    def is_positive(self, x: int) -> bool:
        """Whether no number of a tensor is below zero."""
        return x in self._positive

    def keep(self, *tensors: int) -> None:
        """Say which tensors :meth:`run` gives."""
        self._kept = tensors

    def run(self, x: Any, run: Run) -> list[FixedMap]:
        """The tensors that are kept, with up to 15 channels of zeros behind their own.

        Args:
            x: the input, an image (uint8 (h, w, 3)) or a map.
            run: runs the loops.
        """
        made: dict[int, Any] = {0: x}
        # Maps nobody reads any more, to write on: fresh memory costs as much as the convolution.
        spare: list[FixedMap] = []
        for number, (step, read) in enumerate(self._steps, 1):
            added = step.added if isinstance(step, _Conv) else None
            if added is not None and self._is_done(added, number):
                # Each of its pixels is read just before it is written.
                out = made[added]
            else:
                out = _map_of(step.size(made[read]), spare)
            step.fill(out, made[read], None if added is None else made[added], run)
            made[number] = out
            for done in [one for one in made if self._is_done(one, number)]:
                gone = made.pop(done)
                if gone is not out:
                    spare.append(gone)
        return [made[one] for one in self._kept]

    def _is_done(self, x: int, step: int) -> bool:
        """Whether nothing after that step wants a tensor, which is not the caller's either."""
        return x > 0 and self._last_read.get(x) == step and x not in self._kept


def _map_of(size: Size, spare: list[FixedMap]) -> FixedMap:
    for number, one in enumerate(spare):
        if (one.height, one.width, one.channels) == size:
            return spare.pop(number)
    return FixedMap(*size)


def floats_of(x: FixedMap, channels: int, run: Run) -> FloatArray:
    """The first channels of a map, float32 (height, width, channels)."""
    out = np.empty((x.height, x.width, channels), np.float32)
    run(to_floats, (x.pixels, x.scales, x.step, x.margin, out), x.height)
    return out

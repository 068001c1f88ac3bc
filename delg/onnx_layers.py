"""The layers our networks are made of, as ONNX; weights are taken by name, each once.

Maps are (1, channels, height, width). Batch norms are folded into the convolutions before them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from delg.errors import ModelError
from delg.onnx_file import Graph
from delg.values import FloatArray
from delg.weights import some

# Below this a vector counts as zero, as in ``delg.heads``.
_TINY = 1e-12


@dataclass(frozen=True)
class Convolution:
    """A convolution, with the batch norm behind it.

    Attributes:
        name: of the layer in the weight file.
        channels: in and out.
        kernel, stride: the same in both directions.
        norm: name of the batch norm, and its ``epsilon``.
        bias: whether the layer has one.
        depthwise: each channel has a kernel of its own.
        padding: pixels before and after; by default as much as keeps the size.
    """

    name: str
    channels: tuple[int, int]
    kernel: int = 1
    stride: int = 1
    norm: str | None = None
    epsilon: float = 1e-3
    bias: bool = False
    depthwise: bool = False
    padding: tuple[int, int] | None = None

    @property
    def around(self) -> tuple[int, int]:
        """Pixels of padding before and after."""
        around = max(self.kernel - self.stride, 0)
        return self.padding or (around // 2, around - around // 2)


@dataclass(frozen=True)
class InvertedResidual:
    """A block of convolutions, ReLU6 between them (Sandler et al., MobileNetV2, arXiv 1801.04381).

    Attributes:
        expand: 1×1, or None where the block is as wide as its input.
        depthwise: on the wide map.
        project: 1×1, back to a narrow one.
    """

    expand: Convolution | None
    depthwise: Convolution
    project: Convolution

    @property
    def residual(self) -> bool:
        """Whether the input is added to the output: where both are of one size."""
        inputs = (self.expand or self.depthwise).channels[0]
        return self.depthwise.stride == 1 and inputs == self.project.channels[1]


class Weights:
    """Variables of a weight file, taken strictly: none missing, none left over.

    Args:
        values: name -> array, as :func:`delg.weights.read_weights` gives them.
        origin: names the file in errors.
    """

    def __init__(self, values: Mapping[str, np.ndarray], origin: str) -> None:
        self._values, self._origin = values, origin
        self._taken: set[str] = set()
        self._missing: set[str] = set()

    def take(self, name: str, shape: tuple[int, ...]) -> FloatArray:
        """One variable, float32 of that shape.

        Raises:
            ModelError: it is of another shape.
        """
        if name not in self._values:
            self._missing.add(name)
            return np.ones(shape, np.float32)
        value = self._values[name]
        if value.shape != shape:
            raise ModelError(f"{self._origin}: {name} is {value.shape}, the settings need {shape}")
        self._taken.add(name)
        return value.astype(np.float32)

    def convolution(self, spec: Convolution) -> tuple[FloatArray, FloatArray]:
        """Kernel (out, in, height, width) and bias (out,) of a convolution that does its batch
        norm's work.

        Raises:
            ModelError: they are of another shape.
        """
        inputs, outputs = spec.channels
        shape = (spec.kernel, spec.kernel, inputs, 1 if spec.depthwise else outputs)
        # Height, width, in, out -> out, in, height, width.
        order = (2, 3, 0, 1) if spec.depthwise else (3, 2, 0, 1)
        values = self.take(f"{spec.name}/kernel", shape).transpose(order)
        offset = np.zeros(outputs, "f4")
        if spec.bias:
            offset = self.take(f"{spec.name}/bias", (outputs,))
        if spec.norm is None:
            return values, offset
        gamma, beta, mean, variance = (
            self.take(f"{spec.norm}/{one}", offset.shape)
            for one in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        scale = gamma / np.sqrt(variance + np.float32(spec.epsilon))
        return values * scale[:, None, None, None], (offset - mean) * scale + beta

    def check(self) -> None:
        """Make sure that all fitted.

        Raises:
            ModelError: a variable is missing or left over.
        """
        extra = self._values.keys() - self._taken
        if self._missing or extra:
            raise ModelError(
                f"{self._origin}: does not fit the settings: "
                f"missing {some(self._missing)}; not wanted {some(extra)}"
            )


class Layers:
    """A graph and the weights that go into it."""

    def __init__(self, graph: Graph, weights: Weights) -> None:
        self.graph, self.weights = graph, weights

    def conv(self, x: str, spec: Convolution) -> str:
        """A convolution and its batch norm; the sides of ``x`` are multiples of the stride."""
        values, offset = self.weights.convolution(spec)
        before, after = spec.around
        return self.graph.add(
            "Conv",
            x,
            self.graph.constant(values),
            self.graph.constant(offset),
            kernel_shape=[spec.kernel, spec.kernel],
            strides=[spec.stride, spec.stride],
            pads=[before, before, after, after],
            group=spec.channels[1] if spec.depthwise else 1,
        )

    def relu(self, x: str) -> str:
        """max(x, 0)."""
        return self.graph.add("Relu", x)

    def relu6(self, x: str) -> str:
        """x between 0 and 6."""
        return self.graph.add("Clip", x, self.graph.constant(0.0), self.graph.constant(6.0))

    def inverted_residual(self, x: str, spec: InvertedResidual) -> str:
        """An inverted residual block."""
        y = x if spec.expand is None else self.relu6(self.conv(x, spec.expand))
        y = self.conv(self.relu6(self.conv(y, spec.depthwise)), spec.project)
        return self.add(x, y) if spec.residual else y

    def add(self, x: str, y: str) -> str:
        """x + y."""
        return self.graph.add("Add", x, y)

    def largest_of_nine(self, x: str) -> str:
        """The largest of 3×3 cells, at every second cell of every second row."""
        return self.graph.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])

    def every_second(self, x: str) -> str:
        """Every second cell of every second row."""
        return self.graph.add("MaxPool", x, kernel_shape=[1, 1], strides=[2, 2])

    def norm(self, x: str, keep: bool) -> str:
        """L2 norm over the channels; ``keep`` them as one."""
        axis = self.graph.constant(np.array([1]))
        squares = self.graph.add("ReduceSum", self.graph.add("Mul", x, x), axis, keepdims=int(keep))
        return self.graph.add("Sqrt", squares)

    def unit(self, x: str) -> str:
        """Unit length over the channels; a zero vector stays zero."""
        least = self.graph.constant(_TINY**0.5)
        return self.graph.add("Div", x, self.graph.add("Max", self.norm(x, True), least))

    def generalised_mean(self, x: str, power: float, epsilon: float) -> str:
        """GeM over the cells: (1, C, h, w) -> (1, C); see :class:`delg.heads.GeM`."""
        add, constant = self.graph.add, self.graph.constant
        clipped = add("Max", x, constant(epsilon))
        peak = add("ReduceMax", clipped, axes=[2, 3], keepdims=1)
        powered = add("Pow", add("Div", clipped, peak), constant(power))
        mean = add("ReduceMean", powered, axes=[2, 3], keepdims=1)
        return add("Flatten", add("Mul", add("Pow", mean, constant(1 / power)), peak))

    def dense(self, x: str, name: str, channels: tuple[int, int]) -> str:
        """A dense layer with bias: (1, in) -> (1, out)."""
        kernel = self.weights.take(f"{name}/kernel", channels)
        bias = self.weights.take(f"{name}/bias", channels[1:])
        return self.graph.add("Gemm", x, self.graph.constant(kernel), self.graph.constant(bias))

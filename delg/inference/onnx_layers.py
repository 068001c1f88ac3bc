"""The layers our networks are made of, as ONNX."""

from __future__ import annotations

import numpy as np

from delg.inference.layered_heads import EPSILON, TINY
from delg.inference.layers import Convolution, InvertedResidual, Weights
from delg.inference.onnx_file import Graph


class OnnxLayers:
    """A graph and the weights that go into it; writes :class:`delg.inference.layers.Layers`.

    Maps are (1, channels, height, width).
    """

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

    def stem_and_block(self, image: str, stem: Convolution, block: InvertedResidual) -> str:
        """The first convolution with ReLU6, and a block."""
        return self.inverted_residual(self.relu6(self.conv(image, stem)), block)

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
        least = self.graph.constant(TINY)
        return self.graph.add("Div", x, self.graph.add("Max", self.norm(x, True), least))

    def generalised_mean(self, x: str, power: float) -> str:
        """GeM over the cells: (1, C, height, width) -> (1, C); see
        :class:`delg.network.heads.GeM`."""
        add, constant = self.graph.add, self.graph.constant
        clipped = add("Max", x, constant(EPSILON))
        peak = add("ReduceMax", clipped, axes=[2, 3], keepdims=1)
        powered = add("Pow", add("Div", clipped, peak), constant(power))
        mean = add("ReduceMean", powered, axes=[2, 3], keepdims=1)
        return add("Flatten", add("Mul", add("Pow", mean, constant(1 / power)), peak))

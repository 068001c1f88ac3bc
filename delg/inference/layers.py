"""What the layers of our networks are, whatever runs them, and their weights, each taken once.

What writes layers decides what they become: ONNX (``delg.inference.onnx_layers``) or fixed point
(``delg.inference.fixed_layers``). Batch norms are folded into the convolutions before them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from delg.errors import ModelError
from delg.network.weights import some
from delg.types import FloatArray

# What stands for a map while layers are written.
Tensor = TypeVar("Tensor")


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
        values: name -> array, as :func:`delg.network.weights.read_weights` gives them.
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


class Layers(Protocol[Tensor]):
    """What writes layers; see :class:`delg.inference.onnx_layers.OnnxLayers`."""

    def conv(self, x: Tensor, spec: Convolution) -> Tensor: ...

    def relu(self, x: Tensor) -> Tensor: ...

    def relu6(self, x: Tensor) -> Tensor: ...

    def inverted_residual(self, x: Tensor, spec: InvertedResidual) -> Tensor: ...

    def stem_and_block(
        self, image: Tensor, stem: Convolution, block: InvertedResidual
    ) -> Tensor: ...

    def add(self, x: Tensor, y: Tensor) -> Tensor: ...

    def largest_of_nine(self, x: Tensor) -> Tensor: ...

    def every_second(self, x: Tensor) -> Tensor: ...

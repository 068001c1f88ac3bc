"""The backbones in layers, in two halves: image -> mid-level map -> deep map.

They mirror ``delg.network.backbones``, which has them in Keras for training.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from delg.inference.layers import Convolution, InvertedResidual, Layers, Tensor
from delg.network.backbones import lite_stages, resnet_stages


class Half(Protocol):
    """Layers to write with and the tensor it reads -> the tensor it gives."""

    def __call__(self, layers: Layers[Tensor], x: Tensor, /) -> Tensor: ...


@dataclass(frozen=True)
class Halves:
    """A backbone in two halves; see :class:`delg.network.backbones.Backbone`.

    Attributes:
        mid_channels, deep_channels: what each half gives.
    """

    shallow: Half
    deep: Half
    mid_channels: int
    deep_channels: int
    stride: int
    offset: float


def _lite_conv(
    name: str, channels: tuple[int, int], kernel: int = 1, stride: int = 1, depthwise: bool = False
) -> Convolution:
    return Convolution(
        f"{name}_conv", channels, kernel, stride,
        norm=f"{name}_bn", epsilon=lite_stages.BN_EPSILON, depthwise=depthwise,
    )  # fmt: skip


def _lite_blocks(variant: int, deep: bool) -> Iterator[InvertedResidual]:
    """The blocks of one half."""
    number = 0
    for stage, blocks in enumerate(lite_stages.stages(variant)):
        for kernel, stride, expansion, inputs, outputs in blocks:
            name, number = f"block{number}", number + 1
            if (stage > lite_stages.MID_STAGE) != deep:
                continue
            wide = inputs * expansion
            yield InvertedResidual(
                _lite_conv(f"{name}_expand", (inputs, wide)) if expansion != 1 else None,
                _lite_conv(f"{name}_depthwise", (wide, wide), kernel, stride, depthwise=True),
                _lite_conv(f"{name}_project", (wide, outputs)),
            )


def _lite(variant: int) -> Halves:
    mid, last = (
        lite_stages.stages(variant)[stage][-1][-1] for stage in (lite_stages.MID_STAGE, -1)
    )

    def shallow(layers: Layers[Tensor], image: Tensor) -> Tensor:
        stem = _lite_conv("stem", (3, lite_stages.STEM_CHANNELS), 3, 2)
        first, *others = _lite_blocks(variant, deep=False)
        x = layers.stem_and_block(image, stem, first)
        for block in others:
            x = layers.inverted_residual(x, block)
        return x

    def deep(layers: Layers[Tensor], x: Tensor) -> Tensor:
        for block in _lite_blocks(variant, deep=True):
            x = layers.inverted_residual(x, block)
        head = _lite_conv("head", (last, lite_stages.HEAD_CHANNELS))
        return layers.relu6(layers.conv(x, head))

    return Halves(
        shallow,
        deep,
        mid,
        lite_stages.HEAD_CHANNELS,
        lite_stages.STRIDE,
        lite_stages.OFFSET,
    )


def _resnet_conv(
    layers: Layers[Tensor],
    x: Tensor,
    name: str,
    channels: tuple[int, int],
    kernel: int = 1,
    stride: int = 1,
) -> Tensor:
    spec = Convolution(
        f"{name}_conv", channels, kernel, stride,
        norm=f"{name}_bn", epsilon=resnet_stages.BN_EPSILON, bias=True,
    )  # fmt: skip
    return layers.conv(x, spec)


def _resnet_stage(
    layers: Layers[Tensor],
    x: Tensor,
    name: str,
    inputs: int,
    channels: int,
    blocks: int,
    stride: int,
) -> Tensor:
    for number in range(1, blocks + 1):
        block, step = f"{name}_block{number}", stride if number == 1 else 1
        shortcut = x
        if number == 1:
            shortcut = _resnet_conv(layers, x, f"{block}_0", (inputs, 4 * channels), stride=step)
        y = _resnet_conv(layers, x, f"{block}_1", (inputs, channels), stride=step)
        y = _resnet_conv(layers, layers.relu(y), f"{block}_2", (channels, channels), 3)
        y = _resnet_conv(layers, layers.relu(y), f"{block}_3", (channels, 4 * channels))
        x = layers.relu(layers.add(shortcut, y))
        inputs = 4 * channels
    return x


def _resnet(depth: int, block3_strides: bool) -> Halves:
    depths = resnet_stages.DEPTHS[depth]

    def shallow(layers: Layers[Tensor], image: Tensor) -> Tensor:
        stem = Convolution(
            "conv1_conv", (3, 64), 7, 2,
            norm="conv1_bn", epsilon=resnet_stages.BN_EPSILON, bias=True, padding=(3, 3),
        )  # fmt: skip
        x = layers.largest_of_nine(layers.relu(layers.conv(image, stem)))
        x = _resnet_stage(layers, x, "conv2", 64, 64, depths[0], 1)
        x = _resnet_stage(layers, x, "conv3", 256, 128, depths[1], 2)
        x = _resnet_stage(layers, x, "conv4", 512, 256, depths[2], 2)
        if block3_strides:
            x = layers.every_second(x)
        return x

    def deep(layers: Layers[Tensor], mid: Tensor) -> Tensor:
        return _resnet_stage(layers, mid, "conv5", 1024, 512, depths[3], 1 if block3_strides else 2)

    stride = resnet_stages.stride(block3_strides)
    return Halves(shallow, deep, 1024, 2048, stride, resnet_stages.OFFSET)


_LITE = {"efficientnet_lite0": 0, "efficientnet_lite1": 1, "efficientnet_lite2": 2}
_RESNET = {"resnet50": 50, "resnet101": 101}


def halves(name: str, block3_strides: bool) -> Halves | None:
    """A backbone by name, or None if there is none such here."""
    if name in _LITE and not block3_strides:
        return _lite(_LITE[name])
    return _resnet(_RESNET[name], block3_strides) if name in _RESNET else None

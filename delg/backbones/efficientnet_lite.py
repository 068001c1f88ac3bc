"""EfficientNet-Lite 0/1/2: MobileNet-style inverted residuals without squeeze-excite, with ReLU6.

Structure and scaling rules: Tan & Le, EfficientNet (arXiv 1905.11946), and the "Lite" variant
published with it (stem, head, first and last stage are not scaled; ReLU6; no squeeze-excite).
"""

from __future__ import annotations

import math

import keras
from keras import layers

# (kernel, stride, expansion, channels, repeats) of the unscaled network.
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
# Variant -> (width multiplier, depth multiplier).
SCALING = {0: (1.0, 1.0), 1: (1.0, 1.1), 2: (1.1, 1.2)}
STEM_CHANNELS = 32
HEAD_CHANNELS = 1280
# The stage whose output is the last map of stride 16; the local head reads it.
MID_STAGE = 4


def scaled_channels(channels: int, width: float) -> int:
    """Channels times ``width``, rounded to a multiple of 8 but never down by more than 10 %."""
    scaled = channels * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * scaled else rounded + 8


def stages(variant: int) -> list[list[tuple[int, int, int, int, int]]]:
    """Blocks by stage, each (kernel, stride, expansion, input channels, output channels)."""
    width, depth = SCALING[variant]
    inputs = STEM_CHANNELS
    result = []
    for number, (kernel, stride, expansion, channels, repeats) in enumerate(STAGES):
        outputs = scaled_channels(channels, width)
        unscaled = number in (0, len(STAGES) - 1)
        blocks = []
        for repeat in range(repeats if unscaled else math.ceil(repeats * depth)):
            blocks.append((kernel, stride if repeat == 0 else 1, expansion, inputs, outputs))
            inputs = outputs
        result.append(blocks)
    return result


def _norm(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    return layers.BatchNormalization(epsilon=1e-3, momentum=0.99, name=name)(x)


def _conv_norm(
    x: keras.KerasTensor, channels: int, name: str, kernel: int = 1, stride: int = 1
) -> keras.KerasTensor:
    x = layers.Conv2D(
        channels, kernel, stride, padding="same", use_bias=False, name=f"{name}_conv"
    )(x)
    return _norm(x, f"{name}_bn")


def _block(
    x: keras.KerasTensor, name: str, kernel: int, stride: int, expansion: int, outputs: int
) -> keras.KerasTensor:
    inputs = x.shape[-1]
    y = x
    if expansion != 1:
        y = layers.ReLU(6.0)(_conv_norm(y, inputs * expansion, f"{name}_expand"))
    y = layers.DepthwiseConv2D(
        kernel, stride, padding="same", use_bias=False, name=f"{name}_depthwise_conv"
    )(y)
    y = layers.ReLU(6.0)(_norm(y, f"{name}_depthwise_bn"))
    y = _conv_norm(y, outputs, f"{name}_project")
    return layers.add([x, y]) if stride == 1 and inputs == outputs else y


def build(variant: int) -> tuple[keras.Model, keras.Model]:
    """The network cut in two at stride 16.

    Args:
        variant: 0, 1 or 2.

    Returns:
        ``shallow``: scaled RGB (B, H, W, 3) -> mid-level map (B, H/16, W/16, C), a linear output;
        ``deep``: mid-level map -> (B, H/32, W/32, 1280), after ReLU6.
    """
    by_stage = stages(variant)
    image = keras.Input((None, None, 3), name="image")
    x = layers.ReLU(6.0)(_conv_norm(image, STEM_CHANNELS, "stem", 3, 2))
    number = 0
    mid_input = shallow = None
    for stage, blocks in enumerate(by_stage):
        for kernel, stride, expansion, _, outputs in blocks:
            x = _block(x, f"block{number}", kernel, stride, expansion, outputs)
            number += 1
        if stage == MID_STAGE:
            shallow = keras.Model(image, x, name="shallow")
            mid_input = keras.Input((None, None, x.shape[-1]), name="mid")
            x = mid_input
    x = layers.ReLU(6.0)(_conv_norm(x, HEAD_CHANNELS, "head"))
    return shallow, keras.Model(mid_input, x, name="deep")

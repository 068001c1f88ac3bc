"""EfficientNet-Lite 0/1/2 in Keras; ``lite_stages`` has the numbers."""

from __future__ import annotations

import keras
from keras import layers

from delg.network.backbones.lite_stages import (
    BN_EPSILON,
    HEAD_CHANNELS,
    MID_STAGE,
    STEM_CHANNELS,
    stages,
)


def _norm(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    return layers.BatchNormalization(epsilon=BN_EPSILON, momentum=0.99, name=name)(x)


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

"""ResNet-50/101 v1 (He et al., arXiv 1512.03385), cut after conv4_x, with Keras' layer names.

The names and shapes are those of ``keras.applications``, so its ImageNet weight files fit.
"""

from __future__ import annotations

import keras
from keras import layers

from delg.network.backbones.resnet_stages import BN_EPSILON, DEPTHS


def _conv_norm(
    x: keras.KerasTensor, channels: int, name: str, kernel: int = 1, stride: int = 1
) -> keras.KerasTensor:
    x = layers.Conv2D(channels, kernel, stride, padding="same", name=f"{name}_conv")(x)
    return layers.BatchNormalization(epsilon=BN_EPSILON, name=f"{name}_bn")(x)


def _block(
    x: keras.KerasTensor, channels: int, name: str, stride: int, project: bool
) -> keras.KerasTensor:
    shortcut = _conv_norm(x, 4 * channels, f"{name}_0", 1, stride) if project else x
    y = layers.ReLU()(_conv_norm(x, channels, f"{name}_1", 1, stride))
    y = layers.ReLU()(_conv_norm(y, channels, f"{name}_2", 3))
    y = _conv_norm(y, 4 * channels, f"{name}_3")
    return layers.ReLU(name=f"{name}_out")(layers.add([shortcut, y]))


def _stage(
    x: keras.KerasTensor, channels: int, blocks: int, name: str, stride: int
) -> keras.KerasTensor:
    for number in range(1, blocks + 1):
        first = number == 1
        x = _block(x, channels, f"{name}_block{number}", stride if first else 1, first)
    return x


def build(depth: int, block3_strides: bool = False) -> tuple[keras.Model, keras.Model]:
    """The network cut in two after conv4_x.

    Args:
        depth: 50 or 101.
        block3_strides: pool conv4_x by 2 and run conv5_x at stride 1, so that both maps have
            stride 32 (the variant of the published DELG training code).

    Returns:
        ``shallow``: scaled image (B, H, W, 3) -> conv4_x (B, H/16, W/16, 1024);
        ``deep``: conv4_x -> conv5_x (B, H/32, W/32, 2048).
    """
    depths = DEPTHS[depth]
    image = keras.Input((None, None, 3), name="image")
    x = layers.ZeroPadding2D(3, name="conv1_pad")(image)
    x = layers.Conv2D(64, 7, 2, name="conv1_conv")(x)
    x = layers.BatchNormalization(epsilon=BN_EPSILON, name="conv1_bn")(x)
    x = layers.ZeroPadding2D(1, name="pool1_pad")(layers.ReLU()(x))
    x = layers.MaxPooling2D(3, 2, name="pool1_pool")(x)
    x = _stage(x, 64, depths[0], "conv2", 1)
    x = _stage(x, 128, depths[1], "conv3", 2)
    x = _stage(x, 256, depths[2], "conv4", 2)
    if block3_strides:
        x = layers.MaxPooling2D(1, 2, name="conv4_pool")(x)
    shallow = keras.Model(image, x, name="shallow")
    mid = keras.Input((None, None, x.shape[-1]), name="mid")
    deep = _stage(mid, 512, depths[3], "conv5", 1 if block3_strides else 2)
    return shallow, keras.Model(mid, deep, name="deep")

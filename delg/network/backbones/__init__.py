"""Backbones: each gives a mid-level map for the local head and a deep map for the global head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from delg.errors import ModelError
from delg.network.backbones import lite_stages, resnet_stages

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Backbone:
    """A network cut in two, and where its mid-level cells lie.

    Attributes:
        shallow: image -> mid-level map; deep: mid-level map -> deep map.
        stride: pixels between neighbouring cells of the mid-level map.
        offset: pixel coordinate (x and y alike) of the point that cell (0, 0) describes, for
            inputs whose sides are multiples of 32.
    """

    shallow: keras.Model
    deep: keras.Model
    stride: int
    offset: float


def _efficientnet_lite(variant: int, block3_strides: bool) -> Backbone:
    from delg.network.backbones import efficientnet_lite

    if block3_strides:
        raise ModelError("block3_strides exists for the ResNet backbones only; leave it out")
    shallow, deep = efficientnet_lite.build(variant)
    return Backbone(shallow, deep, stride=lite_stages.STRIDE, offset=lite_stages.OFFSET)


def _resnet(depth: int, block3_strides: bool) -> Backbone:
    from delg.network.backbones import resnet

    shallow, deep = resnet.build(depth, block3_strides)
    stride = resnet_stages.stride(block3_strides)
    return Backbone(shallow, deep, stride=stride, offset=resnet_stages.OFFSET)


BACKBONES: dict[str, Callable[[bool], Backbone]] = {
    "efficientnet_lite0": partial(_efficientnet_lite, 0),
    "efficientnet_lite1": partial(_efficientnet_lite, 1),
    "efficientnet_lite2": partial(_efficientnet_lite, 2),
    "resnet50": partial(_resnet, 50),
    "resnet101": partial(_resnet, 101),
}


def build_backbone(name: str, block3_strides: bool = False) -> Backbone:
    """A fresh backbone by name.

    Raises:
        ModelError: no backbone has that name, or it has no such variant.
    """
    if name not in BACKBONES:
        raise ModelError(f"no backbone is called {name!r}; there are {', '.join(BACKBONES)}")
    return BACKBONES[name](block3_strides)

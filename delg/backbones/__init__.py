"""Backbones: each gives a mid-level map for the local head and a deep map for the global head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from delg.errors import ModelError

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Backbone:
    """A network cut in two, and where its mid-level cells look.

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
    from delg.backbones import efficientnet_lite

    if block3_strides:
        raise ModelError("block3_strides exists for the ResNet backbones only; leave it out")
    shallow, deep = efficientnet_lite.build(variant)
    # Padding after the last pixel only puts the centre of the theoretical receptive field at 15,
    # but matches of photos with their mirrored, turned and zoomed twins agree best on the middle
    # of the cell: with 15 each is off by a cell, with 7.5 there is no bias.
    return Backbone(shallow, deep, stride=16, offset=7.5)


def _resnet(depth: int, block3_strides: bool) -> Backbone:
    from delg.backbones import resnet

    shallow, deep = resnet.build(depth, block3_strides)
    # Symmetric padding, and stride-2 convolutions of width 1, keep cell 0 centred on pixel 0.
    return Backbone(shallow, deep, stride=32 if block3_strides else 16, offset=0.0)


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

"""Backbones of few blocks, for tests that any network would do for.

The builders of those that ship make them, so cells, strides, offsets and the names of layers are
theirs: ``lite_short`` has 8 blocks, of which 5 lie before the local head; ``resnet_short`` has 4.
To import this module registers them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from delg.network.backbones import BACKBONES, Backbone, lite_stages, resnet_stages

if TYPE_CHECKING:
    from delg.network.delg_model import Delg

_SHORT = -1


def _lite(block3_strides: bool) -> Backbone:
    from delg.network.backbones import efficientnet_lite

    shallow, deep = efficientnet_lite.build(_SHORT)
    return Backbone(shallow, deep, lite_stages.STRIDE, lite_stages.OFFSET)


def _resnet(block3_strides: bool) -> Backbone:
    from delg.network.backbones import resnet

    shallow, deep = resnet.build(_SHORT, block3_strides)
    return Backbone(shallow, deep, resnet_stages.stride(block3_strides), resnet_stages.OFFSET)


def look_trained(model: Delg, seed: int) -> None:
    """Draw batch norms and depthwise kernels that look trained: fresh ones let the signal fade to
    nothing on the way."""
    rng = np.random.default_rng(seed)
    for layer in model.shallow.layers + (model.deep.layers if model.deep else []):
        if layer.name.endswith("_bn"):
            shape = layer.gamma.shape
            scale, shift = rng.uniform(0.8, 1.5, shape), rng.normal(0, 0.2, shape)
            mean, variance = rng.normal(0, 0.1, shape), rng.uniform(0.3, 1, shape)
            layer.set_weights([scale, shift, mean, variance])
        elif layer.name.endswith("_depthwise_conv"):
            shape = layer.kernel.shape
            layer.set_weights([rng.normal(0, 1 / shape[0], shape)])


# A quarter of the channels and, where there are four blocks, two.
lite_stages.SCALING[_SHORT] = (0.25, 0.3)
resnet_stages.DEPTHS[_SHORT] = (1, 1, 1, 1)
BACKBONES["lite_short"] = _lite
BACKBONES["resnet_short"] = _resnet

"""Small networks that several test files need."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from delg.network.delg_model import Delg


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Delg]:
    """Settings -> an untrained network.

    Batch norms and depthwise kernels get the look of trained ones, drawn from ``seed``: fresh ones
    let the signal fade to nothing on the way.
    """
    import keras

    from delg.network.delg_model import Delg
    from delg.settings import ModelSettings, parse

    def make(seed: int = 0, **values: object) -> Delg:
        keras.utils.set_random_seed(seed)
        model = Delg(parse(ModelSettings, {"name": "test", **values}, "test"))
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
        return model

    return make


@pytest.fixture(scope="session")
def make_small(make_model: Callable[..., Delg]) -> Callable[..., Delg]:
    """Seed -> a network that is quick to build and has everything: learned attention, trainable
    p, both heads, few channels."""

    def make(seed: int = 0) -> Delg:
        return make_model(
            seed,
            backbone="efficientnet_lite0",
            global_head={"dim": 16, "gem_p_trainable": True},
            local_head={"dim": 8, "attention_hidden": 12},
        )

    return make

"""Small networks that several test files need."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from short_backbones import look_trained

if TYPE_CHECKING:
    from delg.network.delg_model import Delg


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Delg]:
    """Settings -> an untrained network.

    Batch norms and depthwise kernels look trained; ``seed`` decides about all weights.
    """
    import keras

    from delg.network.delg_model import Delg
    from delg.settings import ModelSettings, parse

    def make(seed: int = 0, **values: object) -> Delg:
        keras.utils.set_random_seed(seed)
        model = Delg(parse(ModelSettings, {"name": "test", **values}, "test"))
        look_trained(model, seed)
        return model

    return make


@pytest.fixture(scope="session")
def make_small(make_model: Callable[..., Delg]) -> Callable[..., Delg]:
    """Seed -> a network that is quick to build and has everything: learned attention, trainable
    p, both heads, few blocks and channels."""

    def make(seed: int = 0) -> Delg:
        return make_model(
            seed,
            backbone="lite_short",
            global_head={"dim": 16, "gem_p_trainable": True},
            local_head={"dim": 8, "attention_hidden": 12},
        )

    return make

"""Weights to start training from."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from delg.errors import ModelError
from delg.network.delg_model import Delg
from delg.network.weights import in_heads, named_variables, read_weights, weights_digest
from delg.paths import exists
from delg.zoo.registry import SETTINGS_FILE, find_model, shipped_models


def load_initial_weights(model: Delg, start: str | None) -> list[str]:
    """Copy weights into a fresh model: the backbone strictly, heads where they fit.

    Args:
        model: changed in place.
        start: a shipped model's name, a model's folder, a weight file of ours, an ImageNet file of
            ``keras.applications`` for a ResNet, or None for none.

    Returns:
        Names of the variables that keep their fresh values.

    Raises:
        ModelError: there are no such weights, or the backbone does not fit.
    """
    if start is None:
        return [name for name, _ in named_variables(model)]
    path = _weights_path(start)
    values = _without_repeats(read_weights(path))
    fresh = []
    for name, variable in named_variables(model):
        value = values.get(name)
        if value is not None and value.shape == tuple(variable.shape):
            variable.assign(value.astype(np.float32))
        elif in_heads(name):
            fresh.append(name)
        else:
            raise ModelError(
                f"{path}: has no {name} of shape {tuple(variable.shape)}; "
                "is it of another backbone than model.backbone?"
            )
    return fresh


def initial_weights_digest(start: str | None) -> str:
    """A hash of the weights to start from; empty if there are none.

    Raises:
        ModelError: there are no such weights.
    """
    return "" if start is None else weights_digest(read_weights(_weights_path(start)))


def _weights_path(start: str) -> Path:
    is_model = start in shipped_models() or exists(Path(start) / SETTINGS_FILE)
    return find_model(start).weights if is_model else Path(start)


def _without_repeats(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """By our names, also from Keras' legacy files: ``conv1_bn/conv1_bn/gamma:0`` and the like."""
    result = {}
    for name, value in values.items():
        parts = name.removesuffix(":0").split("/")
        if len(parts) == 3 and parts[0] == parts[1]:
            parts = parts[1:]
        result["/".join(parts)] = value
    return result

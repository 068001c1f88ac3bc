"""What runs the network: fixed point where the processor can, else ONNX Runtime, else TensorFlow.

The last two give the same, fixed point to within 1e-3.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

import numpy as np

from delg.errors import ModelError, UsageError
from delg.inference.backend import Network
from delg.network.tensorflow_import import load_tensorflow
from delg.settings import ModelSettings

RUNTIMES = ("auto", "fixed-point", "onnxruntime", "tensorflow")
# Chooses where nothing else does.
VARIABLE = "DELG_RUNTIME"


def load_network(
    settings: ModelSettings,
    values: dict[str, np.ndarray],
    origin: str,
    runtime: str | None = None,
) -> Network:
    """A network with its weights.

    Args:
        settings: of the model.
        values: its weights by name.
        origin: names them in errors.
        runtime: of ``RUNTIMES``; by default the environment's ``DELG_RUNTIME``, or "auto", which
            is the first of those that the processor, the backbone and what is installed allow.

    Raises:
        ModelError: the weights do not fit, or the runtime cannot run the model.
        UsageError: there is no such runtime.
    """
    runtime = runtime or os.environ.get(VARIABLE) or "auto"
    if runtime not in RUNTIMES:
        raise UsageError(f"{VARIABLE}: no runtime {runtime!r}; there are {', '.join(RUNTIMES)}")
    if runtime == "tensorflow":
        return _tensorflow(settings, values, origin)
    if runtime in ("auto", "fixed-point"):
        fixed = _fixed_point(settings, values, origin)
        if fixed is not None:
            return fixed
        if runtime == "fixed-point":
            raise ModelError(
                f"{settings.backbone} on this processor does not run in fixed point; that takes "
                f"AVX-512 VNNI and one of the package's backbones ({VARIABLE}=onnxruntime)"
            )
    if find_spec("onnxruntime") is None:
        if runtime == "auto":
            return _tensorflow(settings, values, origin)
        raise ModelError("onnxruntime is not installed: pip install onnxruntime")
    from delg.inference.onnx_network import write_model
    from delg.inference.onnx_runtime import LightNetwork

    model = write_model(settings, values, origin)
    if model is not None:
        return LightNetwork(model)
    if runtime == "auto":
        return _tensorflow(settings, values, origin)
    raise ModelError(f"{settings.backbone} runs in TensorFlow only ({VARIABLE}=tensorflow)")


def _fixed_point(
    settings: ModelSettings, values: dict[str, np.ndarray], origin: str
) -> Network | None:
    from delg.inference.layered_backbones import halves

    backbone = halves(settings.backbone, settings.block3_strides)
    if backbone is None:
        return None
    from delg.inference.fixed_network import FixedNetwork
    from delg.inference.fixed_point import supported

    return FixedNetwork(settings, backbone, values, origin) if supported() else None


def _tensorflow(settings: ModelSettings, values: dict[str, np.ndarray], origin: str) -> Network:
    load_tensorflow()
    from delg.inference.tensorflow_network import TensorFlowNetwork
    from delg.network.delg_model import Delg
    from delg.network.weights import load_weights

    model = Delg(settings)
    load_weights(model, values, origin)
    return TensorFlowNetwork(model)

"""What runs a network: the ONNX file beside its weights, or one exported from Keras once."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from functools import cache
from pathlib import Path

import numpy as np

from delg.errors import DelgError, ModelError
from delg.files import write_bytes
from delg.inference.backend import Backend
from delg.network.tensorflow_import import load_tensorflow
from delg.paths import exists
from delg.settings import ModelSettings

# Chose a runtime when there were several.
_OLD_VARIABLE = "DELG_RUNTIME"
_LOG = logging.getLogger(__name__)


def network_digest(settings: ModelSettings, weights_digest: str) -> str:
    """Hash of all that defines a network, but not of how it is used, 64 hexadecimal digits.

    Args:
        settings: of the model.
        weights_digest: see :func:`delg.network.weights.weights_digest`.
    """
    local_head = {"dim", "attention", "attention_hidden"}
    # Networks from before this key existed keep their digests.
    if settings.local_head.attention_norm_power:
        local_head.add("attention_norm_power")
    definition = settings.model_dump(
        mode="json",
        include={
            "backbone": True,
            "block3_strides": True,
            "input": True,
            "global_head": True,
            "local_head": local_head,
            "local_only": True,
        },
    )
    text = json.dumps([definition, weights_digest], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def load_backend(
    settings: ModelSettings,
    weights: dict[str, np.ndarray],
    origin: Path,
    network_file: Path,
    cache_folder: Path,
) -> Backend:
    """A network ready to run.

    Args:
        settings: of the model.
        weights: its weights by name.
        origin: their file, which errors name.
        network_file: the ONNX file that belongs to them; it need not exist where the precision is
            float32.
        cache_folder: where networks are kept that had to be exported.

    Raises:
        ModelError: the weights do not fit, or the file of a quantised model is missing, damaged or
            was made from other weights.
    """
    from delg.inference.onnx_runtime import DIGEST, PRECISION, OnnxRuntimeBackend
    from delg.network.weights import weights_digest

    _warn_of_old_variable()
    digest = network_digest(settings, weights_digest(weights))

    def read(path: Path) -> OnnxRuntimeBackend | None:
        """None if the file is of other weights or another precision."""
        try:
            backend = OnnxRuntimeBackend(path.read_bytes(), str(path))
        except OSError as error:
            raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
        metadata = backend.metadata
        fits = metadata.get(DIGEST) == digest and metadata.get(PRECISION) == settings.precision
        return backend if fits else None

    if settings.precision != "float32":
        backend = read(network_file)
        if backend is None:
            raise ModelError(
                f"{network_file}: was not made from {origin}; quantise the model again "
                "(delg model quantize)"
            )
        return backend
    cached = cache_folder / f"{digest}.onnx"
    for path in (network_file, cached):
        if exists(path):
            try:
                backend = read(path)
            except ModelError as error:
                _LOG.warning("%s", error)
                continue
            if backend is not None:
                return backend
    return _export(settings, weights, origin, digest, cached)


def _export(
    settings: ModelSettings,
    weights: dict[str, np.ndarray],
    origin: Path,
    digest: str,
    path: Path,
) -> Backend:
    from delg.inference.onnx_runtime import OnnxRuntimeBackend

    _LOG.warning("%s: TensorFlow exports the network, once, to %s", origin, path)
    load_tensorflow()
    from delg.inference.export_onnx import export_network
    from delg.network.delg_model import Delg
    from delg.network.weights import load_weights

    model = Delg(settings)
    load_weights(model, weights, str(origin))
    network = export_network(model, digest)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, network)
    except (OSError, DelgError) as error:
        _LOG.warning("the exported network is not kept: %s", error)
        return OnnxRuntimeBackend(network, f"exported from {origin}")
    return OnnxRuntimeBackend(network, str(path))


@cache
def _warn_of_old_variable() -> None:
    if os.environ.get(_OLD_VARIABLE):
        _LOG.warning(
            "%s is ignored: networks run in ONNX Runtime; a model's settings choose its precision",
            _OLD_VARIABLE,
        )

"""A vision transformer as one ONNX file: exported from Keras, in float32 or int8, and run.

    image   uint8 (1, side, side, 3), RGB
    pooled  float32 (1, pooled_dim): the class token and the mean patch token, each of unit length

The metadata hold ``digest``, which says what tower this is, and ``precision``. In int8 the weights
of the products take 8 bits, and activations are quantised by their range in each photo. Weights are
unsigned: processors without VNNI add products of signed ones in 16 bits, which overflow.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delg.errors import ModelError
from delg.forks import PerProcess
from delg.inference.onnx_runtime import DIGEST, IMAGE, PRECISION, load_session
from delg.network.weights import weights_digest
from delg.settings import TowerSettings
from delg.types import FloatArray

POOLED = "pooled"
# Largest deviation of a component from Keras; in int8, the smallest cosine on an image of noise.
TOLERANCE, _MIN_COSINE = 1e-4, 0.9
# More photos at a time would cost memory and hardly be faster.
_MAX_PARALLEL = 8


def tower_digest(spec: TowerSettings, weights: dict[str, np.ndarray]) -> str:
    """Hash of all that defines what a tower gives, 64 hexadecimal digits.

    Args:
        spec: of the tower.
        weights: float32, by the names of :class:`delg.network.vit.ViT`.
    """
    definition = spec.model_dump(
        mode="json", exclude={"weights", "url", "sha256", "adapted_dim", "dim"}
    )
    text = json.dumps([definition, weights_digest(weights)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def export_tower(spec: TowerSettings, weights: dict[str, np.ndarray], origin: str) -> bytes:
    """A tower as an ONNX file, checked against Keras; TensorFlow is needed.

    Args:
        spec: of the tower.
        weights: see :func:`tower_digest`.
        origin: names their source in errors.

    Raises:
        ModelError: the weights do not fit, or ONNX Runtime's output differs from Keras'.
    """
    import onnx

    from delg.network.vit import ViT

    model = ViT(spec)
    model.load(weights, origin)
    network = _convert(model, spec)
    if spec.precision == "int8":
        network = _quantise(network)
    network.producer_name, network.producer_version = "delg", ""
    digest = tower_digest(spec, weights)
    onnx.helper.set_model_props(network, {DIGEST: digest, PRECISION: spec.precision})
    exported = bytes(network.SerializeToString(deterministic=True))
    image = np.random.default_rng(0).integers(0, 256, (spec.side, spec.side, 3), np.uint8)
    _check(spec, np.asarray(model(image[None]))[0], Tower(exported, origin).run(image), origin)
    return exported


def _convert(model: Any, spec: TowerSettings) -> Any:
    """The ONNX model of a ViT in float32."""
    import tensorflow as tf
    import tf2onnx
    from onnx import numpy_helper

    from delg.inference.export_onnx import OPSET, silence

    # As inputs, since TensorFlow and the converter would copy constants many times over.
    specs = [
        tf.TensorSpec(variable.shape, tf.float32, name=f"weight{number}")
        for number, variable in enumerate(model.variables)
    ]
    image_spec = tf.TensorSpec([1, spec.side, spec.side, 3], tf.uint8, name=IMAGE)

    def run(image: tf.Tensor, *values: tf.Tensor) -> dict[str, tf.Tensor]:
        pooled, _ = model.stateless_call(list(values), [], image)
        return {POOLED: pooled}

    signature = [image_spec, *specs]
    function = tf.function(run, input_signature=signature, autograph=False)
    with silence(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network, _ = tf2onnx.convert.from_function(function, signature, opset=OPSET)
    graph = network.graph
    kept = [value for value in graph.input if value.name == IMAGE]
    del graph.input[:]
    graph.input.extend(kept)
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(variable.value, np.float32), f"weight{number}")
        for number, variable in enumerate(model.variables)
    )
    return network


def _quantise(network: Any) -> Any:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        onnx.save(network, source)
        quantize_dynamic(
            source, target, op_types_to_quantize=["MatMul"], per_channel=True,
            weight_type=QuantType.QUInt8,
        )  # fmt: skip
        return onnx.load(target)


def _check(spec: TowerSettings, expected: FloatArray, output: FloatArray, origin: str) -> None:
    if spec.precision == "float32":
        difference = float(np.abs(expected - output).max())
        fits, how = difference <= TOLERANCE, f"{difference:.2g} off Keras' own"
    else:
        cosine = float(expected @ output / np.linalg.norm(expected) / np.linalg.norm(output))
        fits, how = cosine >= _MIN_COSINE, f"of cosine {cosine:.2f} with Keras' own in float32"
    if not fits:
        raise ModelError(f"{origin}: the tower in ONNX Runtime is {how}")


class Tower:
    """A tower in ONNX Runtime.

    Args:
        model: bytes of the ONNX file.
        origin: names the file.

    Attributes:
        digest, precision: see the head of this file.
        side: of the square that it sees, in pixels.

    Raises:
        ModelError: the file is damaged, or not of this package's making.
    """

    def __init__(self, model: bytes, origin: str) -> None:
        cores = os.cpu_count() or 1
        self._single = PerProcess(lambda: load_session(model, cores))
        # With cores of its own, a photo waits for no other thread.
        threads = max(1, cores // _MAX_PARALLEL)
        self._parallel = PerProcess(lambda: load_session(model, threads))
        try:
            session = self._single()
            metadata = session.get_modelmeta().custom_metadata_map
            self.digest, self.precision = metadata[DIGEST], metadata[PRECISION]
            self.side = int(session.get_inputs()[0].shape[1])
        except (KeyError, ValueError, TypeError, IndexError):
            raise ModelError(f"{origin}: not a tower; pull it again") from None
        except ModelError as error:
            raise ModelError(f"{origin}: {error}") from None

    def run(self, image: NDArray[np.uint8], all_cores: bool = True) -> FloatArray:
        """The pooled tokens float32 (pooled_dim,) of a photo.

        Args:
            image: uint8 (side, side, 3), RGB.
            all_cores: use all of them; otherwise leave some to other photos.
        """
        session = self._single() if all_cores else self._parallel()
        return np.asarray(session.run([POOLED], {IMAGE: image[None]})[0][0], np.float32)

"""A model of ours for other runtimes: SavedModel, ONNX, LiteRT; each checked against Keras.

A SavedModel does all that extraction does, with the signature of the published exports
(:mod:`delg.zoo.published_signature`), and a ``settings.yaml`` in its folder lets this engine use it
by its path. ONNX and LiteRT hold the network for one level of the pyramid:

    image              float32 (1, H, W, 3), RGB, 0 to 255, H and W multiples of 32
    global_descriptor  (1, D), unit length
    local_descriptors  (1, H / stride, W / stride, d), unit length
    attention          (1, H / stride, W / stride)

A model without a global head gives no ``global_descriptor`` and cannot be a SavedModel.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import yaml
from tensorflow.python.framework.convert_to_constants import (
    convert_variables_to_constants_v2,
)

from delg.errors import DelgError, ModelError, UsageError
from delg.inference.export_onnx import convert, silence
from delg.inference.onnx_runtime import load_session
from delg.network.delg_model import Delg
from delg.network.weights import load_weights, read_weights
from delg.paths import exists
from delg.settings import ExportSettings
from delg.zoo.published_signature import save_serving, weight_of_scale
from delg.zoo.registry import SETTINGS_FILE, ModelFiles

FORMATS = ("savedmodel", "onnx", "litert")
OUTPUTS = ("global_descriptor", "local_descriptors", "attention")
# Not square, so that a swap of axes shows; a tenth of what would change a match.
_PROBE = (160, 224)
_TOLERANCE = 1e-3
_IMAGE = tf.TensorSpec([1, None, None, 3], tf.float32, name="image")
Outputs = Mapping[str, np.ndarray]


def export_model(files: ModelFiles, out: Path, kind: str) -> dict[str, float]:
    """Write a model for another runtime, after its outputs there were compared with Keras'.

    Args:
        files: of a model with weights here. Where local descriptors have a part in the global one,
            what is written gives the network's own.
        out: folder (savedmodel) or file to write; it must not exist.
        kind: of ``FORMATS``.

    Returns:
        Output name -> largest deviation from Keras on a probe image (attention: relative to its
        largest value).

    Raises:
        UsageError: there is no such format, or ``out`` exists.
        ModelError: the model cannot be exported.
        DelgError: a package is missing, the outputs differ, or nothing can be written.
    """
    if kind not in FORMATS:
        raise UsageError(f"no format is called {kind!r}; there are {', '.join(FORMATS)}")
    if exists(out):
        raise UsageError(f"{out}: exists; choose another place")
    settings = files.settings
    if settings.export is not None or settings.local_head.kind != "delg" or settings.tower:
        what = "a SavedModel already" if settings.export else "not one network alone"
        raise ModelError(f"{settings.name} is {what} and cannot be exported")
    if kind == "savedmodel" and not settings.has_global:
        raise ModelError(
            f"{settings.name} has no global descriptor, which the published signature has; "
            "export it as onnx or litert"
        )
    if not files.has_weights:
        raise ModelError(files.missing())
    if settings.aggregate is not None:
        files = files.network_alone()
        settings = files.settings
    model = Delg(settings)
    load_weights(model, read_weights(files.weights), str(files.weights))
    probe = np.random.default_rng(0).integers(0, 256, (1, *_PROBE, 3)).astype(np.float32)
    expected = {name: np.asarray(value) for name, value in model(probe).items() if name in OUTPUTS}
    write = {"savedmodel": _saved_model, "onnx": _onnx, "litert": _litert}[kind]
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.absolute().parent) as temporary:
            written = Path(temporary) / out.name
            outputs = write(model, written)(probe)
            deviations = _compare(expected, outputs, settings.name, kind)
            for name, path in files.learnt_for_indexes.items() if kind == "savedmodel" else ():
                shutil.copyfile(path, written / name)
            shutil.move(written, out)
    except OSError as error:
        raise DelgError(f"{out}: cannot be written: {error.strerror or error}") from None
    return deviations


def _compare(expected: Outputs, outputs: Outputs, name: str, kind: str) -> dict[str, float]:
    deviations = {}
    for output, values in expected.items():
        difference = float(np.abs(values - outputs[output]).max())
        scale = float(np.abs(values).max()) if output == "attention" else 1.0
        deviations[output] = difference / max(scale, 1e-12)
        if not deviations[output] <= _TOLERANCE:
            raise DelgError(
                f"{name}: {output} as {kind} is {deviations[output]:.2g} off Keras' own; "
                "not written"
            )
    return deviations


def _level(model: Delg) -> Any:
    """The network for one level, as a function to convert."""

    @tf.function(input_signature=[_IMAGE], autograph=False)
    def level(image: tf.Tensor) -> dict[str, tf.Tensor]:
        return {name: value for name, value in model(image).items() if name in OUTPUTS}

    return level


def _saved_model(model: Delg, out: Path) -> Callable[[np.ndarray], Outputs]:
    save_serving(model, out)
    # Weights of scales are part of the graph.
    extraction = model.settings.extraction.model_copy(update={"scale_weights": None})
    settings = model.settings.model_copy(
        update={
            "export": ExportSettings(crops_border=True),
            "precision": "float32",
            "extraction": extraction,
            "selected_by_norm": None,
        }
    )
    (out / SETTINGS_FILE).write_text(
        yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    )
    loaded = tf.saved_model.load(str(out))

    def run(image: np.ndarray) -> Outputs:
        features = loaded.signatures["serving_default"](
            input_image=tf.constant(image[0], tf.uint8),
            input_scales=tf.constant([1.0]),
            input_max_feature_num=tf.constant(1 << 30),
            input_abs_thres=tf.constant(-np.inf, tf.float32),
            input_global_scales_ind=tf.constant([0]),
        )
        return _on_grid(model, {name: value.numpy() for name, value in features.items()}, image)

    return run


def _on_grid(model: Delg, features: Outputs, image: np.ndarray) -> Outputs:
    """A list of features on the grid of cells; cells of the border, which it leaves out, have the
    values of Keras."""
    expected = {name: np.array(value) for name, value in model(image).items() if name in OUTPUTS}
    centres = features["boxes"].reshape(-1, 2, 2).mean(axis=1)
    cells = np.rint((centres - model.offset) / model.stride).astype(int)
    rows, columns = cells.T
    expected["local_descriptors"][0, rows, columns] = features["features"]
    weight = weight_of_scale(model.settings.extraction, tf.constant(1.0)).numpy()
    expected["attention"][0, rows, columns] = features["scores"][:, 0] / weight
    return {**expected, "global_descriptor": features["global_descriptors"]}


def _onnx(model: Delg, out: Path) -> Callable[[np.ndarray], Outputs]:
    network = convert(_level(model).python_function, _IMAGE).SerializeToString()
    out.write_bytes(network)
    session = load_session(network, os.cpu_count() or 1)
    names = [output.name for output in session.get_outputs()]
    return lambda image: dict(zip(names, session.run(None, {"image": image}), strict=True))


def _litert(model: Delg, out: Path) -> Callable[[np.ndarray], Outputs]:
    concrete = _level(model).get_concrete_function()
    # Variables left in the graph would find no home in LiteRT.
    frozen, names = convert_variables_to_constants_v2(concrete), sorted(concrete.structured_outputs)

    @tf.function(input_signature=concrete.structured_input_signature[0], autograph=False)
    def level(image: tf.Tensor) -> dict[str, tf.Tensor]:
        return dict(zip(names, frozen(image), strict=True))

    with tempfile.TemporaryDirectory() as folder, silence():
        module = tf.Module()
        module.level = level
        tf.saved_model.save(module, folder, signatures={"serving_default": level})
        out.write_bytes(tf.lite.TFLiteConverter.from_saved_model(folder).convert())
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        Interpreter = tf.lite.Interpreter  # noqa: N806
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's own interpreter announces its end.
        run = Interpreter(model_path=str(out)).get_signature_runner("serving_default")
    return lambda image: run(image=image)

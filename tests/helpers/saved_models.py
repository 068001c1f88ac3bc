"""SavedModels of both kinds that the published models come in, made of the default model."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import yaml
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from delg.delf_files import write_datum
from delg.inference.saved_model import GLOBAL_INPUT, GLOBAL_OUTPUT
from delg.network.delg_model import Delg
from delg.network.weights import load_weights, read_weights
from delg.zoo.published_signature import Serving, save_serving
from delg.zoo.registry import find_model

PCA_DIM = 24


def lite_network() -> Delg:
    files = find_model("delg-lite")
    model = Delg(files.settings)
    load_weights(model, read_weights(files.weights), "delg-lite")
    return model


def describe(folder: Path, name: str, **values: object) -> None:
    """Write a settings.yaml like that of delg-lite but for some sections."""
    settings = find_model("delg-lite").settings.model_dump(mode="json")
    settings["extraction"]["border_cells"] = 1
    (folder / "settings.yaml").write_text(yaml.safe_dump({**settings, "name": name, **values}))


def new_style(model: Delg, folder: Path) -> Path:
    """A SavedModel with the signature ``serving_default``."""
    save_serving(model, folder)
    describe(folder, "new-style", export={"crops_border": True})
    return folder


@cache
def _frozen(model: Delg) -> tuple[Any, dict[str, Any]]:
    """The whole extraction as one graph without variables, and its outputs by name."""
    serving = Serving(model)
    concrete = serving.extract.get_concrete_function()
    frozen = convert_variables_to_constants_v2(concrete)
    return frozen, dict(zip(sorted(concrete.structured_outputs), frozen.outputs, strict=True))


def old_style(model: Delg, folder: Path, where: str, with_global: bool) -> None:
    """A SavedModel of TensorFlow 1 whose tensors have the published names and no signature."""
    frozen, outputs = _frozen(model)
    with tf.compat.v1.Graph().as_default() as graph:
        inputs = {
            tensor.op.name: tf.compat.v1.placeholder(
                tensor.dtype, tensor.shape, name=tensor.op.name
            )
            for tensor in frozen.inputs
            if with_global or tensor.op.name != GLOBAL_INPUT
        }
        fed = {f"{name}:0": tensor for name, tensor in inputs.items()}
        if not with_global:
            fed[f"{GLOBAL_INPUT}:0"] = tf.zeros([0], tf.int32)
        wanted = [name for name in outputs if with_global or name != GLOBAL_OUTPUT]
        names = [outputs[name].name for name in wanted]
        outputs = tf.import_graph_def(
            frozen.graph.as_graph_def(), input_map=fed, return_elements=names, name="inside"
        )
        for name, tensor in zip(wanted, outputs, strict=True):
            tf.identity(tensor, name=name)
        with tf.compat.v1.Session(graph=graph) as session:
            builder = tf.compat.v1.saved_model.Builder(str(folder / where))
            builder.add_meta_graph_and_variables(session, [tf.saved_model.SERVING])
            builder.save()


def old_delg(model: Delg, folder: Path) -> Path:
    """Global and local features, by the names of tensors."""
    old_style(model, folder, ".", True)
    describe(folder, "old-style", export={"crops_border": True})
    return folder


def old_delf(model: Delg, folder: Path) -> Path:
    """Local features alone, with the files of a PCA beside the SavedModel."""
    old_style(model, folder, "model", False)
    (folder / "pca").mkdir()
    dim = model.settings.local_head.dim
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(dim, dim)))[0].astype(np.float32)
    write_datum(folder / "pca" / "mean.datum", rng.normal(0, 0.01, dim).astype(np.float32))
    write_datum(folder / "pca" / "pca_proj_mat.datum", turn)
    describe(
        folder,
        "delf",
        global_head={"dim": PCA_DIM * (PCA_DIM + 1) // 2},
        local_head={"dim": PCA_DIM},
        export={
            "folder": "model",
            "has_global": False,
            "crops_border": True,
            "pca": {"mean": "pca/mean.datum", "matrix": "pca/pca_proj_mat.datum", "dim": PCA_DIM},
        },
    )
    return folder

"""SavedModels of both kinds that the published models come in, made of the default model.

They follow the published convention, whatever this package writes: a box is the receptive field of
291 pixels around its cell, mapped back to pixels of the input image without half-pixel centres;
``scales`` are 1 / the level's scale. Only the sides of levels are multiples of 32, as this network
needs to have its cells in the right places.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import yaml
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from delg.delf_files import _message_classes, write_datum
from delg.network.delg_model import Delg
from delg.network.weights import load_weights, read_weights
from delg.zoo.registry import find_model

PCA_DIM = 24
RECEPTIVE_FIELD, STRIDE, PADDING = 291.0, 16.0, 145.0
INPUTS = {
    "input_image": ([None, None, 3], tf.uint8),
    "input_scales": ([None], tf.float32),
    "input_max_feature_num": ([], tf.int32),
    "input_abs_thres": ([], tf.float32),
    "input_global_scales_ind": ([None], tf.int32),
}
GLOBAL_INPUT, GLOBAL_OUTPUT = "input_global_scales_ind", "global_descriptors"


def lite_network() -> Delg:
    files = find_model("delg-lite")
    model = Delg(files.settings)
    load_weights(model, read_weights(files.weights), "delg-lite")
    return model


def describe(folder: Path, name: str, **values: object) -> None:
    """Write a settings.yaml like that of delg-lite's network, with photos only ever reduced, as
    published."""
    settings = find_model("delg-lite").network_alone().in_float32().settings.model_dump(mode="json")
    settings["extraction"] |= {"border_cells": 0, "enlarge": False, "scale_weights": None}
    (folder / "settings.yaml").write_text(yaml.safe_dump({**settings, "name": name, **values}))


def _level_features(model: Delg, image: tf.Tensor, scale: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Boxes, descriptors, scales, scores and the global descriptor of one level."""
    size = tf.cast(tf.shape(image)[:2], tf.float32)
    level_size = tf.maximum(tf.round(size * scale / 32), 1) * 32
    mid = model.mid_level(tf.image.resize(image[None], tf.cast(level_size, tf.int32)))
    descriptors, scores = model.local_head(mid)
    rows, columns = tf.shape(scores)[1], tf.shape(scores)[2]
    cells = tf.stack(tf.meshgrid(tf.range(rows), tf.range(columns), indexing="ij"), axis=-1)
    # The published network's cells lie at multiples of the stride, this one's off by its offset.
    corners = tf.reshape(tf.cast(cells, tf.float32), [-1, 2]) * STRIDE + model.offset - PADDING
    boxes = tf.concat([corners, corners + RECEPTIVE_FIELD - 1], axis=1)
    boxes *= tf.tile(size / level_size, [2])
    scores = tf.reshape(scores, [-1])
    descriptors = tf.reshape(descriptors, [-1, model.settings.local_head.dim])
    return boxes, descriptors, tf.ones_like(scores) / scale, scores, model.global_head(mid)


@cache
def _frozen(model: Delg) -> tuple[Any, dict[str, Any]]:
    """The extraction as one graph without variables, and its outputs by name."""

    @tf.function(
        input_signature=[tf.TensorSpec(*spec, name=name) for name, spec in INPUTS.items()],
        autograph=False,
    )
    def extract(image, scales, max_features, threshold, global_indices):
        def add_level(i, *collected):
            result = _level_features(model, image, scales[i])
            return i + 1, *(tf.concat(pair, 0) for pair in zip(collected, result, strict=True))

        dim, local_dim = (h.dim for h in (model.settings.global_head, model.settings.local_head))
        shapes = [[None, 4], [None, local_dim], [None], [None], [None, dim]]
        empty = [tf.zeros([0 if side is None else side for side in shape]) for shape in shapes]
        _, boxes, features, feature_scales, scores, descriptors = tf.while_loop(
            lambda i, *_: i < tf.size(scales),
            add_level,
            [tf.constant(0), *empty],
            [tf.TensorShape([]), *map(tf.TensorShape, shapes)],
        )
        passed = tf.where(scores >= threshold)[:, 0]
        kept = tf.minimum(max_features, tf.size(passed))
        best = tf.gather(passed, tf.math.top_k(tf.gather(scores, passed), kept).indices)
        return {
            "boxes": tf.gather(boxes, best),
            "features": tf.gather(features, best),
            "scales": tf.gather(feature_scales, best),
            "scores": tf.gather(scores, best)[:, None],
            GLOBAL_OUTPUT: tf.gather(descriptors, global_indices),
        }

    concrete = extract.get_concrete_function()
    frozen = convert_variables_to_constants_v2(concrete)
    return frozen, dict(zip(sorted(concrete.structured_outputs), frozen.outputs, strict=True))


def new_style(model: Delg, folder: Path, name: str = "new-style") -> Path:
    """A SavedModel with the signature ``serving_default``."""
    frozen, outputs = _frozen(model)
    module = tf.Module()

    @tf.function(
        input_signature=[tf.TensorSpec(*spec, name=name) for name, spec in INPUTS.items()],
        autograph=False,
    )
    def extract(*inputs):
        return dict(zip(outputs, frozen(*inputs), strict=True))

    module.extract = extract
    tf.saved_model.save(module, str(folder), signatures={"serving_default": extract})
    describe(folder, name, export={})
    return folder


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
    describe(folder, "old-style", export={})
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
            "pca": {"mean": "pca/mean.datum", "matrix": "pca/pca_proj_mat.datum", "dim": PCA_DIM},
        },
    )
    return folder


def published_files(folder: Path, photo: np.ndarray, name: Path) -> None:
    """Write ``name`` + .delg_global and .delg_local of a photo that the model sees as it is, as the
    published tools do: places are the middles of boxes, scales those that the SavedModel gives."""
    spec = find_model(str(folder)).settings.extraction
    result = tf.saved_model.load(str(folder)).signatures["serving_default"](
        input_image=tf.constant(photo),
        input_scales=tf.constant(spec.scales),
        input_max_feature_num=tf.constant(spec.max_features),
        input_abs_thres=tf.constant(0.0),
        input_global_scales_ind=tf.constant([spec.scales.index(s) for s in spec.global_scales]),
    )
    values = {key: tensor.numpy() for key, tensor in result.items()}
    descriptor = values[GLOBAL_OUTPUT].sum(axis=0)
    write_datum(name.with_suffix(".delg_global"), descriptor / np.linalg.norm(descriptor))
    message = _message_classes()["DelfFeatures"]()
    for box, vector, scale, score in zip(
        *(values[key] for key in ("boxes", "features", "scales", "scores")), strict=True
    ):
        feature = message.feature.add(
            y=(box[0] + box[2]) / 2, x=(box[1] + box[3]) / 2, scale=scale, strength=score[0]
        )
        feature.descriptor.shape.dim.append(len(vector))
        feature.descriptor.float_list.value.extend(vector)
    name.with_suffix(".delg_local").write_bytes(message.SerializeToString())

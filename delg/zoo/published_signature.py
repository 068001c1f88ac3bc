"""A DELG network as a SavedModel with the signature of the published exports.

The pyramid, the selection of the best cells over all scales and their boxes become part of the
graph, so that pipelines made for the published models run it unchanged;
:mod:`delg.inference.saved_model` describes inputs and outputs. Versions before 0.2 wrote the
pyramid scale where the published exports give 1 / scale: for one level at half size such a
SavedModel gives 0.5, not 2.
"""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import (
    convert_variables_to_constants_v2,
)

from delg.errors import ModelError
from delg.images.pyramid import ALIGNMENT
from delg.network.delg_model import Delg
from delg.settings import ExtractionSettings

# Half the receptive field of ResNet's conv4_x; other networks get boxes of their own cell. Readers
# of the boxes use only their centre.
_HALF_FIELD = 145.0


class Serving(tf.Module):
    """The function behind the signature.

    Args:
        model: its weights as they are now.

    Raises:
        ModelError: its local features are not the network's own.
    """

    def __init__(self, model: Delg) -> None:
        super().__init__()
        settings = model.settings
        if settings.local_head.kind != "delg":
            raise ModelError(
                f"{settings.name}: local features of kind {settings.local_head.kind} are not part "
                "of the network and cannot be exported"
            )
        self._dim, self._local_dim = settings.global_head.dim, settings.local_head.dim
        self._extraction = settings.extraction
        self._stride, self._offset = float(model.stride), model.offset
        resnet = settings.backbone.startswith("resnet")
        self._half_field = _HALF_FIELD if resnet else self._stride / 2

        @tf.function(
            input_signature=[
                tf.TensorSpec([1, None, None, 3], tf.float32),
                tf.TensorSpec([], tf.bool),
            ]
        )
        def network(pixels: tf.Tensor, with_global: tf.Tensor) -> tuple[tf.Tensor, ...]:
            mid = model.mid_level(pixels)
            descriptors, scores = model.local_head(mid)
            dim = self._dim
            global_descriptor = tf.cond(
                with_global, lambda: model.global_head(mid), lambda: tf.zeros([1, dim])
            )
            return descriptors[0], scores[0], global_descriptor[0]

        # Frozen, the graph has no variables to lose and the batch norms are folded.
        self._network = convert_variables_to_constants_v2(network.get_concrete_function())

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None, 3], tf.uint8, name="input_image"),
            tf.TensorSpec([None], tf.float32, name="input_scales"),
            tf.TensorSpec([], tf.int32, name="input_max_feature_num"),
            tf.TensorSpec([], tf.float32, name="input_abs_thres"),
            tf.TensorSpec([None], tf.int32, name="input_global_scales_ind"),
        ],
        autograph=False,
    )
    def extract(
        self,
        input_image: tf.Tensor,
        input_scales: tf.Tensor,
        input_max_feature_num: tf.Tensor,
        input_abs_thres: tf.Tensor,
        input_global_scales_ind: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        """Features of one photo, best score first; see :mod:`delg.inference.saved_model`."""
        count = tf.size(input_scales)

        def array(shape: list[int | None]) -> tf.TensorArray:
            return tf.TensorArray(tf.float32, count, infer_shape=False, element_shape=shape)

        def add_level(i: tf.Tensor, *arrays: tf.TensorArray) -> tuple[Any, ...]:
            with_global = tf.reduce_any(input_global_scales_ind == i)
            outputs = self._level(input_image, input_scales[i], with_global, input_abs_thres)
            return i + 1, *(a.write(i, value) for a, value in zip(arrays, outputs, strict=True))

        shapes: list[list[int | None]] = [
            [None, 4], [None, self._local_dim], [None], [None], [self._dim],
        ]  # fmt: skip
        _, *arrays = tf.while_loop(
            lambda i, *_: i < count, add_level, [tf.constant(0), *map(array, shapes)]
        )
        boxes, features, scales, scores = (parts.concat() for parts in arrays[:-1])
        global_descriptors = arrays[-1].stack()
        keep = tf.minimum(input_max_feature_num, tf.size(scores))
        scores, top_k = tf.math.top_k(scores, keep)
        return {
            "boxes": tf.gather(boxes, top_k),
            "features": tf.gather(features, top_k),
            "scales": tf.gather(scales, top_k),
            "scores": scores[:, None],
            "global_descriptors": tf.gather(global_descriptors, input_global_scales_ind),
        }

    def _level(
        self, image: tf.Tensor, scale: tf.Tensor, with_global: tf.Tensor, threshold: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        """Boxes, descriptors, scales and scores of the cells of a level that reach the threshold,
        and the global descriptor ``with_global``, else zeros."""
        size = tf.cast(tf.shape(image)[:2], tf.float32)
        cells = tf.maximum(tf.round(size * scale / ALIGNMENT), 1.0)
        resized = tf.cast(cells, tf.int32) * ALIGNMENT
        pixels = tf.image.resize(image[None], resized, antialias=True)
        # In training the network gets uint8 pixels.
        pixels = tf.clip_by_value(tf.round(pixels), 0.0, 255.0)
        descriptors, scores, global_descriptor = self._network(pixels, with_global)
        rows, columns = tf.shape(scores)[0], tf.shape(scores)[1]
        y = tf.minimum(self._extraction.border_cells, (rows - 1) // 4)
        x = tf.minimum(self._extraction.border_cells, (columns - 1) // 4)
        grid = tf.stack(tf.meshgrid(tf.range(rows), tf.range(columns), indexing="ij"), axis=-1)
        grid, descriptors, scores = (
            values[y : rows - y, x : columns - x] for values in (grid, descriptors, scores)
        )
        kept = tf.where(tf.reshape(scores, [-1]) >= threshold)[:, 0]
        scores = tf.gather(tf.reshape(scores, [-1]), kept)
        descriptors = tf.gather(tf.reshape(descriptors, [-1, self._local_dim]), kept)
        grid = tf.gather(tf.reshape(grid, [-1, 2]), kept)
        centres = tf.cast(grid, tf.float32) * self._stride + self._offset
        ratio = size / tf.cast(resized, tf.float32)
        centres = (centres + 0.5) * ratio - 0.5
        scores *= weight_of_scale(self._extraction, scale)
        half = self._half_field * ratio
        boxes = tf.concat([centres - half, centres + half], axis=1)
        return boxes, descriptors, tf.fill(tf.shape(scores), 1 / scale), scores, global_descriptor


def weight_of_scale(extraction: ExtractionSettings, scale: tf.Tensor) -> tf.Tensor:
    """What scores of a level are multiplied by; between the model's own scales, by their
    logarithms."""
    scales = sorted(extraction.weight_by_scale.items())
    weight = tf.constant(scales[0][1])
    for (low, before), (high, after) in pairwise(scales):
        share = (tf.math.log(scale) - math.log(low)) / math.log(high / low)
        weight += (after - before) * tf.clip_by_value(share, 0.0, 1.0)
    return weight


def save_serving(model: Delg, folder: Path) -> None:
    """Write the SavedModel into a folder."""
    serving = Serving(model)
    tf.saved_model.save(serving, str(folder), signatures={"serving_default": serving.extract})

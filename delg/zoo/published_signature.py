"""A DELG network as a SavedModel with the signature of the published exports.

The pyramid, the choice of the best cells over all scales and their boxes become part of the graph,
so that pipelines made for the published models run it unchanged;
:mod:`delg.inference.saved_model` says what
goes in and out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import (
    convert_variables_to_constants_v2,
)

from delg.errors import ModelError
from delg.images.pyramid import ALIGNMENT
from delg.network.delg_model import Delg

# Half the receptive field of ResNet's conv4_x; others are said to see their own cell. Whoever reads
# the boxes wants their middle.
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
        self._border = settings.extraction.border_cells
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
            whole = tf.cond(with_global, lambda: model.global_head(mid), lambda: tf.zeros([1, dim]))
            return descriptors[0], scores[0], whole[0]

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

        def one_scale(i: tf.Tensor, *arrays: tf.TensorArray) -> tuple[Any, ...]:
            wanted = tf.reduce_any(input_global_scales_ind == i)
            found = self._level(input_image, input_scales[i], wanted, input_abs_thres)
            return i + 1, *(one.write(i, value) for one, value in zip(arrays, found, strict=True))

        shapes: list[list[int | None]] = [
            [None, 4], [None, self._local_dim], [None], [None], [self._dim],
        ]  # fmt: skip
        _, *arrays = tf.while_loop(
            lambda i, *_: i < count, one_scale, [tf.constant(0), *map(array, shapes)]
        )
        boxes, features, scales, scores = (one.concat() for one in arrays[:-1])
        wholes = arrays[-1].stack()
        keep = tf.minimum(input_max_feature_num, tf.size(scores))
        scores, best = tf.math.top_k(scores, keep)
        return {
            "boxes": tf.gather(boxes, best),
            "features": tf.gather(features, best),
            "scales": tf.gather(scales, best),
            "scores": scores[:, None],
            "global_descriptors": tf.gather(wholes, input_global_scales_ind),
        }

    def _level(
        self, image: tf.Tensor, scale: tf.Tensor, wanted: tf.Tensor, threshold: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        """Boxes, descriptors, scales and scores of one level's good cells, and the global
        descriptor if it is wanted."""
        size = tf.cast(tf.shape(image)[:2], tf.float32)
        cells = tf.maximum(tf.round(size * scale / ALIGNMENT), 1.0)
        new = tf.cast(cells, tf.int32) * ALIGNMENT
        pixels = tf.image.resize(image[None], new, antialias=True)
        # As uint8 the network has seen them in training.
        pixels = tf.clip_by_value(tf.round(pixels), 0.0, 255.0)
        descriptors, scores, whole = self._network(pixels, wanted)
        rows, columns = tf.shape(scores)[0], tf.shape(scores)[1]
        y = tf.minimum(self._border, (rows - 1) // 4)
        x = tf.minimum(self._border, (columns - 1) // 4)
        grid = tf.stack(tf.meshgrid(tf.range(rows), tf.range(columns), indexing="ij"), axis=-1)
        grid, descriptors, scores = (
            one[y : rows - y, x : columns - x] for one in (grid, descriptors, scores)
        )
        good = tf.where(tf.reshape(scores, [-1]) >= threshold)[:, 0]
        scores = tf.gather(tf.reshape(scores, [-1]), good)
        descriptors = tf.gather(tf.reshape(descriptors, [-1, self._local_dim]), good)
        grid = tf.gather(tf.reshape(grid, [-1, 2]), good)
        centres = tf.cast(grid, tf.float32) * self._stride + self._offset
        ratio = size / tf.cast(new, tf.float32)
        centres = (centres + 0.5) * ratio - 0.5
        half = self._half_field * ratio
        boxes = tf.concat([centres - half, centres + half], axis=1)
        return boxes, descriptors, tf.fill(tf.shape(scores), scale), scores, whole


def save_serving(model: Delg, folder: Path) -> None:
    """Write the SavedModel into a folder."""
    serving = Serving(model)
    tf.saved_model.save(serving, str(folder), signatures={"serving_default": serving.extract})

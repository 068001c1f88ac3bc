"""The network in TensorFlow: one traced function for every image size."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.python.framework.convert_to_constants import (
    convert_variables_to_constants_v2,
)

from delg.inference.backend import Maps
from delg.network.delg_model import Delg


class TensorFlowNetwork:
    """A DELG model frozen for inference.

    Freezing folds the batch norms into the convolutions, which saves about a quarter of the time.

    Args:
        model: its weights as they are now; later changes to them are not seen.
    """

    runtime = "tensorflow"
    # Its operations share one pool of threads; a second photo fills their serial parts.
    photos_at_once = 2

    def __init__(self, model: Delg) -> None:
        self._stride, self._offset = model.stride, model.offset
        dim, has_global = model.settings.global_head.dim, model.settings.has_global

        @tf.function(
            input_signature=[
                tf.TensorSpec([1, None, None, 3], tf.uint8),
                tf.TensorSpec([], tf.bool),
            ]
        )
        def forward(images: tf.Tensor, with_global: tf.Tensor) -> tuple[tf.Tensor, ...]:
            mid = model.mid_level(images)
            descriptors, scores = model.local_head(mid)
            # The deep half of the network is run only where its answer is wanted.
            if not has_global:
                return descriptors[0], scores[0], tf.zeros([0])
            whole = tf.cond(with_global, lambda: model.global_head(mid), lambda: tf.zeros([1, dim]))
            return descriptors[0], scores[0], whole[0]

        self._forward = convert_variables_to_constants_v2(forward.get_concrete_function())

    def run(self, pixels: NDArray[np.uint8], with_global: bool, alone: bool = True) -> Maps:
        """Run one level; see :class:`delg.inference.backend.Network`."""
        outputs = self._forward(tf.constant(pixels[None]), tf.constant(with_global))
        descriptors, scores, whole = (np.asarray(output) for output in outputs)
        return Maps.on_grid(
            descriptors, scores, whole if with_global else None, self._stride, self._offset
        )

"""The network as extraction runs it: one traced function for every image size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.python.framework.convert_to_constants import (
    convert_variables_to_constants_v2,
)

from delg.model import Delg
from delg.values import FloatArray


@dataclass(frozen=True, eq=False)
class Maps:
    """What the network says about one level of the pyramid; cells row by row.

    Attributes:
        descriptors: float32 (cells, d), unit length.
        scores: float32 (cells,).
        centres: float32 (cells, 2), (x, y), the points the cells describe, in the level's pixels.
        grid: rows and columns of cells.
        global_descriptor: float32 (D,), unit length, or None where it was not asked for.
    """

    descriptors: FloatArray
    scores: FloatArray
    centres: FloatArray
    global_descriptor: FloatArray | None
    grid: tuple[int, int]

    def inside(self, border: int) -> NDArray[np.intp]:
        """Indices of the cells at least ``border`` cells away from every edge.

        Across a narrow grid the border shrinks, so that at least half of the cells stay.
        """
        rows, columns = self.grid
        y, x = min(border, (rows - 1) // 4), min(border, (columns - 1) // 4)
        cells = np.arange(rows * columns).reshape(rows, columns)
        return cells[y : rows - y, x : columns - x].ravel()


class Network:
    """A DELG model frozen for inference.

    Freezing folds the batch norms into the convolutions, which saves about a quarter of the time.

    Args:
        model: its weights as they are now; later changes to them are not seen.
    """

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

    def run(self, pixels: NDArray[np.uint8], with_global: bool) -> Maps:
        """Run one level.

        Args:
            pixels: uint8 (h, w, 3), RGB, h and w multiples of 32.
            with_global: also give the global descriptor.
        """
        outputs = self._forward(tf.constant(pixels[None]), tf.constant(with_global))
        descriptors, scores, whole = (np.asarray(output) for output in outputs)
        rows, columns = scores.shape
        grid = np.mgrid[:rows, :columns].reshape(2, -1)[::-1].T
        return Maps(
            descriptors=descriptors.reshape(rows * columns, -1),
            scores=scores.reshape(-1),
            centres=(grid * self._stride + self._offset).astype(np.float32),
            global_descriptor=whole if with_global else None,
            grid=(rows, columns),
        )

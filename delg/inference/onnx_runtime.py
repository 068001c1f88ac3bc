"""The network in ONNX Runtime: TensorFlow's answers, loaded in a fraction of the time."""

from __future__ import annotations

import os
from functools import cached_property

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from delg.inference.backend import MOST_AT_ONCE, Maps
from delg.inference.onnx_network import OnnxModel

# Warnings about graphs are of no use to people who did not make them.
_ERRORS_ONLY = 3


def load_session(graph: bytes, threads: int) -> onnxruntime.InferenceSession:
    """A graph, run with so many threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _ERRORS_ONLY
    # Waiting threads would take the cores from decoding and from other photos.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


class _Halves:
    """Both halves, with so many threads in each run."""

    def __init__(self, model: OnnxModel, threads: int) -> None:
        self.shallow = load_session(model.shallow, threads)
        self.deep = None if model.deep is None else load_session(model.deep, threads)


class LightNetwork:
    """A DELG model in ONNX Runtime.

    Args:
        model: its graphs.
    """

    runtime = "onnxruntime"

    def __init__(self, model: OnnxModel) -> None:
        self._model = model
        self._cores = os.cpu_count() or 1
        self.photos_at_once = min(self._cores, MOST_AT_ONCE)

    @cached_property
    def _for_one(self) -> _Halves:
        return _Halves(self._model, self._cores)

    @cached_property
    def _for_many(self) -> _Halves:
        # A photo on a core of its own waits for no other thread.
        return _Halves(self._model, self._cores // self.photos_at_once)

    def run(self, pixels: NDArray[np.uint8], with_global: bool, alone: bool = True) -> Maps:
        """Run one level; see :class:`delg.inference.backend.Network`."""
        halves = self._for_one if alone else self._for_many
        deep = halves.deep if with_global else None
        wanted = ["descriptors", "scores", *(["mid"] if deep else [])]
        descriptors, scores, *mid = halves.shallow.run(wanted, {"image": pixels[None]})
        whole = deep.run(None, {"mid": mid[0]})[0][0] if deep else None
        return Maps.on_grid(
            descriptors[0], scores[0], whole, self._model.stride, self._model.offset
        )

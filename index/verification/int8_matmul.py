"""Inner products of the descriptors of two photos, all with all.

Descriptors that come out of codes of a few bytes are compared in whole steps: what a step leaves
out is far less than what the codes have lost, and products of bytes take a fraction of the time.
"""

from __future__ import annotations

import threading
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delg.inference.onnx_file import INT8, INT32, UINT8, Graph
from delg.types import FloatArray

# Steps of 1. With so few, processors that add products in pairs of 16 bits cannot overflow.
STEPS = 63
# Added, so that no step is negative.
_ZERO = 64

Descriptors = FloatArray | NDArray[np.int8]


def to_steps(vectors: FloatArray) -> NDArray[np.int8]:
    """Unit vectors (N, d) in whole steps, as many as in ``STEPS`` to 1."""
    return np.rint(vectors * np.float32(STEPS)).astype(np.int8)


class Products:
    """Products of each descriptor of a photo with each of a query.

    Args:
        query, other: float32 or int8 (N, d) and (M, d), both of the same type; see
            :func:`to_steps`. A query whose columns lie in one piece is not copied.

    Attributes:
        one: the product of a unit vector with itself.
        kind: what products are, int32 or float32.
    """

    def __init__(self, query: Descriptors, other: Descriptors) -> None:
        self._whole = query.dtype == np.int8
        self.one = float(STEPS**2) if self._whole else 1.0
        self.kind: type = np.float32
        self._query: np.ndarray = query.T
        self._other: np.ndarray = other
        if self._whole and _engine() is not None:
            self.kind = np.int32
            self._query = np.ascontiguousarray(query.T)
            self._other = (other + np.int8(_ZERO)).view(np.uint8)
        elif self._whole:
            self._query, self._other = (
                one.astype(np.float32) for one in (self._query, self._other)
            )

    def rows(self, part: slice) -> NDArray[np.float32] | NDArray[np.int32]:
        """Those of a part of the photo's: (m, N), until this thread asks for others."""
        other = self._other[part]
        found = _room(len(other), self._query.shape[1], self.kind)
        if self.kind is np.float32:
            return np.matmul(other, self._query, out=found)
        engine = _engine()
        binding = engine.io_binding()
        binding.bind_cpu_input("other", other)
        binding.bind_cpu_input("query", self._query)
        binding.bind_output("products", "cpu", 0, np.int32, found.shape, found.ctypes.data)
        engine.run_with_iobinding(binding)
        return found


class _Room(threading.local):
    """Memory of a thread's own: to ask the system for new takes longer than to fill it."""

    def __init__(self) -> None:
        self.bytes = np.zeros(0, np.uint8)


_ROOM = _Room()


def _room(rows: int, columns: int, kind: type) -> Any:
    size = rows * columns * np.dtype(kind).itemsize
    if len(_ROOM.bytes) < size:
        _ROOM.bytes = np.zeros(size, np.uint8)
    return _ROOM.bytes[:size].view(kind).reshape(rows, columns)


@cache
def _engine() -> Any:
    """ONNX Runtime's product of bytes; None where it is not installed."""
    if find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    graph = Graph()
    other = graph.input("other", ["rows", "d"], UINT8)
    query = graph.input("query", ["d", "columns"], INT8)
    zero = graph.constant(np.uint8(_ZERO))
    products = graph.add("MatMulInteger", other, query, zero)
    graph.output(products, "products", ["rows", "columns"], INT32)
    options = onnxruntime.SessionOptions()
    # Photos, or parts of them, already run side by side.
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph.model(), options, providers=["CPUExecutionProvider"])

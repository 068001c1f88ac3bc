"""Inner products of all descriptors of two photos.

Descriptors decoded from codes of a few bytes are compared as int8: the rounding is far below what
the codes have lost, and products of bytes take a fraction of the time of float32.
"""

from __future__ import annotations

import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delg.forks import PerProcess
from delg.types import FloatArray

# A component of 1 as int8. So small that processors that add pairs of products in 16 bits cannot
# overflow.
INT8_SCALE = 63
# Added to int8 to make it uint8, as one factor has to be; the zero point of the ONNX graph.
ZERO_POINT = 64
# Made by ``index.verification.int8_matmul_graph``.
GRAPH_FILE = Path(__file__).with_name("int8_matmul.onnx")

Descriptors = FloatArray | NDArray[np.int8]


def quantize(vectors: FloatArray) -> NDArray[np.int8]:
    """Unit vectors, float32 (N, d), as int8 (N, d) in steps of 1 / ``INT8_SCALE``."""
    steps: NDArray[np.int8] = np.rint(vectors * np.float32(INT8_SCALE)).astype(np.int8)
    return steps


class DescriptorProducts:
    """Inner products of each descriptor of a photo with each of a query's.

    Args:
        query, other: float32 or int8 (N, d) and (M, d), both of the same type; int8 as
            :func:`quantize` makes it. A Fortran-ordered query is not copied.

    Attributes:
        unit_product: the product of a unit vector with itself.
        dtype: of the products: int32, or float32.
    """

    def __init__(self, query: Descriptors, other: Descriptors) -> None:
        quantized = query.dtype == np.int8
        self.unit_product = float(INT8_SCALE**2) if quantized else 1.0
        self.dtype: type = np.float32
        self._query: np.ndarray = query.T
        self._other: np.ndarray = other
        if quantized and _session() is not None:
            self.dtype = np.int32
            self._query = np.ascontiguousarray(query.T)
            self._other = (other + np.int8(ZERO_POINT)).view(np.uint8)
        elif quantized:
            self._query = self._query.astype(np.float32)
            self._other = self._other.astype(np.float32)

    def rows(self, part: slice) -> NDArray[np.float32] | NDArray[np.int32]:
        """Products (m, N) of a part of the other photo's descriptors with all of the query's.

        The array is reused: its contents hold until this thread computes further products.
        """
        other = self._other[part]
        products: np.ndarray = _buffer(len(other), self._query.shape[1], self.dtype)
        if self.dtype is np.float32:
            np.matmul(other, self._query, out=products)
            return products
        session = _session()
        binding = session.io_binding()
        binding.bind_cpu_input("other", other)
        binding.bind_cpu_input("query", self._query)
        binding.bind_output("products", "cpu", 0, np.int32, products.shape, products.ctypes.data)
        session.run_with_iobinding(binding)
        return products


class _Buffer(threading.local):
    """One buffer per thread: allocating anew would take longer than filling it."""

    def __init__(self) -> None:
        self.bytes = np.zeros(0, np.uint8)


_BUFFER = _Buffer()


def _buffer(rows: int, columns: int, dtype: type) -> Any:
    size = rows * columns * np.dtype(dtype).itemsize
    if len(_BUFFER.bytes) < size:
        _BUFFER.bytes = np.zeros(size, np.uint8)
    return _BUFFER.bytes[:size].view(dtype).reshape(rows, columns)


def _load_session() -> Any:
    """ONNX Runtime's product of int8 matrices; None where it is not installed."""
    if find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Photos are already compared in parallel.
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        GRAPH_FILE.read_bytes(), options, providers=["CPUExecutionProvider"]
    )


_session: PerProcess[Any] = PerProcess(_load_session)

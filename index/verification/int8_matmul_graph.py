"""Makes ``int8_matmul.onnx``: a graph of one integer matrix product.

``python -m index.verification.int8_matmul_graph`` writes the file; it needs the ``onnx`` package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from index.verification.int8_matmul import GRAPH_FILE, ZERO_POINT

if TYPE_CHECKING:
    from onnx import ModelProto


def make_graph() -> ModelProto:
    """The graph: uint8 ``other`` (M, d), its zero point subtracted, times int8 ``query`` (d, N),
    gives int32 ``products`` (M, N)."""
    from onnx import TensorProto, helper, numpy_helper

    other = helper.make_tensor_value_info("other", TensorProto.UINT8, ["M", "d"])
    query = helper.make_tensor_value_info("query", TensorProto.INT8, ["d", "N"])
    products = helper.make_tensor_value_info("products", TensorProto.INT32, ["M", "N"])
    zero_point = numpy_helper.from_array(np.array(ZERO_POINT, np.uint8), "zero_point")
    node = helper.make_node("MatMulInteger", ["other", "query", "zero_point"], ["products"])
    graph = helper.make_graph([node], "int8_matmul", [other, query], [products], [zero_point])
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, producer_name="delg", ir_version=8, opset_imports=[opset])


if __name__ == "__main__":
    GRAPH_FILE.write_bytes(make_graph().SerializeToString(deterministic=True))

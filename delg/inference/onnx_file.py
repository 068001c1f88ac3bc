"""ONNX files written by hand, so that making one needs neither TensorFlow nor the ONNX package.

Only the few fields of the format that a network for inference needs
(https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from delg.wire import VARINT, write_message, write_varint

_IR_VERSION, _OPSET = 8, 17
_TYPES = {
    np.dtype(np.float32): 1,
    np.dtype(np.uint8): 2,
    np.dtype(np.int8): 3,
    np.dtype(np.int32): 6,
    np.dtype(np.int64): 7,
}
FLOAT32, UINT8, INT8, INT32 = (
    _TYPES[np.dtype(kind)] for kind in (np.float32, np.uint8, np.int8, np.int32)
)
# Types of attributes: one whole number, or several.
_INT, _INTS = 2, 7
# Of a dimension that is not known beforehand; two of one name are equal.
Dimension = int | str


def _number(field: int, value: int) -> bytes:
    return write_varint(field << 3 | VARINT) + write_varint(value)


def _text(field: int, value: str) -> bytes:
    return write_message(field, value.encode())


def _attribute(name: str, value: int | Sequence[int]) -> bytes:
    if isinstance(value, int):
        return _text(1, name) + _number(3, value) + _number(20, _INT)
    return _text(1, name) + b"".join(_number(8, one) for one in value) + _number(20, _INTS)


def _described(name: str, shape: Sequence[Dimension], kind: int) -> bytes:
    dimensions = b"".join(
        write_message(1, _text(2, one) if isinstance(one, str) else _number(1, one))
        for one in shape
    )
    tensor = _number(1, kind) + write_message(2, dimensions)
    return _text(1, name) + write_message(2, write_message(1, tensor))


class Graph:
    """A network being written down, node by node; tensors are known by their names."""

    def __init__(self) -> None:
        self._nodes: list[bytes] = []
        self._constants: list[bytes] = []
        self._inputs: list[bytes] = []
        self._outputs: list[bytes] = []
        self._names = 0

    def _name(self) -> str:
        self._names += 1
        return f"t{self._names}"

    def input(self, name: str, shape: Sequence[Dimension], kind: int = FLOAT32) -> str:
        """Something that is given."""
        self._inputs.append(_described(name, shape, kind))
        return name

    def output(
        self, tensor: str, name: str, shape: Sequence[Dimension], kind: int = FLOAT32
    ) -> None:
        """Give a tensor out under a name."""
        self._node("Identity", (tensor,), name, {})
        self._outputs.append(_described(name, shape, kind))

    def constant(self, values: np.ndarray | np.uint8 | float) -> str:
        """Known numbers; floats become float32, and whole numbers but bytes int64."""
        array = np.asarray(values)
        if array.dtype != np.uint8:
            array = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
        array = np.asarray(array, order="C")
        name = self._name()
        shape = b"".join(_number(1, side) for side in array.shape)
        kind = _number(2, _TYPES[array.dtype])
        self._constants.append(shape + kind + _text(8, name) + write_message(9, array.tobytes()))
        return name

    def add(self, kind: str, *inputs: str, **attributes: int | Sequence[int]) -> str:
        """A node of that ONNX operator; gives its output."""
        name = self._name()
        self._node(kind, inputs, name, attributes)
        return name

    def _node(
        self,
        kind: str,
        inputs: Sequence[str],
        output: str,
        attributes: dict[str, int | Sequence[int]],
    ) -> None:
        parts = [_text(1, one) for one in inputs]
        parts += [_text(2, output), _text(3, f"{kind}_{output}"), _text(4, kind)]
        parts += [write_message(5, _attribute(*one)) for one in attributes.items()]
        self._nodes.append(b"".join(parts))

    def model(self) -> bytes:
        """The file's bytes."""
        fields = (
            (1, self._nodes), (5, self._constants), (11, self._inputs), (12, self._outputs),
        )  # fmt: skip
        graph = _text(2, "delg") + b"".join(
            write_message(number, one) for number, parts in fields for one in parts
        )
        opset = _text(1, "") + _number(2, _OPSET)
        return (
            _number(1, _IR_VERSION)
            + _text(2, "delg")
            + write_message(7, graph)
            + write_message(8, opset)
        )

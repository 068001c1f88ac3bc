"""The attention in a network's ONNX file: show the map that it reads, or put another in its place.

All else in the file stays as it is, bit for bit: descriptors that indexes store stay valid when a
model learns which of its local features to keep.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from delg.errors import ModelError
from delg.inference.onnx_graph import ancestors
from delg.inference.onnx_runtime import DESCRIPTORS, DIGEST, SCORES, WITH_LOCAL
from delg.types import FloatArray

# Output that :func:`expose_mid_level` adds: float32 (1, C, h / stride, w / stride).
MID_LEVEL = "mid_level"


@dataclass(frozen=True, eq=False)
class AttentionWeights:
    """A learnt attention whose batch norm is part of its first convolution:
    ``softplus(relu(x @ kernel + bias) @ score_kernel + score_bias) · |x|^norm_power`` for a cell x
    (C,).

    Attributes:
        kernel, bias: float32 (C, hidden) and (hidden,).
        score_kernel, score_bias: float32 (hidden,) and ().
        norm_power: of the cell's L2 norm.
    """

    kernel: FloatArray
    bias: FloatArray
    score_kernel: FloatArray
    score_bias: FloatArray
    norm_power: float

    @classmethod
    def folded(
        cls, variables: Mapping[str, np.ndarray], epsilon: float, norm_power: float
    ) -> AttentionWeights:
        """From the variables of :class:`delg.network.heads.Attention`, by name.

        Args:
            epsilon: of its batch norm.
            norm_power: see there.
        """
        scale = variables["norm/gamma"] / np.sqrt(variables["norm/moving_variance"] + epsilon)
        shifted = variables["hidden/bias"] - variables["norm/moving_mean"]
        return cls(
            kernel=np.float32(variables["hidden/kernel"][0, 0] * scale),
            bias=np.float32(shifted * scale + variables["norm/beta"]),
            score_kernel=np.float32(variables["score/kernel"][0, 0, :, 0]),
            score_bias=np.float32(variables["score/bias"][0]),
            norm_power=norm_power,
        )


def expose_mid_level(network: bytes) -> bytes:
    """The network with the map that its local head reads as one more output, :data:`MID_LEVEL`.

    Args:
        network: as :mod:`delg.inference.export_onnx` writes them.

    Raises:
        ModelError: it has no local head that is known here.
    """
    model = onnx.load_from_string(network)
    branch = _local_branch(model.graph)
    head = _encoder(branch)
    needed = ancestors(list(branch.node), [head.input[0]])
    copies = []
    for number in sorted(needed):
        copy = onnx.NodeProto()
        copy.CopyFrom(branch.node[number])
        copy.name = f"{copy.name}/{MID_LEVEL}"
        copies.append(copy)
    inner = {name for copy in copies for name in copy.output}
    for copy in copies:
        for names in (copy.input, copy.output):
            names[:] = [f"{name}/{MID_LEVEL}" if name in inner else name for name in names]
    read = {name for copy in copies for name in copy.input}
    model.graph.initializer.extend(c for c in branch.initializer if c.name in read)
    last = head.input[0]
    last = f"{last}/{MID_LEVEL}" if last in inner else last
    copies.append(helper.make_node("Identity", [last], [MID_LEVEL]))
    model.graph.node.extend(copies)
    model.graph.output.append(
        helper.make_tensor_value_info(MID_LEVEL, onnx.TensorProto.FLOAT, None)
    )
    return bytes(model.SerializeToString())


def replace_attention(network: bytes, attention: AttentionWeights, digest: str) -> bytes:
    """The network with another attention, in float32 whatever the precision of the rest.

    Args:
        network: as :mod:`delg.inference.export_onnx` writes them.
        attention: gives the scores from now on.
        digest: of the network that comes out; see :func:`delg.inference.select.network_digest`.

    Raises:
        ModelError: it has no local head that is known here.
    """
    model = onnx.load_from_string(network)
    branch = _local_branch(model.graph)
    cells = _encoder(branch).input[0]
    descriptors, scores = f"{DESCRIPTORS}/wanted", f"{SCORES}/wanted"
    nodes = list(branch.node)
    kept = [nodes[number] for number in sorted(ancestors(nodes, [descriptors]))]
    used = {name for node in kept for name in node.input}
    constants = [constant for constant in branch.initializer if constant.name in used]
    del branch.node[:], branch.initializer[:]
    branch.node.extend([*kept, *_attention_nodes(cells, scores)])
    branch.initializer.extend([*constants, *_attention_constants(attention)])
    for entry in model.metadata_props:
        if entry.key == DIGEST:
            entry.value = digest
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def _local_branch(graph: onnx.GraphProto) -> onnx.GraphProto:
    """What runs if local features are wanted."""
    for node in graph.node:
        if node.op_type == "If" and node.input[0] == WITH_LOCAL:
            return next(part.g for part in node.attribute if part.name == "then_branch")
    raise ModelError("not a network of this package's making: it has no branch of local features")


def _encoder(branch: onnx.GraphProto) -> onnx.NodeProto:
    """The convolution that makes the local descriptors from the map."""
    nodes = list(branch.node)
    needed = ancestors(nodes, [f"{DESCRIPTORS}/wanted"])
    convolutions = [nodes[n] for n in sorted(needed) if nodes[n].op_type == "Conv"]
    if len(convolutions) != 1:
        raise ModelError("the local descriptors of this network are not made by one convolution")
    return convolutions[0]


def _attention_nodes(cells: str, scores: str) -> Iterable[onnx.NodeProto]:
    """From the map (1, C, h, w) to scores (1, h, w)."""
    yield helper.make_node("Conv", [cells, "attention/kernel", "attention/bias"], ["attention/1"])
    yield helper.make_node("Relu", ["attention/1"], ["attention/2"])
    yield helper.make_node(
        "Conv", ["attention/2", "attention/score_kernel", "attention/score_bias"], ["attention/3"]
    )
    yield helper.make_node("Softplus", ["attention/3"], ["attention/4"])
    yield helper.make_node("Mul", [cells, cells], ["attention/5"])
    yield helper.make_node("ReduceSum", ["attention/5", "attention/axes"], ["attention/6"])
    yield helper.make_node("Pow", ["attention/6", "attention/half_power"], ["attention/7"])
    yield helper.make_node("Mul", ["attention/4", "attention/7"], ["attention/8"])
    yield helper.make_node("Squeeze", ["attention/8", "attention/axes"], [scores])


def _attention_constants(attention: AttentionWeights) -> Iterable[onnx.TensorProto]:
    values = {
        "kernel": attention.kernel.T[:, :, None, None],
        "bias": attention.bias,
        "score_kernel": attention.score_kernel[None, :, None, None],
        "score_bias": attention.score_bias.reshape(1),
        "half_power": np.float32(attention.norm_power / 2),
        "axes": np.array([1], np.int64),
    }
    for name, value in values.items():
        yield numpy_helper.from_array(np.ascontiguousarray(value), f"attention/{name}")

"""A DELG model as two ONNX graphs, made from its weight file alone.

    shallow   image (1, h, w, 3) uint8 RGB -> mid (1, C, rows, columns),
              descriptors (1, rows, columns, d) and scores (1, rows, columns)
    deep      mid -> global (1, D)

They compute what :class:`delg.network.delg_model.Delg` computes, so both runtimes share one
fingerprint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from delg.inference.layered_backbones import Halves, halves
from delg.inference.layered_heads import GlobalHead, local_maps, take_decoder
from delg.inference.layers import Weights
from delg.inference.onnx_file import UINT8, Graph
from delg.inference.onnx_layers import OnnxLayers
from delg.settings import ModelSettings


@dataclass(frozen=True)
class OnnxModel:
    """The two graphs, and where the cells of the mid-level map look.

    Attributes:
        shallow, deep: bytes of ONNX files; without a global head there is no ``deep``.
        stride, offset: see :class:`delg.network.backbones.Backbone`.
    """

    shallow: bytes
    deep: bytes | None
    stride: int
    offset: float


def write_model(
    settings: ModelSettings, values: Mapping[str, np.ndarray], origin: str
) -> OnnxModel | None:
    """Make the graphs.

    Args:
        settings: of the model.
        values: its weights by name, as :func:`delg.network.weights.read_weights` gives them.
        origin: names them in errors.

    Returns:
        The graphs, or None for a backbone that exists in Keras only.

    Raises:
        ModelError: the weights do not fit the settings.
    """
    backbone = halves(settings.backbone, settings.block3_strides)
    if backbone is None:
        return None
    weights = Weights(values, origin)
    shallow = _shallow(backbone, settings, weights)
    deep = _deep(backbone, settings, weights) if settings.has_global else None
    weights.check()
    return OnnxModel(shallow, deep, backbone.stride, backbone.offset)


def _shallow(backbone: Halves, settings: ModelSettings, weights: Weights) -> bytes:
    graph = Graph()
    layers = OnnxLayers(graph, weights)
    pixels = graph.input("image", [1, "height", "width", 3], UINT8)
    mid = backbone.shallow(layers, _scaled(graph, pixels, settings))
    graph.output(mid, "mid", [1, backbone.mid_channels, "rows", "columns"])
    _local_head(layers, mid, backbone, settings)
    return graph.model()


def _local_head(layers: OnnxLayers, mid: str, backbone: Halves, settings: ModelSettings) -> None:
    graph, spec = layers.graph, settings.local_head
    take_decoder(backbone, settings, layers.weights)
    codes, attended = local_maps(layers, mid, backbone, settings)
    descriptors = graph.add("Transpose", layers.unit(codes), perm=[0, 2, 3, 1])
    graph.output(descriptors, "descriptors", [1, "rows", "columns", spec.dim])
    if spec.attention == "norm":
        scores = layers.norm(attended, keep=False)
    else:
        axis = graph.constant(np.array([1]))
        scores = graph.add("Squeeze", graph.add("Softplus", attended), axis)
    graph.output(scores, "scores", [1, "rows", "columns"])


def _scaled(graph: Graph, pixels: str, settings: ModelSettings) -> str:
    spec = settings.input
    mean, std = (
        graph.constant(np.array(one, np.float32)[None, :, None, None])
        for one in (spec.mean, spec.std)
    )
    planes = graph.add("Transpose", pixels, perm=[0, 3, 1, 2])
    if spec.channel_order == "bgr":
        planes = graph.add("Gather", planes, graph.constant(np.array([2, 1, 0])), axis=1)
    return graph.add("Div", graph.add("Sub", graph.add("Cast", planes, to=1), mean), std)


def _deep(backbone: Halves, settings: ModelSettings, weights: Weights) -> bytes:
    graph, head = Graph(), GlobalHead.take(backbone, settings, weights)
    layers = OnnxLayers(graph, weights)
    mid = graph.input("mid", [1, backbone.mid_channels, "rows", "columns"])
    pooled = layers.generalised_mean(backbone.deep(layers, mid), head.power)
    if head.normalize_pooled:
        pooled = layers.unit(pooled)
    whitened = graph.add("Gemm", pooled, graph.constant(head.kernel), graph.constant(head.bias))
    graph.output(layers.unit(whitened), "global", [1, len(head.bias)])
    return graph.model()

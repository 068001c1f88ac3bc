"""A DELG model as two ONNX graphs, made from its weight file alone.

    shallow   image (1, h, w, 3) uint8 RGB -> mid (1, C, rows, columns),
              descriptors (1, rows, columns, d) and scores (1, rows, columns)
    deep      mid -> global (1, D)

They compute what :class:`delg.model.Delg` computes, so both runtimes share one fingerprint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from delg.layered_backbones import Halves, halves
from delg.layers import Convolution, Layers, Tensor, Weights
from delg.onnx_file import UINT8, Graph
from delg.onnx_layers import OnnxLayers
from delg.settings import ModelSettings

# Of GeM, as in ``delg.heads``.
EPSILON = 1e-6


@dataclass(frozen=True)
class OnnxModel:
    """The two graphs, and where the cells of the mid-level map look.

    Attributes:
        shallow, deep: bytes of ONNX files; without a global head there is no ``deep``.
        stride, offset: see :class:`delg.backbones.Backbone`.
    """

    shallow: bytes
    deep: bytes | None
    stride: int
    offset: float


def local_maps(
    layers: Layers[Tensor], mid: Tensor, backbone: Halves, settings: ModelSettings
) -> tuple[Tensor, Tensor]:
    """The convolutions of the local head: the codes, and what attention looks at."""
    inputs, head = backbone.mid_channels, settings.local_head
    codes = layers.conv(mid, Convolution("autoencoder/encoder", (inputs, head.dim), bias=True))
    if head.attention == "norm":
        return codes, mid
    channels = (inputs, head.attention_hidden)
    hidden = Convolution("attention/hidden", channels, norm="attention/norm", bias=True)
    return codes, layers.relu(layers.conv(mid, hidden))


def write_heads(settings: ModelSettings, backbone: Halves, weights: Weights) -> OnnxModel:
    """What is left of the graphs where something else runs the backbone, :func:`local_maps` and
    GeM.

    ``shallow`` reads the maps as ``codes`` and ``attended``, both (1, rows, columns, channels),
    ``deep`` the pooled vector as ``pooled`` (1, C).

    Args:
        settings: of the model.
        backbone: its halves.
        weights: of the model; those of the heads are taken.

    Raises:
        ModelError: the weights do not fit the settings.
    """
    local, whole = Graph(), Graph()
    head = settings.local_head
    attended = backbone.mid_channels if head.attention == "norm" else head.attention_hidden
    codes = local.input("codes", [1, "rows", "columns", head.dim])
    attends = local.input("attended", [1, "rows", "columns", attended])
    _local_head(OnnxLayers(local, weights, True), codes, attends, backbone, settings)
    if not settings.has_global:
        return OnnxModel(local.model(), None, backbone.stride, backbone.offset)
    pooled = whole.input("pooled", [1, backbone.deep_channels])
    _whitening(OnnxLayers(whole, weights, True), pooled, backbone, settings)
    return OnnxModel(local.model(), whole.model(), backbone.stride, backbone.offset)


def write_model(
    settings: ModelSettings, values: Mapping[str, np.ndarray], origin: str
) -> OnnxModel | None:
    """Make the graphs.

    Args:
        settings: of the model.
        values: its weights by name, as :func:`delg.weights.read_weights` gives them.
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
    codes, attended = local_maps(layers, mid, backbone, settings)
    _local_head(layers, codes, attended, backbone, settings)
    return graph.model()


def _local_head(
    layers: OnnxLayers, codes: str, attended: str, backbone: Halves, settings: ModelSettings
) -> None:
    graph, weights, dim = layers.graph, layers.weights, settings.local_head.dim
    # What training reconstructs with; extraction has no use for it.
    weights.take("autoencoder/decoder/kernel", (1, 1, dim, backbone.mid_channels))
    weights.take("autoencoder/decoder/bias", (backbone.mid_channels,))
    descriptors = layers.put_channels_last(layers.unit(codes))
    graph.output(descriptors, "descriptors", [1, "rows", "columns", dim])
    graph.output(_attention(layers, attended, settings), "scores", [1, "rows", "columns"])


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


def _attention(layers: OnnxLayers, attended: str, settings: ModelSettings) -> str:
    if settings.local_head.attention == "norm":
        return layers.norm(attended, keep=False)
    channels = (settings.local_head.attention_hidden, 1)
    x = layers.conv(attended, Convolution("attention/score", channels, bias=True))
    axis = layers.graph.constant(np.array([layers.axis]))
    return layers.graph.add("Squeeze", layers.graph.add("Softplus", x), axis)


def _deep(backbone: Halves, settings: ModelSettings, weights: Weights) -> bytes:
    graph = Graph()
    layers = OnnxLayers(graph, weights)
    mid = graph.input("mid", [1, backbone.mid_channels, "rows", "columns"])
    deep = backbone.deep(layers, mid)
    pooled = layers.generalised_mean(deep, gem_power(weights), EPSILON)
    _whitening(layers, pooled, backbone, settings)
    return graph.model()


def gem_power(weights: Weights) -> float:
    """The power of GeM."""
    return float(weights.take("gem/p", ()))


def _whitening(layers: OnnxLayers, pooled: str, backbone: Halves, settings: ModelSettings) -> None:
    head = settings.global_head
    if head.normalize_pooled:
        pooled = layers.unit(pooled)
    projected = layers.dense(pooled, "whitening/projection", (backbone.deep_channels, head.dim))
    layers.graph.output(layers.unit(projected), "global", [1, head.dim])

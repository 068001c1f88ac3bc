"""A network in 8-bit integers: ONNX Runtime's static quantisation, calibrated on photos.

Weights are int8 with a scale for each output channel, activations uint8 with a scale for each
tensor; the first convolution reads the pixels as they are. Two things come on top:

* Scales are wide enough that no processor can overflow. Those without VNNI add the products of two
  neighbouring weights in 16 bits, so two weights that are read together come to at most 128
  (255 · 128 < 2^15). That costs less precision than 7 bits for all weights would.
* What rounding the weights adds to a channel on average is taken off its bias (Nagel et al.,
  arXiv 1906.04721, section 4.2).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import tensorflow as tf
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from delg.errors import ModelError
from delg.inference.export_onnx import (
    GLOBAL,
    IMAGE,
    OUTPUTS,
    SCORES,
    convert,
    finish_network,
)
from delg.inference.onnx_graph import ancestors
from delg.network.delg_model import Delg
from delg.types import FloatArray

# Two weights whose products with activations are added in 16 bits sum up to no more than this.
_LIMIT = 127
_QUANTIZED = ("Conv", "Clip", "Relu", "Add", "MaxPool")
_SCALED = "scaled"
Pixels = NDArray[np.uint8]


def quantize_network(model: Delg, images: Iterable[Pixels], digest: str) -> bytes:
    """A model as an ONNX file in 8-bit integers.

    Args:
        model: in float32, with its weights.
        images: uint8 (h, w, 3), RGB, sides multiples of 32: levels of the pyramids of a few dozen
            photos like those that the model will see. The file depends on them.
        digest: see :func:`delg.inference.select.network_digest`.

    Returns:
        Bytes of the file; its inputs and outputs are those of :mod:`delg.inference.export_onnx`.

    Raises:
        ModelError: the model's input is not scaled by one whole mean and one deviation, or there
            are no images.
    """
    mean, std = _pixel_scale(model)
    scaled = [
        ((image.astype(np.float32) - mean) / std).transpose(2, 0, 1)[None] for image in images
    ]
    if not scaled:
        raise ModelError("quantisation needs photos to calibrate on")
    with tempfile.TemporaryDirectory() as folder:
        network = _fold_norms(_convert_scaled(model), Path(folder))
        bounds = {
            node.input[1]: _weight_bounds(weights, node)
            for node, weights in _convolutions(network.graph)
        }
        _correct_biases(network.graph, bounds, _channel_means(network, scaled))
        scale = np.array(1 / std, np.float32)
        float_file, int8_file = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        # Said by ONNX Runtime's own preprocessing, which does the same and more that is of no use.
        helper.set_model_props(network, {"onnx.quant.pre_process": "onnxruntime.quant"})
        onnx.save(network, float_file)
        quantize_static(
            float_file,
            int8_file,
            _Reader(scaled),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_QUANTIZED),
            nodes_to_exclude=[node.name for node in _score_nodes(network.graph) if node.name],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={
                "WeightSymmetric": True,
                "ActivationSymmetric": False,
                "TensorQuantOverrides": {
                    _SCALED: [{"scale": scale, "zero_point": np.array(mean, np.uint8)}],
                    **{name: _as_overrides(bound) for name, bound in bounds.items()},
                },
            },
        )
        quantized = onnx.load(int8_file)
    _read_pixels(quantized.graph)
    return finish_network(quantized, model, digest, "int8")


def _pixel_scale(model: Delg) -> tuple[float, float]:
    spec = model.settings.input
    mean, std = spec.mean[0], spec.std[0]
    uniform = set(spec.mean) == {mean} and set(spec.std) == {std} and mean == int(mean)
    if not uniform or not 0 <= mean <= 255 or spec.channel_order != "rgb":
        raise ModelError(
            f"{model.settings.name}: int8 needs input.channel_order: rgb, one whole input.mean and "
            "one input.std for all channels"
        )
    return mean, std


def _convert_scaled(model: Delg) -> onnx.ModelProto:
    """The network behind the scaling of pixels: ``scaled`` (1, 3, h, w) -> all outputs."""

    def network(scaled: tf.Tensor) -> dict[str, tf.Tensor]:
        mid = model.shallow(scaled)
        descriptors, scores = model.local_head(mid)
        outputs = dict(zip(OUTPUTS, (descriptors, scores), strict=False))
        return outputs | ({GLOBAL: model.global_head(mid)} if model.settings.has_global else {})

    spec = tf.TensorSpec([1, None, None, 3], tf.float32, name=_SCALED)
    return convert(network, spec, channels_first=True)


def _fold_norms(network: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """Batch norms and padding become part of the convolutions."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folder / "folded.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(
        network.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return onnx.load(folder / "folded.onnx")


def _convolutions(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, FloatArray]]:
    """Each that is quantised, with its weights (outputs, inputs / groups, kernel height, width)."""
    constants = {constant.name: constant for constant in graph.initializer}
    scored = {node.output[0] for node in _score_nodes(graph)}
    for node in graph.node:
        if node.op_type == "Conv" and node.output[0] not in scored:
            yield node, numpy_helper.to_array(constants[node.input[1]])


def _score_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """What scores alone depend on: in 256 steps, many cells would have equal ones."""
    nodes = list(graph.node)
    others = [output.name for output in graph.output if output.name != SCORES]
    alone = ancestors(nodes, [SCORES]) - ancestors(nodes, others)
    return [nodes[number] for number in sorted(alone)]


def _is_depthwise(node: onnx.NodeProto) -> bool:
    return any(attribute.name == "group" and attribute.i > 1 for attribute in node.attribute)


def _weight_bounds(weights: FloatArray, node: onnx.NodeProto) -> FloatArray:
    """For each output channel the weight (outputs,) that becomes 127."""
    # ONNX Runtime reads them position by position, channels innermost, two at a time.
    rows = np.moveaxis(weights, 1, -1).reshape(len(weights), -1)
    bounds = np.abs(rows).max(axis=1)
    if not _is_depthwise(node):
        pairs = np.pad(rows, ((0, 0), (0, rows.shape[1] % 2))).reshape(len(rows), -1, 2)
        bounds = np.maximum(bounds, np.abs(pairs.sum(axis=2)).max(axis=1))
    return np.where(bounds > 0, bounds, 1).astype(np.float32)


def _as_overrides(bounds: FloatArray) -> list[dict[str, Any]]:
    return [{"axis": 0, "rmin": -bound, "rmax": bound} for bound in bounds]


def _channel_means(network: onnx.ModelProto, scaled: list[FloatArray]) -> dict[str, FloatArray]:
    """Mean over images and positions of every tensor that a convolution reads, (channels,)."""
    probe = onnx.ModelProto()
    probe.CopyFrom(network)
    names = sorted({node.input[0] for node, _ in _convolutions(network.graph)})
    for name in names:
        mean = f"{name}/mean"
        probe.graph.node.append(
            helper.make_node("ReduceMean", [name], [mean], axes=[0, 2, 3], keepdims=0)
        )
        probe.graph.output.append(helper.make_tensor_value_info(mean, 1, None))
    session = onnxruntime.InferenceSession(
        probe.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    wanted = [f"{name}/mean" for name in names]
    runs = [session.run(wanted, {_SCALED: image}) for image in scaled]
    return {name: np.mean([run[i] for run in runs], axis=0) for i, name in enumerate(names)}


def _correct_biases(
    graph: onnx.GraphProto, bounds: dict[str, FloatArray], means: dict[str, FloatArray]
) -> None:
    constants = {constant.name: constant for constant in graph.initializer}
    for node, weights in _convolutions(graph):
        scale = (bounds[node.input[1]] / _LIMIT)[:, None, None, None]
        error = (np.rint(weights / scale) * scale - weights).sum(axis=(2, 3))
        mean = means[node.input[0]]
        shift = error[:, 0] * mean if _is_depthwise(node) else error @ mean
        bias = numpy_helper.to_array(constants[node.input[2]]) if len(node.input) > 2 else 0
        # Under a name of its own, as equal biases share one.
        name = f"{node.output[0]}/bias"
        graph.initializer.append(numpy_helper.from_array(np.float32(bias - shift), name))
        node.input[:] = [*node.input[:2], name]
    used = {name for node in graph.node for name in node.input}
    constants_used = [constant for constant in graph.initializer if constant.name in used]
    del graph.initializer[:]
    graph.initializer.extend(constants_used)


class _Reader(CalibrationDataReader):
    def __init__(self, scaled: list[FloatArray]) -> None:
        self._inputs = iter([{_SCALED: image} for image in scaled])

    def get_next(self) -> dict[str, FloatArray] | None:
        return next(self._inputs, None)


def _read_pixels(graph: onnx.GraphProto) -> None:
    """The quantised scaled input is the pixels themselves: read those in its place."""
    quantize = next(node for node in graph.node if node.input[0] == _SCALED)
    planes = helper.make_node("Transpose", [IMAGE], [quantize.output[0]], perm=[0, 3, 1, 2])
    graph.node.remove(quantize)
    graph.node.insert(0, planes)
    pixels = helper.make_tensor_value_info(IMAGE, onnx.TensorProto.UINT8, [1, "height", "width", 3])
    del graph.input[:]
    graph.input.append(pixels)

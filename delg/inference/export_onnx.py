"""A DELG network as one ONNX file, converted from Keras and checked against it.

    image        uint8 (1, h, w, 3), RGB, h and w multiples of 32
    with_local   bool (), whether ``descriptors`` and ``scores`` are wanted
    with_global  bool (), whether ``global`` is wanted
    descriptors  float32 (1, h / stride, w / stride, d), unit length; (1, 0, 0, d) if not wanted
    scores       float32 (1, h / stride, w / stride); (1, 0, 0) if not wanted
    global       float32 (1, D), unit length; (1, 0) if not wanted

A model without a global head has neither ``with_global`` nor ``global``. What an unwanted output
alone needs lies in a branch that is not run. The metadata hold ``stride`` and ``offset`` (see
:class:`delg.network.backbones.Backbone`), ``digest``, which says what network this is, and
``precision``.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import tensorflow as tf
from onnx import helper

from delg.errors import ModelError
from delg.inference.onnx_graph import ancestors, tensors_read
from delg.inference.onnx_runtime import (
    DESCRIPTORS,
    DIGEST,
    GLOBAL,
    IMAGE,
    OFFSET,
    PRECISION,
    SCORES,
    STRIDE,
    WITH_GLOBAL,
    WITH_LOCAL,
    OnnxRuntimeBackend,
)
from delg.network.delg_model import Delg

OPSET = 17
# Scores are compared relative to the largest.
TOLERANCE = 1e-4
# Not square, so that a swap of axes shows; odd multiples of 32, where padding is easily mistaken.
_PROBES = ((160, 224), (96, 352))
# Output of the file -> output of Keras.
OUTPUTS = {
    DESCRIPTORS: "local_descriptors",
    SCORES: "attention",
    GLOBAL: "global_descriptor",
}


def export_network(model: Delg, digest: str) -> bytes:
    """A model as an ONNX file in float32.

    Args:
        model: in float32, with its weights.
        digest: see :func:`delg.inference.select.network_digest`.

    Raises:
        ModelError: ONNX Runtime's outputs differ from Keras' by more than 1e-4.
    """
    network = convert(
        lambda image: {name: model(image)[key] for name, key in _outputs(model).items()},
        tf.TensorSpec([1, None, None, 3], tf.uint8, name=IMAGE),
    )
    exported = finish_network(network, model, digest, "float32")
    check_against_keras(exported, model)
    return exported


def _outputs(model: Delg) -> dict[str, str]:
    names = dict(OUTPUTS)
    if not model.settings.has_global:
        del names[GLOBAL]
    return names


def convert(
    function: Callable[[tf.Tensor], Mapping[str, tf.Tensor]],
    spec: tf.TensorSpec,
    channels_first: bool = False,
) -> onnx.ModelProto:
    """A function of one named tensor, as an ONNX model.

    Args:
        function: gives the outputs by name.
        spec: of the input.
        channels_first: the ONNX model takes it as (1, 3, h, w).
    """
    import tf2onnx

    graph = tf.function(function, input_signature=[spec], autograph=False)
    with silence(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network, _ = tf2onnx.convert.from_function(
            graph, [spec], opset=OPSET, inputs_as_nchw=[spec.name] if channels_first else None
        )
    return network


def finish_network(network: onnx.ModelProto, model: Delg, digest: str, precision: str) -> bytes:
    """Make outputs optional and add the metadata.

    Args:
        network: takes ``image`` and gives all outputs.
    """
    branches = [
        (WITH_LOCAL, {DESCRIPTORS: [1, 0, 0, model.settings.local_head.dim], SCORES: [1, 0, 0]})
    ]
    if model.settings.has_global:
        branches.append((WITH_GLOBAL, {GLOBAL: [1, 0]}))
    for condition, empty_shapes in branches:
        make_optional(network.graph, condition, empty_shapes)
    metadata = {
        STRIDE: str(model.stride),
        OFFSET: str(model.offset),
        DIGEST: digest,
        PRECISION: precision,
    }
    helper.set_model_props(network, metadata)
    # ONNX Runtime's optimiser names operators of its own that are not used.
    standard = [opset for opset in network.opset_import if not opset.domain]
    del network.opset_import[:]
    network.opset_import.extend(standard)
    # Versions in it would make equal networks differ.
    network.producer_name, network.producer_version = "delg", ""
    onnx.checker.check_model(network)
    return bytes(network.SerializeToString(deterministic=True))


def make_optional(
    graph: onnx.GraphProto, condition: str, empty_shapes: Mapping[str, list[int]]
) -> None:
    """Run what only some of the outputs need in a branch, if a new boolean input says so.

    Args:
        graph: changed in place.
        condition: name of the new input.
        empty_shapes: output name -> shape, with a 0 in it, of what is given otherwise.
    """
    nodes = list(graph.node)
    others = [output.name for output in graph.output if output.name not in empty_shapes]
    needed = ancestors(nodes, others)
    rest = [node for i, node in enumerate(nodes) if i in needed]
    branch = [node for i, node in enumerate(nodes) if i not in needed]
    branch = [*_copy_dequantizers(rest, branch, condition), *branch]
    shared = {name for node in rest for name in tensors_read(node)}
    own = {name for node in branch for name in node.input} - shared
    constants = [constant for constant in graph.initializer if constant.name in own]
    outputs = [output for output in graph.output if output.name in empty_shapes]
    then_names = {output.name: f"{output.name}/wanted" for output in outputs}
    for node in branch:
        for names in (node.input, node.output):
            names[:] = [then_names.get(name, name) for name in names]
    then_outputs = [_float_tensor(then_names[output.name]) for output in outputs]
    else_names = [f"{output.name}/empty" for output in outputs]
    empty = [
        helper.make_node(
            "Constant", [], [name], value=helper.make_tensor(name, 1, empty_shapes[output.name], [])
        )
        for output, name in zip(outputs, else_names, strict=True)
    ]
    conditional = helper.make_node(
        "If",
        [condition],
        [output.name for output in outputs],
        then_branch=helper.make_graph(branch, f"{condition}/then", [], then_outputs, constants),
        else_branch=helper.make_graph(
            empty, f"{condition}/else", [], [_float_tensor(name) for name in else_names]
        ),
    )
    remaining = [constant for constant in graph.initializer if constant.name not in own]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend([*rest, conditional])
    graph.initializer.extend(remaining)
    graph.input.append(helper.make_tensor_value_info(condition, onnx.TensorProto.BOOL, []))
    for output in outputs:
        # Its size now depends on the condition.
        for size in output.type.tensor_type.shape.dim[1:]:
            size.Clear()


def _copy_dequantizers(
    rest: list[onnx.NodeProto], branch: list[onnx.NodeProto], suffix: str
) -> list[onnx.NodeProto]:
    """Copies for a branch of the ``DequantizeLinear`` outside that it reads from.

    ONNX Runtime merges them with the operators that follow, but not from outside the branch.
    """
    read = {name for node in branch for name in node.input}
    copies = []
    for node in rest:
        if node.op_type == "DequantizeLinear" and node.output[0] in read:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.name, copy.output[0] = f"{node.name}/{suffix}", f"{node.output[0]}/{suffix}"
            copies.append(copy)
    renamed = {copy.output[0].removesuffix(f"/{suffix}"): copy.output[0] for copy in copies}
    for node in branch:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    return copies


def _float_tensor(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)


def check_against_keras(exported: bytes, model: Delg) -> None:
    """Make sure that a network gives what Keras gives, on images of noise.

    Raises:
        ModelError: an output differs by more than 1e-4.
    """
    backend = OnnxRuntimeBackend(exported, model.settings.name)
    rng = np.random.default_rng(0)
    for height, width in _PROBES:
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        output = backend.run(pixels)
        ours = {DESCRIPTORS: output.descriptors, SCORES: output.scores}
        if output.global_descriptor is not None:
            ours[GLOBAL] = output.global_descriptor
        truth = model(pixels[None])
        for name, key in _outputs(model).items():
            expected = np.asarray(truth[key])[0]
            difference = float(np.abs(expected - np.reshape(ours[name], expected.shape)).max())
            scale = float(np.abs(expected).max()) if name == SCORES else 1.0
            if not difference <= TOLERANCE * scale:
                raise ModelError(
                    f"{model.settings.name}: {name} in ONNX Runtime is {difference / scale:.2g} "
                    "off Keras' own"
                )


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Converters write past Python to the process's own stderr."""
    stderr = os.dup(2)
    with Path(os.devnull).open("w") as nothing:
        os.dup2(nothing.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)

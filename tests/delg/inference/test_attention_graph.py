"""The attention of a network's file is read and replaced; all else stays."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from delg.errors import ModelError
from delg.inference.attention_graph import (
    MID_LEVEL,
    AttentionWeights,
    expose_mid_level,
    replace_attention,
)
from delg.inference.onnx_runtime import (
    DESCRIPTORS,
    DIGEST,
    GLOBAL,
    IMAGE,
    SCORES,
    WITH_GLOBAL,
    WITH_LOCAL,
    load_session,
)
from delg.network.heads import Attention
from delg.network.weights import read_weights
from delg.zoo.registry import find_model

PIXELS = np.random.default_rng(3).integers(0, 256, (1, 96, 160, 3)).astype(np.uint8)
INPUTS = {IMAGE: PIXELS, WITH_LOCAL: np.array(True), WITH_GLOBAL: np.array(True)}


@pytest.fixture(scope="module")
def network() -> bytes:
    return find_model("delg-lite").network.read_bytes()


@pytest.fixture(scope="module")
def outputs(network: bytes) -> dict[str, np.ndarray]:
    names = [DESCRIPTORS, SCORES, GLOBAL, MID_LEVEL]
    session = load_session(expose_mid_level(network), 1)
    return dict(zip(names, session.run(names, INPUTS), strict=True))


def test_the_map_is_the_one_that_the_weights_of_the_attention_score(
    outputs: dict[str, np.ndarray],
) -> None:
    maps = outputs[MID_LEVEL]
    assert maps.shape == (1, 112, 6, 10) and maps.dtype == np.float32
    files = find_model("delg-lite")
    settings, values = files.settings.local_head, read_weights(files.weights)
    layer = Attention(settings.attention_hidden, settings.attention_norm_power, name="attention")
    cells = maps.transpose(0, 2, 3, 1)
    layer(cells)
    for variable in layer.variables:
        variable.assign(values[variable.path])
    np.testing.assert_allclose(np.asarray(layer(cells))[..., 0], outputs[SCORES], rtol=1e-4)


@pytest.mark.parametrize("norm_power", [0.0, 1.0, 2.0])
def test_another_attention_changes_the_scores_alone(
    network: bytes, outputs: dict[str, np.ndarray], norm_power: float
) -> None:
    rng = np.random.default_rng(0)
    kernel = rng.normal(0, 0.1, (112, 5)).astype(np.float32)
    score_kernel = rng.normal(size=5).astype(np.float32)
    attention = AttentionWeights(
        kernel, np.ones(5, np.float32), score_kernel, np.float32(-0.5), norm_power
    )
    changed = replace_attention(network, attention, "new digest")
    session = load_session(changed, 1)
    descriptors, scores, whole = session.run([DESCRIPTORS, SCORES, GLOBAL], INPUTS)
    np.testing.assert_array_equal(descriptors, outputs[DESCRIPTORS])
    np.testing.assert_array_equal(whole, outputs[GLOBAL])
    cells = outputs[MID_LEVEL].transpose(0, 2, 3, 1)
    logits = np.maximum(cells @ kernel + 1, 0) @ score_kernel - 0.5
    expected = np.logaddexp(0, logits) * np.linalg.norm(cells, axis=-1) ** norm_power
    np.testing.assert_allclose(scores, expected, rtol=1e-4)
    assert session.get_modelmeta().custom_metadata_map[DIGEST] == "new digest"
    # Replaced once more, nothing of the first is left.
    again = replace_attention(changed, attention, "new digest")
    assert again == changed
    empty = session.run([SCORES], INPUTS | {WITH_LOCAL: np.array(False)})[0]
    assert empty.size == 0


def test_other_files_are_refused() -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    tensors = [helper.make_tensor_value_info(name, 1, [1]) for name in "xy"]
    graph = helper.make_graph([node], "other", tensors[:1], tensors[1:])
    other = helper.make_model(graph).SerializeToString()
    with pytest.raises(ModelError, match="no branch of local features"):
        expose_mid_level(other)
    assert onnx.load_from_string(other).graph.name == "other"

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

from delg.errors import ModelError, UsageError
from delg.extraction.aggregation import aggregated_dim
from delg.inference.onnx_network import write_model
from delg.inference.onnx_runtime import LightNetwork
from delg.inference.select import load_network
from delg.inference.tensorflow_network import TensorFlowNetwork
from delg.network.delg_model import Delg
from delg.network.weights import named_variables

PIXELS = np.random.default_rng(1).integers(0, 256, (96, 160, 3)).astype(np.uint8)
ARCHITECTURES = {
    "everything learned": {
        "backbone": "efficientnet_lite0",
        "global_head": {"dim": 16, "gem_p": 2.5},
        "local_head": {"dim": 8, "attention_hidden": 12},
        "input": {"mean": [100, 120, 140], "std": [50, 60, 70], "channel_order": "bgr"},
    },
    "wider and deeper, fitted": {
        "backbone": "efficientnet_lite2",
        "global_head": {"dim": 16, "normalize_pooled": True},
        "local_head": {"dim": 8, "attention": "norm"},
    },
    "as published": {"backbone": "resnet50", "global_head": {"dim": 16}},
    "as published, pooled": {
        "backbone": "resnet50",
        "block3_strides": True,
        "global_head": {"dim": 16},
    },
}


def values_of(model: Delg) -> dict[str, np.ndarray]:
    return {name: np.asarray(variable.value) for name, variable in named_variables(model)}


def light(model: Delg) -> LightNetwork:
    written = write_model(model.settings, values_of(model), "test")
    assert written is not None
    return LightNetwork(written)


def test_a_model_with_local_features_alone_runs_too(make_model: Callable[..., Delg]) -> None:
    model = make_model(
        backbone="efficientnet_lite0",
        local_only=True,
        global_head={"dim": aggregated_dim(8)},
        local_head={"dim": 8, "attention": "norm"},
    )
    expected, found = TensorFlowNetwork(model).run(PIXELS, False), light(model).run(PIXELS, False)
    assert found.global_descriptor is None
    np.testing.assert_allclose(found.descriptors, expected.descriptors, atol=1e-4)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-3)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_both_runtimes_give_the_same(make_model: Callable[..., Delg], name: str) -> None:
    model = make_model(**ARCHITECTURES[name])
    expected, network = TensorFlowNetwork(model).run(PIXELS, True), light(model)
    for alone in (True, False):
        found = network.run(PIXELS, True, alone)
        assert found.grid == expected.grid
        np.testing.assert_array_equal(found.centres, expected.centres)
        np.testing.assert_allclose(found.descriptors, expected.descriptors, atol=1e-4)
        np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.global_descriptor, expected.global_descriptor, atol=1e-4)


def test_a_model_with_local_features_alone(make_model: Callable[..., Delg]) -> None:
    head = {"dim": 8, "attention_hidden": 12}
    model = make_model(
        backbone="resnet50",
        local_only=True,
        local_head=head,
        global_head={"dim": aggregated_dim(8)},
    )
    expected, found = TensorFlowNetwork(model).run(PIXELS, False), light(model).run(PIXELS, False)
    assert found.global_descriptor is None
    np.testing.assert_allclose(found.descriptors, expected.descriptors, atol=1e-4)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-4, atol=1e-5)


def test_the_global_descriptor_is_left_out_unless_asked_for(make_small: Callable) -> None:
    network = light(make_small())
    assert network.run(PIXELS, False).global_descriptor is None


@pytest.fixture(scope="module")
def small(make_small: Callable[..., Delg]) -> Delg:
    return make_small()


@pytest.mark.parametrize("runtime", ["onnxruntime", "tensorflow"])
def test_weights_are_taken_strictly(small: Delg, runtime: str) -> None:
    values = values_of(small)
    del values["gem/p"]
    with pytest.raises(ModelError, match=r"w\.h5: does not fit.*missing gem/p; not wanted none"):
        load_network(small.settings, values, "w.h5", runtime)
    values = values_of(small) | {"gem/q": np.zeros(1)}
    with pytest.raises(ModelError, match="missing none; not wanted gem/q"):
        load_network(small.settings, values, "w.h5", runtime)
    values = values_of(small) | {"whitening/projection/bias": np.zeros(3)}
    with pytest.raises(ModelError, match=r"whitening/projection/bias is \(3,\)"):
        load_network(small.settings, values, "w.h5", runtime)


def test_the_environment_chooses_the_runtime(small: Delg, monkeypatch: pytest.MonkeyPatch) -> None:
    values = values_of(small)
    monkeypatch.delenv("DELG_RUNTIME", raising=False)
    assert load_network(small.settings, values, "w.h5").runtime in ("fixed-point", "onnxruntime")
    monkeypatch.setenv("DELG_RUNTIME", "onnxruntime")
    assert isinstance(load_network(small.settings, values, "w.h5"), LightNetwork)
    monkeypatch.setenv("DELG_RUNTIME", "tensorflow")
    assert isinstance(load_network(small.settings, values, "w.h5"), TensorFlowNetwork)
    monkeypatch.setenv("DELG_RUNTIME", "abacus")
    with pytest.raises(UsageError, match="DELG_RUNTIME: no runtime 'abacus'"):
        load_network(small.settings, values, "w.h5")


def test_without_onnx_runtime_there_is_tensorflow(
    small: Delg, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("delg.inference.select.find_spec", lambda name: None)
    values = values_of(small)
    # Fixed point does without both.
    monkeypatch.setattr("delg.inference.fixed_point.supported", lambda: False)
    assert isinstance(load_network(small.settings, values, "w.h5"), TensorFlowNetwork)
    with pytest.raises(ModelError, match="pip install onnxruntime"):
        load_network(small.settings, values, "w.h5", "onnxruntime")


def test_a_backbone_in_keras_only_runs_in_tensorflow(
    small: Delg, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("delg.inference.layered_backbones.halves", "delg.inference.onnx_network.halves"):
        monkeypatch.setattr(place, lambda *_: None)
    values = values_of(small)
    assert isinstance(load_network(small.settings, values, "w.h5"), TensorFlowNetwork)
    with pytest.raises(ModelError, match="runs in TensorFlow only"):
        load_network(small.settings, values, "w.h5", "onnxruntime")


def test_extraction_does_not_load_tensorflow() -> None:
    code = (
        "import sys, numpy as np; from delg import load_model;"
        "found = load_model().extract(np.zeros((64, 64, 3), np.uint8));"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    environment = {**os.environ, "DELG_RUNTIME": "auto"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)

"""Which file a network runs from, and what happens when it is missing, damaged or another's."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest
import yaml

from delg import load_model
from delg.errors import ModelError
from delg.inference import select
from delg.inference.export_onnx import export_network
from delg.network.weights import read_weights, save_weights
from delg.zoo.registry import NETWORK_FILE, NETWORKS_FOLDER, find_model

PIXELS = np.random.default_rng(1).integers(0, 256, (96, 160, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(make_small, tmp_path_factory) -> Path:
    """A model's folder without a network of its own."""
    folder, network = tmp_path_factory.mktemp("model"), make_small()
    settings = network.settings.model_dump(mode="json", exclude_defaults=True)
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    save_weights(network, folder / "weights.h5", "float32")
    return folder


@pytest.fixture(scope="module")
def networks() -> dict[str, bytes]:
    """Networks exported before, by digest: each takes seconds."""
    return {}


@pytest.fixture
def home(tmp_path, monkeypatch, networks) -> Path:
    def export(model, digest: str) -> bytes:
        if digest not in networks:
            networks[digest] = export_network(model, digest)
        return networks[digest]

    monkeypatch.setattr("delg.inference.export_onnx.export_network", export)
    monkeypatch.setenv("DELG_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def exports(caplog: pytest.LogCaptureFixture) -> int:
    count = sum("TensorFlow exports the network, once" in text for text in caplog.messages)
    caplog.clear()
    return count


def test_a_network_is_exported_once_and_again_when_damaged(folder, home, caplog) -> None:
    first = load_model(str(folder)).backend.run(PIXELS)
    assert exports(caplog) == 1
    (file,) = (home / NETWORKS_FOLDER).iterdir()
    backend = load_model(str(folder)).backend
    assert exports(caplog) == 0
    assert str(file) in backend.description and "float32" in backend.description
    np.testing.assert_array_equal(backend.run(PIXELS).descriptors, first.descriptors)
    # What is kept does not depend on how the network is used.
    spec = find_model(str(folder)).settings.extraction.model_copy(update={"max_features": 7})
    load_model(str(folder), extraction=spec)
    assert exports(caplog) == 0
    file.write_bytes(file.read_bytes()[:1000])
    load_model(str(folder))
    assert exports(caplog) == 1
    assert load_model(str(folder)).backend.run(PIXELS).grid == first.grid
    assert exports(caplog) == 0


@pytest.mark.skipif(os.name == "nt", reason="permissions are another matter there")
def test_where_nothing_can_be_written_it_runs_from_memory(folder, home, caplog) -> None:
    home.write_text("a file where the folder should be")
    output = load_model(str(folder)).backend.run(PIXELS)
    assert output.global_descriptor is not None
    assert any("exported network is not kept" in text for text in caplog.messages)


def test_a_network_beside_the_weights_is_used_only_if_made_from_them(
    folder, home, tmp_path, caplog, make_small
) -> None:
    load_model(str(folder))
    network = next((home / NETWORKS_FOLDER).iterdir()).read_bytes()
    for name in ("same", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "settings.yaml").write_bytes((folder / "settings.yaml").read_bytes())
        (tmp_path / name / NETWORK_FILE).write_bytes(network)
    (tmp_path / "same" / "weights.h5").write_bytes((folder / "weights.h5").read_bytes())
    save_weights(make_small(seed=1), tmp_path / "other" / "weights.h5", "float32")
    caplog.clear()
    assert str(tmp_path / "same") in load_model(str(tmp_path / "same")).backend.description
    assert exports(caplog) == 0
    assert str(home) in load_model(str(tmp_path / "other")).backend.description
    assert exports(caplog) == 1


def test_a_quantised_model_needs_its_own_network(folder, tmp_path) -> None:
    (tmp_path / "weights.h5").write_bytes((folder / "weights.h5").read_bytes())
    settings = yaml.safe_load((folder / "settings.yaml").read_text())
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump({**settings, "precision": "int8"}))
    with pytest.raises(ModelError, match=r"precision: int8, but .*network\.onnx is missing"):
        load_model(str(tmp_path))
    shipped = find_model("delg-lite").network
    (tmp_path / NETWORK_FILE).write_bytes(shipped.read_bytes())
    with pytest.raises(ModelError, match=r"network\.onnx: was not made from .*weights\.h5"):
        load_model(str(tmp_path))
    (tmp_path / NETWORK_FILE).write_bytes(b"")
    with pytest.raises(ModelError, match=r"network\.onnx: not a network"):
        load_model(str(tmp_path))


def test_weights_are_taken_strictly(folder, tmp_path) -> None:
    settings, network, cache = find_model(str(folder)).settings, tmp_path / "n.onnx", tmp_path
    weights = read_weights(folder / "weights.h5")

    def load(values: dict[str, np.ndarray]) -> None:
        select.load_backend(settings, values, Path("w.h5"), network, cache)

    with pytest.raises(ModelError, match=r"w\.h5: does not fit.*missing gem/p; unknown none"):
        load({name: value for name, value in weights.items() if name != "gem/p"})
    with pytest.raises(ModelError, match="missing none; unknown gem/q"):
        load(weights | {"gem/q": np.zeros(1)})
    with pytest.raises(ModelError, match=r"whitening/projection/bias is \(3,\)"):
        load(weights | {"whitening/projection/bias": np.zeros(3)})


def test_the_variable_of_old_is_said_to_be_ignored_once(monkeypatch, caplog) -> None:
    select._warn_of_old_variable.cache_clear()
    monkeypatch.setenv("DELG_RUNTIME", "fixed-point")
    with caplog.at_level(logging.WARNING):
        load_model("delg-lite"), load_model("delg-lite")
    assert sum("DELG_RUNTIME is ignored" in text for text in caplog.messages) == 1

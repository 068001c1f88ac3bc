"""Fixtures for tests of benchmarks: engines that see only dots, so that no network is needed."""

from __future__ import annotations

from pathlib import Path

import pytest
from dots import DotModel, model_folder

from delg.extraction.sift import DIM as SIFT_DIM


@pytest.fixture(scope="session")
def dot_folder(tmp_path_factory) -> Path:
    """The folder of a model of dots."""
    return model_folder(tmp_path_factory.mktemp("dot-model"))


@pytest.fixture
def model(dot_folder, monkeypatch) -> str:
    """A model's folder; every index made here sees dots, whatever its model, "sift" too."""

    def load(name: str, *_: object) -> DotModel:
        dots = DotModel(Path(name))
        if name == "sift":
            dots.local_dim = SIFT_DIM
        return dots

    monkeypatch.setattr("index.index_model.load_model", load)
    return str(dot_folder)

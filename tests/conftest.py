"""Fixtures that several folders of tests share."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import numpy as np
import pytest
import skimage.data

# How tests run the command line.
pytest_plugins = ["commands"]

if TYPE_CHECKING:
    from delg import Extractor

hypothesis.settings.register_profile(
    "repeatable",
    deadline=None,
    derandomize=True,
    suppress_health_check=[
        hypothesis.HealthCheck.too_slow,
        hypothesis.HealthCheck.function_scoped_fixture,
    ],
)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Networks of toy models must not pile up in the cache folder of whoever runs the tests."""
    os.environ["DELG_HOME"] = str(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of small files that tests read."""
    return Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def coffee() -> np.ndarray:
    """A landscape photo, 600×400; it comes with scikit-image."""
    return skimage.data.coffee()


@pytest.fixture(scope="session")
def astronaut() -> np.ndarray:
    """A portrait photo, 400×512; it comes with scikit-image."""
    return np.ascontiguousarray(skimage.data.astronaut()[:, 20:420])


@pytest.fixture(scope="session")
def lite() -> Extractor:
    """The default model; load it once."""
    from delg import load_model

    return load_model("delg-lite")

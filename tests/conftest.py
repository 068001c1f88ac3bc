"""Fixtures that several folders of tests share."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Read when gcsfs is imported, by whichever test is first: or else it asks a bucket for its kind by
# a protocol that emulators do not speak, and tries again for ever.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

from pathlib import Path
from typing import TYPE_CHECKING, Any

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


# Files and folders whose tests share what takes long to make: a cluster, exported models.
TOGETHER = (
    ("tests/index/sharding/",),
    (
        "tests/eval/test_cli_published_models.py",
        "tests/index/test_inverse_scales.py",
        "tests/index/test_photo_sizes.py",
        "tests/index/test_published_models.py",
    ),
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Processes that share the tests take whole files, in the order in which they are collected, so
    that each file's fixtures are made once."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            group = next((group for group in TOGETHER if nodeid.startswith(group)), None)
            return group[0] if group else super()._split_scope(nodeid)

    config.option.loadscopereorder = False
    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that no process has to wait for one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


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


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model's folder of each kind of published SavedModel: ``new``, ``old`` and ``delf``."""
    from saved_models import lite_network, new_style, old_delf, old_delg

    base, network = tmp_path_factory.mktemp("exports"), lite_network()
    makers = {"new": new_style, "old": old_delg, "delf": old_delf}
    return {kind: make(network, base / kind) for kind, make in makers.items()}

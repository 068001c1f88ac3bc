"""Weights to start from, and training in another process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from delg.network.delg_model import Delg

HELPERS = Path(__file__).parents[2] / "helpers"
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture(scope="session")
def short_weights(
    make_small: Callable[..., Delg], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A file of weights for the backbone ``lite_short`` that look trained."""
    from delg.network.weights import save_weights

    file = tmp_path_factory.mktemp("short") / "start.h5"
    save_weights(make_small(), file, "float32")
    return file


@pytest.fixture(scope="session")
def start_training() -> Start:
    """Words for ``training_process.py`` -> the process."""

    def start(*words: object, **environment: str) -> subprocess.Popen[bytes]:
        paths = os.pathsep.join([str(HELPERS), *sys.path])
        command = [sys.executable, str(HELPERS / "training_process.py"), *map(str, words)]
        env = {**os.environ, "PYTHONPATH": paths, **environment}
        return subprocess.Popen(command, env=env, stderr=subprocess.PIPE)

    return start

"""Fixtures for tests of the command line: every command runs in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import skimage.data
from PIL import Image

Done = subprocess.CompletedProcess


@pytest.fixture(scope="session")
def run() -> Callable[..., Done[str]]:
    """Words of a command line -> the finished process; it must not end in a traceback."""

    def run(*words: object, cwd: Path | None = None) -> Done[str]:
        done = subprocess.run(
            [sys.executable, "-m", "delg", *map(str, words)],
            capture_output=True,
            text=True,
            timeout=240,
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        return done

    return run


@pytest.fixture(scope="session")
def shop(tmp_path_factory, run) -> tuple[Path, Done[str]]:
    """A folder with photos, one of them broken, and an index of them: ``photos``, ``i``,
    ``labels.csv`` and ``query.jpg``; and the process that built the index."""
    folder = tmp_path_factory.mktemp("shop")
    for name, place in (("rocket", "."), ("chelsea", "pets"), ("coffee", "pets")):
        (folder / "photos" / place).mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(getattr(skimage.data, name)())
        picture.save(folder / "photos" / place / f"{name}.jpg", quality=90)
    (folder / "photos" / "broken.jpg").write_bytes(b"no photo")
    labels = ("id,label,made", "rocket.jpg,Falcon,2015", 'pets/chelsea.jpg,"cat, red",', "x.jpg,y,")
    (folder / "labels.csv").write_text("\n".join(labels) + "\n")
    Image.fromarray(skimage.data.chelsea()[30:, 40:400]).save(folder / "query.jpg", quality=85)
    words = ("index", "build", "photos", "--index", "i", "--labels", "labels.csv", "--json")
    return folder, run(*words, cwd=folder)


@pytest.fixture
def place(shop, tmp_path) -> Path:
    """A folder of its own with a copy of the index: ``i``."""
    shutil.copytree(shop[0] / "i", tmp_path / "i")
    return tmp_path


@pytest.fixture
def talk() -> Callable[[Done[str]], list[str]]:
    """The lines that a process said."""
    return lambda done: done.stderr.splitlines()

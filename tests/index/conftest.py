"""Fixtures for tests of an index: a model without a network, and ways to build an index fast."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from select import select

import pytest
from dots import DotModel, gallery, model_folder

from delg import Extractor, load_model
from delg.settings import parse
from index import ImageIndex, IndexSettings
from index.visualize.draw_matches import encode_image

WORKER = Path(__file__).parents[1] / "helpers" / "worker.py"


@pytest.fixture(scope="session")
def dot_model_folder(tmp_path_factory) -> Path:
    """The folder of a model of dots."""
    return model_folder(tmp_path_factory.mktemp("dot-model"))


@pytest.fixture
def model(dot_model_folder) -> DotModel:
    """A model of dots that counts its work."""
    return DotModel(dot_model_folder)


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder of 12 photos, 000.png to 011.png."""
    gallery(tmp_path / "photos", 12)
    return tmp_path / "photos"


@pytest.fixture
def make_index(tmp_path, model) -> Callable[..., ImageIndex]:
    """Sections of settings -> a new, empty index that uses ``model``."""

    def make(name: str = "my.index", **settings: dict) -> ImageIndex:
        images = ImageIndex.create(
            tmp_path / name, str(model.folder), settings=parse(IndexSettings, settings, "test")
        )
        images.use(model)
        return images

    return make


@pytest.fixture
def reopen(model) -> Callable[[Path], ImageIndex]:
    """Folder -> the index in it, opened anew, that uses ``model``."""

    def open_it(folder: Path) -> ImageIndex:
        images = ImageIndex.open(folder)
        images.use(model)
        return images

    return open_it


@pytest.fixture(scope="session")
def work(dot_model_folder) -> Iterator[Callable[..., tuple[int, dict]]]:
    """Have a process of worker.py do a command: exit code and what it printed, as values.

    The exit code is -9 where it was killed, by itself or by ``kill_after`` seconds of work.
    """
    lock = threading.Lock()
    with subprocess.Popen(
        [sys.executable, str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as parent:
        assert parent.stdin is not None and parent.stdout is not None
        lines = iter(parent.stdout.readline, b"")

        def run(*words: object, kill_after: float | None = None) -> tuple[int, dict]:
            with lock:
                words = (dot_model_folder, *words)
                parent.stdin.write(json.dumps([*map(str, words)]).encode() + b"\n")
                ready, process = next(lines).split()
                assert ready == b"ready"
                if kill_after is not None and not select([parent.stdout], [], [], kill_after)[0]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(process), signal.SIGKILL)
                printed = b""
                while not (line := next(lines)).startswith(b"exit"):
                    printed += line
            return int(line.split()[1]), json.loads(printed) if printed else {}

        yield run


@pytest.fixture(scope="session")
def models(folders) -> dict[str, Extractor]:
    """The same, loaded."""
    return {kind: load_model(str(folder)) for kind, folder in folders.items()}


@pytest.fixture(scope="session")
def real_photos(tmp_path_factory) -> Path:
    """A folder of six real photos, ``cat.jpg`` and others."""
    from index.demo.photos import GALLERY, read_photo

    chosen = tmp_path_factory.mktemp("real") / "chosen"
    chosen.mkdir()
    for name in ("astronaut", "cat", "coins", "moon", "page", "rocket"):
        pixels = read_photo(GALLERY[name])
        assert pixels is not None
        (chosen / f"{name}.jpg").write_bytes(encode_image(pixels, "JPEG", quality=92))
    return chosen


@pytest.fixture(scope="session")
def real_index(real_photos, lite) -> ImageIndex:
    """The real photos under the default model; only to be read."""
    images = ImageIndex.create(real_photos.parent / "real.index")
    images.use(lite)
    images.add(real_photos)
    return images

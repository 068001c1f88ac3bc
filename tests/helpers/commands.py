"""Fixtures for tests of the command line."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import skimage.data
from PIL import Image

Done = subprocess.CompletedProcess


@pytest.fixture(scope="session")
def run() -> Callable[..., Done[str]]:
    """Words of a command line -> exit code and output. It runs in the tests' own process.

    A process would do the same, and load all libraries anew each time. An exception that the
    command line lets through, which would be a traceback, fails the test.
    """
    from delg.cli.main import main

    def run(*words: object, cwd: Path | None = None) -> Done[str]:
        out, err = io.StringIO(), io.StringIO()
        code: object = 0
        with _state_restored(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["delg", *map(str, words)])
            if cwd is not None:
                patch.chdir(cwd)
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                try:
                    main()
                except SystemExit as end:
                    code = end.code
        assert code is None or isinstance(code, int), code
        done = Done(words, code or 0, out.getvalue(), err.getvalue())
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        return done

    return run


@contextlib.contextmanager
def _state_restored() -> Iterator[None]:
    """What the command line changes for its process, which is the tests' own here."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    loggers = [logging.getLogger(name) for name in ("delg", "index", "eval")]
    states = [(logger, logger.level, logger.propagate, logger.handlers[:]) for logger in loggers]
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for logger, level, propagate, before in states:
            logger.setLevel(level)
            logger.propagate, logger.handlers[:] = propagate, before


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

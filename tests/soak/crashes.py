"""The process that writes is killed, its disk is full, or its files are damaged."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import worker
from dots import DotModel, check_shortlists, gallery
from stage import Stage

from index import ImageIndex, IndexSettings
from index.collection.columns import Filter
from index.storage.store import Store

_PHOTOS = 24
_CALLS = {"open", "os.rename", "os.remove", "os.mkdir", "os.truncate", "sqlite3.connect"}


def _fork(words: list[str], prepare: Callable[[], object] = lambda: None) -> int:
    """Run a command of worker.py in a fork of this process, which has all libraries loaded already;
    returns its number.

    Args:
        prepare: called in the fork first.
    """
    number = os.fork()
    if number:
        return number
    code = 1
    try:
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 1)
        prepare()
        worker.obey(words)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _wait(number: int, seconds: float | None = None) -> int:
    """The exit code of a fork, which is killed if it takes longer."""
    until = None if seconds is None else time.monotonic() + seconds
    while until is not None and time.monotonic() < until:
        done, status = os.waitpid(number, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    if until is not None:
        os.kill(number, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def _die_at_call(left: int) -> None:
    """Kill this process at the n-th call that touches a file of the index."""

    def count(event: str, arguments: tuple) -> None:
        nonlocal left
        if event in _CALLS and "my.index" in str(arguments[:1]):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def _new_index(stage: Stage) -> Path:
    place = stage.folder / "my.index"
    shutil.rmtree(place, ignore_errors=True)
    if not (stage.folder / "photos").exists():
        gallery(stage.folder / "photos", _PHOTOS)
    # Photos keep words, as the model has a vocabulary, and parts.
    settings = IndexSettings.model_validate({"store": {"segment_images": 4, "regions": 2}})
    with ImageIndex.create(place, str(stage.model), settings=settings) as images:
        images.use(DotModel(stage.model))
        images.add(stage.folder / "photos")
    return place


def _command(stage: Stage, place: Path) -> list[str]:
    command = stage.chance.choice(["add", "remove", "compact", "export"])
    if command == "add":
        gallery(stage.folder / "photos", _PHOTOS + stage.chance.randint(1, 8))
        arguments = [str(stage.folder / "photos")]
    elif command == "remove":
        with ImageIndex.open(place) as images:
            arguments = stage.chance.sample(images.ids(), 2)
    elif command == "export":
        arguments = [str(_exported(place))]
    else:
        arguments = []
    return [str(stage.model), command, str(place), *arguments]


def _exported(place: Path) -> Path:
    return place.with_name("features.h5")


def _check(stage: Stage, place: Path, about: object) -> None:
    """The index is sound and its shortlists hold its photos; its next writer finishes the work, and
    nothing is left behind; what was exported is complete."""
    try:
        _check_shortlists(place)
        _check_export(stage, place)
        with ImageIndex.open(place) as images:
            images.use(DotModel(stage.model))
            problems = images.check().problems
            images.add(stage.folder / "photos")
            report = images.check()
            leftovers = [path.name for path in place.rglob("*.tmp*")]
            count = len(list((stage.folder / "photos").iterdir()))
            good = not problems and not report.problems and not leftovers and len(images) == count
        _check_shortlists(place)
    except Exception as error:
        traceback.print_exc()
        stage.count(False, f"{about}: {error!r}")
        return
    stage.count(good, f"{about}: {problems} {report.problems} {leftovers}")


def _check_shortlists(place: Path) -> None:
    store = Store(place)
    check_shortlists(store)
    assert store.inverted_file() is not None and store.region_index() is not None
    store.close()


def _check_export(stage: Stage, place: Path) -> None:
    """An exported file, if a kill left any, holds all photos with their parts."""
    if not _exported(place).exists():
        return
    with ImageIndex.open(place) as images:
        ids, again = images.ids(), place.with_name("again.index")
    shutil.rmtree(again, ignore_errors=True)
    settings = IndexSettings.model_validate({"store": {"regions": 2}})
    with ImageIndex.create(again, str(stage.model), settings=settings) as copy:
        copy.import_from([_exported(place)])
        assert sorted(copy.ids()) == sorted(ids) and copy.features(ids[0]).regions
    _exported(place).unlink()


def kills(stage: Stage) -> None:
    """Kill adding, removing, compacting and exporting at random moments."""
    place = _new_index(stage)
    while stage.runs():
        words = [*_command(stage, place), "--pause", "0.01"]
        _wait(_fork(words), stage.chance.uniform(0, 0.6))
        _check(stage, place, words[1:])


def kills_at_calls(stage: Stage) -> None:
    """Kill adding, removing, compacting and exporting at each call that touches the index."""
    place, number = _new_index(stage), 0
    while stage.runs():
        words = _command(stage, place)
        code = _wait(_fork(words, partial(_die_at_call, number % 60)))
        if code not in (0, -signal.SIGKILL):
            stage.count(False, f"{words[1:]}: ended with {code}")
        _check(stage, place, (number % 60, *words[1:]))
        number += 1


def full_disks(stage: Stage) -> None:
    """Write to a disk that takes so many bytes a file."""
    place = _new_index(stage)
    while stage.runs():
        size = stage.chance.choice([0, 100, 4096, 10_000, 30_000, 100_000])
        words = [*_command(stage, place), "--disk", str(size)]
        if _wait(_fork(words)):
            stage.count(False, f"{words[1:]}: ended with a traceback")
        _check(stage, place, words[1:])


def corrupted_files(stage: Stage) -> None:
    """Damage a file of an index: it is read as before or refused with a clear error."""
    origin = _new_index(stage)
    files = sorted(path.relative_to(origin) for path in origin.rglob("*") if path.is_file())
    query = DotModel(stage.model).extract(stage.folder / "photos" / "003.png")
    place = stage.folder / "damaged"
    while stage.runs():
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(origin, place)
        name = stage.chance.choice(files)
        (place / name).write_bytes(stage.mutated((place / name).read_bytes()))

        def use() -> None:
            with ImageIndex.open(place) as images:
                images.check()
                images.query_features(query, k=5)

        stage.expect(use, name)


def odd_catalogs(stage: Stage) -> None:
    """Values in a catalog that no program of ours writes: a clear error, or as if nothing were."""
    origin = _new_index(stage)
    query = DotModel(stage.model).extract(stage.folder / "photos" / "003.png")
    odd = (-1, 0, 7, 1 << 62, 1e308, float("inf"), b"\xff\x00", "", "[1]", "null", "{", '{"a": 1}',
           "x" * 100_000, "/dev/zero", "../..", "ok", "\x00", "[" * 5000)  # fmt: skip
    place = stage.folder / "odd"
    while stage.runs():
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(origin, place)
        with contextlib.closing(sqlite3.connect(place / "catalog.sqlite")) as db:
            table = stage.chance.choice(["meta", "segments", "images"])
            columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
            column = stage.chance.choice(["value"] if table == "meta" else columns)
            rows = [row[0] for row in db.execute(f"SELECT {columns[0]} FROM {table}")]
            row, value = stage.chance.choice(rows), stage.chance.choice(odd)
            with contextlib.suppress(sqlite3.Error):
                db.execute("PRAGMA ignore_check_constraints = ON")
                change = f"UPDATE {table} SET {column} = ? WHERE {columns[0]} = ?"
                db.execute(change, (value, row))
            db.commit()

        def use() -> None:
            with ImageIndex.open(place) as images:
                json.dumps(images.info())
                images.check()
                images.failures()
                images.vanished()
                [hit.as_json() for hit in images.query_features(query, k=5)]
                images.browse(Filter("ok"), 50)
                images.counts()

        stage.expect(use, (table, column, row, str(value)[:40]))

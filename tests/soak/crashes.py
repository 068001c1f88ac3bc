"""The process that writes is killed, its disk is full, or its files are damaged."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from dots import DotModel, gallery
from stage import Stage

from index import ImageIndex, IndexSettings

_WORKER = Path(__file__).parents[1] / "helpers" / "worker.py"
_PHOTOS = 24
# Kills itself at the n-th call that touches a file, then works as worker.py does.
_KILLED_AT_CALL = """
import os, runpy, signal, sys
left, path = int(sys.argv[1]), sys.argv[2]
calls = {"open", "os.rename", "os.remove", "os.mkdir", "os.truncate", "sqlite3.connect"}
sys.argv = sys.argv[2:]
def count(event, arguments):
    global left
    if event in calls and "my.index" in str(arguments[:1]):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
runpy.run_path(path, run_name="__main__")
"""


def _new_index(stage: Stage) -> Path:
    place = stage.folder / "my.index"
    shutil.rmtree(place, ignore_errors=True)
    if not (stage.folder / "photos").exists():
        gallery(stage.folder / "photos", _PHOTOS)
    settings = IndexSettings.model_validate({"store": {"segment_images": 4}})
    with ImageIndex.create(place, str(stage.model), settings=settings) as images:
        images.use(DotModel(stage.model))
        images.add(stage.folder / "photos")
    return place


def _command(stage: Stage, place: Path) -> list[str]:
    command = stage.chance.choice(["add", "remove", "compact"])
    if command == "add":
        gallery(stage.folder / "photos", _PHOTOS + stage.chance.randint(1, 8))
        arguments = [str(stage.folder / "photos")]
    elif command == "remove":
        with ImageIndex.open(place) as images:
            arguments = stage.chance.sample(images.ids(), 2)
    else:
        arguments = []
    return [str(_WORKER), str(stage.model), command, str(place), *arguments]


def _check(stage: Stage, place: Path, about: object) -> None:
    """The index is sound, its next writer finishes the work, and nothing is left behind."""
    try:
        with ImageIndex.open(place) as images:
            images.use(DotModel(stage.model))
            problems = images.check().problems
            images.add(stage.folder / "photos")
            report = images.check()
            leftovers = [path.name for path in place.rglob("*.tmp*")]
            count = len(list((stage.folder / "photos").iterdir()))
            good = not problems and not report.problems and not leftovers and len(images) == count
    except Exception as error:
        stage.count(False, f"{about}: {error!r}")
        return
    stage.count(good, f"{about}: {problems} {report.problems} {leftovers}")


def kills(stage: Stage) -> None:
    """Kill adding, removing and compacting at random moments."""
    place = _new_index(stage)
    while stage.runs():
        words = [sys.executable, *_command(stage, place), "--pause", "0.01"]
        with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            try:
                process.wait(stage.chance.uniform(0, 0.6))
            except subprocess.TimeoutExpired:
                process.kill()
        _check(stage, place, words[4:])


def kills_at_calls(stage: Stage) -> None:
    """Kill adding, removing and compacting at each call that touches a file of the index."""
    place, number = _new_index(stage), 0
    while stage.runs():
        words = [sys.executable, "-c", _KILLED_AT_CALL, str(number % 60), *_command(stage, place)]
        subprocess.run(words, capture_output=True, check=False)
        _check(stage, place, words[3:])
        number += 1


def full_disks(stage: Stage) -> None:
    """Write to a disk that takes so many bytes a file."""
    place = _new_index(stage)
    while stage.runs():
        size = stage.chance.choice([0, 100, 4096, 10_000, 30_000, 100_000])
        words = [sys.executable, *_command(stage, place), "--disk", str(size)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if "Traceback" in done.stderr:
            stage.count(False, f"{words[4:]}: {done.stderr[-300:]}")
        _check(stage, place, words[4:])


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

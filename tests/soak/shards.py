"""Workers, nodes and drivers of a Ray cluster are killed while they build and while they answer."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from dots import DotModel, contents, dots, gallery
from stage import Stage

from index import ImageIndex, IndexSettings
from index.sharding.sharded_index import ShardedIndex
from index.sharding.shards import ShardMap
from index.storage.lock import BusyError

_PHOTOS, _SHARDS, _QUERIES = 24, 2, 34
_TRIES = 30
_ROOT = Path(__file__).parents[2]
# Roles of what is killed.
_WORKER, _NODE, _DRIVER = "worker", "node", "driver"
# Seconds in which anything must end, on a machine that others use too.
_PATIENCE = 900.0


def shards(stage: Stage) -> None:
    """Kill something thirty times, in builds and in queries of shards with two replicas."""
    gallery(stage.folder / "photos", _PHOTOS)
    answering = _new_index(stage, "answering.index", replicas=2)
    _complete(stage, answering)
    cluster = _Cluster(stage)
    try:
        for number, role in enumerate(itertools.cycle([_WORKER, _NODE, _DRIVER])):
            for attempt in (_kill_build, _kill_queries):
                if stage.tried >= _TRIES:
                    return
                started = time.monotonic()
                try:
                    attempt(stage, cluster, role, answering)
                except Exception as error:
                    stage.count(False, f"{attempt.__name__}, {role}: {error!r}")
                    cluster.replace_driver()
                seconds = time.monotonic() - started
                print(f"{number} {attempt.__name__} {role}: {seconds:.0f} s", flush=True)  # noqa: T201
    finally:
        cluster.close()


class _Cluster:
    """Two nodes on this machine, of which one may be killed, and a driver."""

    def __init__(self, stage: Stage) -> None:
        from ray.cluster_utils import Cluster

        paths = [str(_ROOT), str(_ROOT / "tests" / "helpers"), str(Path(__file__).parent)]
        os.environ |= {"PYTHONPATH": os.pathsep.join(paths), "RAY_USAGE_STATS_ENABLED": "0"}
        os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
        self._node = {"num_cpus": 2, "object_store_memory": 80 << 20}
        head = {
            **self._node,
            "include_dashboard": False,
            # Workers are started when they are needed, not before.
            "_system_config": {"prestart_worker_first_driver": False},
        }
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._other = self._cluster.add_node(**self._node)
        self._words = [str(stage.model), str(stage.folder / "photos"), self._cluster.address]
        self.driver = self._start_driver()

    def _start_driver(self) -> subprocess.Popen[str]:
        words = [sys.executable, __file__, *self._words]
        pipe = subprocess.PIPE
        return subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True)

    def replace_driver(self) -> None:
        """Kill the driver and start another."""
        self.driver.kill()
        self.driver.wait(_PATIENCE)
        self.driver = self._start_driver()

    def kill(self, role: str, worker: int) -> None:
        """Kill what the role says."""
        if role == _WORKER:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
        elif role == _DRIVER:
            self.driver.kill()
        else:
            self._other.kill_raylet()

    def mend(self, role: str) -> None:
        """Bring back what was killed; workers come back by themselves."""
        if role == _DRIVER:
            self.replace_driver()
        if role == _NODE:
            with contextlib.suppress(Exception):
                self._cluster.remove_node(self._other)
            self._other = self._cluster.add_node(**self._node)

    def order(self, *command: object) -> Iterator[Any]:
        """Have the driver do something, and give what it says, until it is done or dead."""
        assert self.driver.stdin is not None and self.driver.stdout is not None
        self.driver.stdin.write(json.dumps(command) + "\n")
        self.driver.stdin.flush()
        for line in self.driver.stdout:
            said = json.loads(line)
            if said == "done":
                return
            yield said

    def close(self) -> None:
        """End everything."""
        self.driver.kill()
        self._cluster.shutdown()


def _new_index(stage: Stage, name: str, replicas: int) -> Path:
    place = stage.folder / name
    shutil.rmtree(place, ignore_errors=True)
    settings = IndexSettings.model_validate({"store": {"segment_images": 4}})
    ShardedIndex.create_sharded(place, _SHARDS, str(stage.model), settings, replicas).close()
    ShardMap.read(place).model_copy(update={"deadline_seconds": 30.0}).write(place)
    return place


def _complete(stage: Stage, place: Path) -> tuple[list[str], int]:
    """Build the rest here, and say what is wrong with the index and how many photos it has."""
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            with ImageIndex.open(place) as images:
                images.share_model(partial(DotModel, stage.model))
                images.add(stage.folder / "photos")
                return images.check().problems, len(images)
        except BusyError:  # Workers of a dead driver are dying.
            if time.monotonic() > until:
                raise
            time.sleep(1)


def _kill_build(stage: Stage, cluster: _Cluster, role: str, _: Path) -> None:
    """Whatever was killed, the same build ends with everything in it, once."""
    place = _new_index(stage, "built.index", replicas=1)
    said = cluster.order("build", str(place))
    workers = next(said)
    time.sleep(stage.chance.uniform(0, 2))
    cluster.kill(role, stage.chance.choice(workers))
    ended = list(said)
    cluster.mend(role)
    with ImageIndex.open(place) as images:
        damaged = images.check().problems
    problems, count = _complete(stage, place)
    parts = [contents(place / entry.location) for entry in ShardMap.read(place).shards]
    doubled = set.intersection(*(set(part) for part in parts))
    good = not (damaged or problems or doubled) and count == _PHOTOS
    good = good and (ended == [_PHOTOS]) == (role != _DRIVER)
    stage.count(good, f"build, {role}: {ended} {damaged} {problems} {doubled} {count}")


def _kill_queries(stage: Stage, cluster: _Cluster, role: str, place: Path) -> None:
    """Every answer is right, or says what is missing from it."""
    said = cluster.order("query", str(place), role == _NODE)
    workers = next(said)
    before = stage.chance.randint(0, _QUERIES // 2)
    answers = list(itertools.islice(said, before))
    cluster.kill(role, stage.chance.choice(workers))
    answers += said
    cluster.mend(role)
    wrong = [answer for answer in answers if not (answer["right"] or answer["partial"])]
    good = not wrong and (role == _DRIVER or len(answers) == _QUERIES)
    stage.count(good, f"queries, {role}: {len(answers)} answers, {wrong[:2]}")


class _Driver:
    """What a driver does, in its process."""

    def __init__(self, model: Path, photos: Path, address: str) -> None:
        self._model, self._photos, self._address = model, photos, address
        self._images: ShardedIndex | None = None

    def build(self, place: str) -> None:
        """Build, and say which workers do it, as soon as they work, and how many photos there are
        in the end."""
        import ray

        with ShardedIndex.open(place, ray=self._address, searched=False) as images:
            images.share_model(partial(DotModel, self._model, 0.2))
            writers = images._writers()
            images._writers = lambda: writers  # type: ignore[method-assign]
            told: list[int] = []

            def progress(done: int, total: int, failed: int) -> None:
                if not told:
                    asked = [worker.process.remote() for worker in writers.workers.values()]
                    told.extend(ray.get(asked))
                    _say(told)

            images.add(self._photos, progress=progress)
            _say(len(images))

    def query(self, place: str, anew: bool) -> None:
        """Say which workers answer, and then whether each answer is right or partial."""
        import ray

        if anew and self._images is not None:
            # New workers are spread over all nodes.
            self._images.close()
            self._images = None
        if self._images is None:
            self._images = ShardedIndex.open(place, ray=self._address)
            self._images.share_model(partial(DotModel, self._model))
        parts = self._images._parts.parts.values()
        workers = [worker for part in parts for worker in part.workers]  # type: ignore[attr-defined]
        _say(ray.get([worker.process.remote() for worker in workers]))
        for number in range(_QUERIES):
            photo = number % _PHOTOS
            result = self._images.query(dots(photo).pixels(), k=1)
            right = bool(len(result)) and result[0].id == f"{photo:03d}.png"
            _say({"right": right, "partial": [missing.shard for missing in result.partial]})

    def follow(self) -> None:
        """Do what the standard input says."""
        for line in sys.stdin:
            command, *words = json.loads(line)
            getattr(self, command)(*words)
            _say("done")


def _say(values: object) -> None:
    _SAID.write(json.dumps(values) + "\n")
    _SAID.flush()


if __name__ == "__main__":
    # Ray writes to the standard output too.
    _SAID = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    _Driver(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]).follow()

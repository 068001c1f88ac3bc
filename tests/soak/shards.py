"""Workers, nodes and drivers of a Ray cluster are killed while they build and while they answer."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from dots import DotModel, contents, dots, gallery
from stage import Stage

from index import ImageIndex, IndexSettings
from index.sharding.sharded_index import ShardedIndex
from index.sharding.shards import ShardMap

_PHOTOS, _SHARDS, _QUERIES = 40, 2, 20
_TRIES = 30
_ROOT = Path(__file__).parents[2]
# Roles of what is killed.
_WORKER, _NODE, _DRIVER = "worker", "node", "driver"


def shards(stage: Stage) -> None:
    """Kill something thirty times, in builds and in queries of shards with two replicas."""
    from ray.cluster_utils import Cluster

    paths = [str(_ROOT), str(_ROOT / "tests" / "helpers"), str(Path(__file__).parent)]
    os.environ |= {"PYTHONPATH": os.pathsep.join(paths), "RAY_USAGE_STATS_ENABLED": "0"}
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
    gallery(stage.folder / "photos", _PHOTOS)
    node = {"num_cpus": 2, "object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    try:
        while stage.tried < _TRIES:
            other = cluster.add_node(**node)
            role = stage.chance.choice([_WORKER, _NODE, _DRIVER])
            attempt = _kill_build if stage.tried % 2 == 0 else _kill_queries
            try:
                attempt(stage, cluster, other, role)
            except Exception as error:
                stage.count(False, f"{attempt.__name__}, {role}: {error!r}")
            with contextlib.suppress(Exception):
                cluster.remove_node(other)
    finally:
        cluster.shutdown()


def _driver(stage: Stage, cluster, place: Path, command: str) -> subprocess.Popen[str]:
    """A process that builds or asks, and names itself and its workers."""
    words = [str(stage.model), str(place), str(stage.folder / "photos"), cluster.address, command]
    return subprocess.Popen([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True)


def _new_index(stage: Stage) -> Path:
    place = stage.folder / "sharded.index"
    shutil.rmtree(place, ignore_errors=True)
    settings = IndexSettings.model_validate({"store": {"segment_images": 4}})
    ShardedIndex.create_sharded(place, _SHARDS, str(stage.model), settings, replicas=2).close()
    return place


def _kill_one(stage: Stage, process, other, role: str) -> None:
    """Wait for a moment in the work, then kill what the role says."""
    workers = json.loads(process.stdout.readline())
    time.sleep(stage.chance.uniform(0, 4))
    with contextlib.suppress(ProcessLookupError):
        if role == _WORKER:
            os.kill(stage.chance.choice(workers), signal.SIGKILL)
        elif role == _DRIVER:
            process.kill()
        else:
            other.kill_raylet()


def _kill_build(stage: Stage, cluster, other, role: str) -> None:
    """Whatever was killed, the same build ends with everything in it, once."""
    place = _new_index(stage)
    process = _driver(stage, cluster, place, "build")
    _kill_one(stage, process, other, role)
    process.stdout.read()
    code = process.wait(600)
    with ImageIndex.open(place) as images:
        damaged = images.check().problems
        images.share_model(partial(DotModel, stage.model))
        images.add(stage.folder / "photos")
        problems, count = images.check().problems, len(images)
    parts = [contents(place / entry.location) for entry in ShardMap.read(place).shards]
    doubled = set.intersection(*(set(part) for part in parts))
    good = not (damaged or problems or doubled) and count == _PHOTOS
    good = good and (code == 0) == (role != _DRIVER)
    stage.count(good, f"build, {role}: {code} {damaged} {problems} {doubled} {count}")


def _kill_queries(stage: Stage, cluster, other, role: str) -> None:
    """Every answer is right, or says what is missing from it."""
    place = _new_index(stage)
    with ImageIndex.open(place) as images:
        images.share_model(partial(DotModel, stage.model))
        images.add(stage.folder / "photos")
    process = _driver(stage, cluster, place, "query")
    _kill_one(stage, process, other, role)
    lines = [json.loads(line) for line in process.stdout.read().splitlines() if line]
    process.wait(600)
    wrong = [line for line in lines if not (line["right"] or line["partial"])]
    good = not wrong and (role == _DRIVER or len(lines) == _QUERIES)
    stage.count(good, f"queries, {role}: {len(lines)} answers, {wrong[:2]}")


def _work(model: Path, place: Path, photos: Path, address: str, command: str) -> None:
    """What a driver does."""
    import ray

    with ShardedIndex.open(place, ray=address) as images:
        if command == "build":
            images.share_model(partial(DotModel, model, 0.1))
            writers = images._writers()
            images._writers = lambda: writers  # type: ignore[method-assign]
            told: list[int] = []

            def progress(done: int, total: int, failed: int) -> None:
                if not told:
                    asked = [worker.process.remote() for worker in writers.workers.values()]
                    told.extend(ray.get(asked))
                    _say(told)

            images.add(photos, progress=progress)
            return
        images.share_model(partial(DotModel, model))
        workers = [worker for part in images._parts.values() for worker in part.workers]
        _say(ray.get([worker.process.remote() for worker in workers]))
        for number in range(_QUERIES):
            result = images.query(dots(number).pixels(), k=1)
            right = bool(len(result)) and result[0].id == f"{number:03d}.png"
            _say({"right": right, "partial": [missing.shard for missing in result.partial]})
            time.sleep(0.2)


def _say(values: object) -> None:
    print(json.dumps(values), flush=True)  # noqa: T201


if __name__ == "__main__":
    _work(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], sys.argv[5])

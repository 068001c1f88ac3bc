"""One index against its own shards: whether answers are equal, and what scatter and gather cost.

    python -m eval.speed.sharded my.index --shards 2,4,8 --queries 40 [--photos FOLDER] [--nodes 2]

Queries are the features of photos of the index, or the photos of a folder. Each is asked of one
index and of its shards in turn, so that other work on the machine slows both. With ``--nodes`` a
cluster of Ray with so many nodes on this machine answers for the shards too.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from delg.errors import UsageError
from delg.images.scan import scan
from delg.types import ImageFeatures
from index.image_index import ImageIndex
from index.results import QueryResult
from index.sharding.reshard import reshard
from index.sharding.shards import ShardMap

Ask = Callable[[ImageIndex], QueryResult]
# Queries before those that are timed: they read and compile what the first ones wait for.
_WARM = 3
# A busy machine must not make answers partial.
_DEADLINE_SECONDS = 300.0


@dataclass
class Answers:
    """What one arrangement of the photos answered.

    Attributes:
        name: for people.
        images: the index.
        values: of each query, what must be equal.
        seconds, cpu_seconds: of each query; the processor's time of this process.
    """

    name: str
    images: ImageIndex
    values: list[object] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)

    def ask(self, query: Ask) -> None:
        """Answer one more query."""
        started, worked = time.perf_counter(), time.process_time()
        result = query(self.images)
        self.seconds.append(time.perf_counter() - started)
        self.cpu_seconds.append(time.process_time() - worked)
        self.values.append(_comparable(result))


def _comparable(result: QueryResult) -> object:
    hits = [
        (hit.id, hit.score, hit.similarity, hit.inliers, hit.probability, hit.label)
        for hit in result
    ]
    return hits, result.orientation, result.partial


def compare(single: Answers, others: Sequence[Answers], queries: Sequence[Ask]) -> Iterator[str]:
    """Ask all queries of all arrangements, and describe each in a line."""
    for query in queries[:_WARM]:
        for each in (single, *others):
            query(each.images)
    for number, query in enumerate(queries):
        in_turn = [single, *others]
        for each in in_turn if number % 2 else in_turn[::-1]:
            each.ask(query)
    for each in (single, *others):
        equal = sum(a == b for a, b in zip(single.values, each.values, strict=True))
        cpu, cpu_single = (float(np.mean(a.cpu_seconds)) * 1000 for a in (each, single))
        wall, fastest = float(np.median(each.seconds)) * 1000, min(each.seconds) * 1000
        yield (
            f"{each.name}: {equal} of {len(queries)} answers equal; CPU of this process "
            f"{cpu:.1f} ms per query ({cpu - cpu_single:+.1f} ms, {cpu / cpu_single - 1:+.0%}); "
            f"median {wall:.0f} ms, fastest {fastest:.0f} ms\n"
        )


def _queries(images: ImageIndex, photos: Path | None, count: int) -> list[Ask]:
    rng = np.random.default_rng(0)
    if photos is not None:
        paths = [str(photo.path) for photo in scan([photos]).photos]
        chosen = rng.permutation(len(paths))[:count]
        return [lambda index, path=paths[n]: index.query(path) for n in chosen]  # type: ignore[misc]
    ids = images.ids()
    features: list[ImageFeatures] = [
        images.features(ids[n]) for n in rng.permutation(len(ids))[:count]
    ]
    return [lambda index, each=each: index.query_features(each) for each in features]  # type: ignore[misc]


def _reshard(index: Path, folder: Path, count: int) -> Path:
    out = folder / f"{count}.index"
    reshard([index], out, count)
    ShardMap.read(out).model_copy(update={"deadline_seconds": _DEADLINE_SECONDS}).write(out)
    return out


@contextmanager
def _cluster(nodes: int) -> Iterator[str | None]:
    """Address of a cluster of so many nodes on this machine; None: none was asked for."""
    if not nodes:
        yield None
        return
    # Workers find this package, and are not the last that the machine works for.
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
    from ray.cluster_utils import Cluster

    cpus = max(1, (os.cpu_count() or 1) // nodes)
    head = {"num_cpus": cpus, "include_dashboard": False}
    cluster: Any = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(nodes - 1):
            cluster.add_node(num_cpus=cpus)
        yield cluster.address
    finally:
        import ray

        # This process is a part of the head node.
        ray.shutdown()
        cluster.shutdown()


def main() -> None:
    """Compare one index with its shards."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("index", type=Path, help="an ordinary index")
    parser.add_argument("--shards", default="2,4,8", help="numbers of shards, with commas")
    parser.add_argument("--queries", type=int, default=40)
    parser.add_argument("--photos", type=Path, help="folder of photos to query with")
    parser.add_argument("--nodes", type=int, default=0, help="nodes of a cluster of Ray")
    options = parser.parse_args()
    counts = [int(count) for count in options.shards.split(",")]
    with TemporaryDirectory() as folder, _cluster(options.nodes) as address:
        single = ImageIndex.open(options.index)
        if single.shard_count:
            raise UsageError(f"{options.index}: is sharded; name an ordinary index")
        others = []
        for count in counts:
            place = _reshard(options.index, Path(folder), count)
            others.append(Answers(f"{count} shards", ImageIndex.open(place)))
            if address is not None:
                sent = ImageIndex.open(place, ray=address)
                others.append(Answers(f"{count} shards, {options.nodes} nodes of Ray", sent))
        queries = _queries(single, options.photos, options.queries)
        for line in compare(Answers("one index", single), others, queries):
            sys.stdout.write(line)
            sys.stdout.flush()
        for each in others:
            each.images.close()


if __name__ == "__main__":
    main()

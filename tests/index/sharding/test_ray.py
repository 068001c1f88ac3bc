"""Workers of Ray are killed while they build and while they answer."""

from __future__ import annotations

import os
import shutil
import signal
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from dots import DotModel, contents, dots

from index import ImageIndex, IndexSettings
from index.sharding.sharded_index import ShardedIndex
from index.sharding.shards import ShardMap

pytestmark = pytest.mark.timeout(1200)
QUERY = dots(4).moved([[0.8, -0.5, 70], [0.5, 0.8, 10], [0, 0, 1]], (210, 190)).pixels()


def kill(*workers) -> None:
    import ray

    # All are asked before the first dies, which would be replaced while the next is waited for.
    for process in ray.get([worker.process.remote() for worker in workers]):
        os.kill(process, signal.SIGKILL)


def answers(result) -> list[tuple]:
    return [(hit.id, hit.score, hit.inliers) for hit in result]


def test_a_build_goes_on_when_a_worker_is_killed(
    ray_address, one, words_model, sharded_photos, tmp_path, monkeypatch
):
    settings = IndexSettings.model_validate({"store": {"segment_images": 3}})
    ShardedIndex.create_sharded(tmp_path / "i", 2, str(words_model), settings).close()
    with ShardedIndex.open(tmp_path / "i", ray=ray_address, searched=False) as images:
        images.share_model(partial(DotModel, words_model, 0.2))
        writers, killed = images._writers(), []
        monkeypatch.setattr(images, "_writers", lambda: writers)

        def progress(done: int, total: int, failed: int) -> None:
            if done > 6 and not killed:
                killed.append(done)
                kill(writers.workers[0])

        labels = str(sharded_photos.parent / "labels.csv")
        report = images.add(sharded_photos, labels, progress=progress)
        assert killed and len(images) == 35
        # What the killed worker had committed was not extracted again.
        assert report.added + report.unchanged == 35 and report.unchanged > 0
        assert images.check().problems == []
    parts = [contents(tmp_path / "i" / entry.location)
             for entry in ShardMap.read(tmp_path / "i").shards]  # fmt: skip
    assert parts[0] | parts[1] == contents(one.path) and not parts[0].keys() & parts[1].keys()


def test_queries_are_answered_or_say_what_is_missing(
    ray_address, one, several, words_model, tmp_path
):
    from ray.exceptions import RayError

    folder = Path(shutil.copytree(several.path, tmp_path / "i"))
    ShardMap.read(folder).model_copy(update={"replicas": 2}).write(folder)
    expected = answers(one.query(QUERY, k=35))
    with ImageIndex.open(folder, ray=ray_address) as images:
        images.share_model(partial(DotModel, words_model))
        first = images._parts.parts[0]
        kill(first.workers[0])
        for _ in range(2):
            result = images.query(QUERY, k=35)
            assert answers(result) == expected and not result.partial
        # A worker may be replaced before the next query asks.
        for _ in range(10):
            with suppress(RayError):
                kill(*first.workers)
            if (result := images.query(QUERY, k=35)).partial:
                break
        assert [missing.shard for missing in result.partial] == ["0000"]
        of_the_rest = {image for image in one.ids() if images.shard_of(image) == "0001"}
        assert {hit.id for hit in result} == of_the_rest
        assert [missing.shard for missing in images.unsearched_shards()] == ["0000"]
        until = time.monotonic() + 600
        while (result := images.query(QUERY, k=35)).partial and time.monotonic() < until:
            time.sleep(0.5)
        assert answers(result) == expected

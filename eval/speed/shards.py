"""Shards: what scatter and gather cost, and how a query's time grows with the number of shards.

Larger collections than those of the stages: ``python -m eval.speed.shards --per-shard 1250000
--shards 8 --features 20``, also with ``--ray ADDRESS``.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from delg.types import ImageFeatures
from eval.speed.harness import Bench, Growth, Point, Result, Row, milliseconds, stage
from eval.speed.synthetic import SIZE, make_index, photo
from index.feature_spec import FeatureSpec
from index.image_index import ImageIndex
from index.sharding.reshard import reshard
from index.sharding.shards import ShardMap, new_entries, shard_number
from index.storage.catalog_tables import ImageRow
from index.storage.product_quantizer import ProductQuantizer
from index.storage.store import Store

_PHOTOS, _QUICK_PHOTOS, _FEATURES = 1600, 120, 300
_COUNTS = (1, 2, 4, 8)
_PER_SHARD, _SAMPLE = 200, 100
_TIME = Growth("A query of shards of equal size, in one process", "shards", "ms")


def _photos(count: int, features: int) -> list[ImageFeatures]:
    return [photo(features, seed=seed) for seed in range(count)]


def _times(images: ImageIndex, query: ImageFeatures, runs: int) -> list[float]:
    images.query_features(query)
    return [milliseconds(lambda: images.query_features(query)) for _ in range(runs)]


@stage("shards_1", "shards_2", "shards_4", "shards_8")
def shards(bench: Bench) -> Iterator[Result]:
    """One photo searched for in the same photos, in one index and in several shards of it."""
    features = _photos(_QUICK_PHOTOS if bench.quick else _PHOTOS, _FEATURES)
    make_index(bench.folder / "one", features).close()
    for count in _COUNTS:
        folder = bench.folder / f"{count}.index"
        reshard([bench.folder / "one"], folder, count if count > 1 else None)
        with ImageIndex.open(folder) as images:
            times = _times(images, features[0], bench.runs)
        note = f"{len(features):,} photos in one process, 100 verified"
        yield Row.of(f"shards_{count}", times, note=note)
    if bench.quick:
        return
    for count in _COUNTS:
        with _synthetic(bench.folder / f"growth-{count}", count, _PER_SHARD, _FEATURES) as images:
            times = _times(images, features[0], bench.runs)
        yield Point(_TIME, "query", count, float(np.median(times)))


def _synthetic(
    folder: Path, count: int, per_shard: int, features: int, ray: str | None = None
) -> ImageIndex:
    """A new index of synthetic photos, ``per_shard`` in each shard; memory holds one batch."""
    entries, sample = new_entries(count), _photos(_SAMPLE, features)
    codebook = ProductQuantizer.train(np.concatenate([p.local.descriptors for p in sample]))
    for number, entry in enumerate(entries):
        ids = (str(n) for n in itertools.count() if shard_number(str(n), count) == number)
        _fill(folder / entry.location, list(itertools.islice(ids, per_shard)), features, codebook)
    with ImageIndex.open(folder / entries[0].location) as images:
        ShardMap.of(images.meta(), entries).write(folder)
    return ImageIndex.open(folder, ray=ray)


def _fill(folder: Path, ids: Sequence[str], features: int, codebook: ProductQuantizer) -> None:
    """A new index of one synthetic photo for each id."""
    first = photo(features)
    dims = len(first.global_descriptor), first.local.descriptors.shape[1]
    spec = FeatureSpec("made-up", *dims, aggregated=False)
    ImageIndex.create_for_features(folder, spec).close()
    store = Store(folder)
    with store.lock():
        store.set_codebook(codebook)
        size = store.settings.store.segment_images
        for start in range(0, len(ids), size):
            batch = ids[start : start + size]
            rows = [ImageRow(each, "", 0, 0, "", width=SIZE[0], height=SIZE[1]) for each in batch]
            # Seeded by id, whatever shard it belongs to.
            store.commit(
                rows,
                [photo(features, seed=int(each)) for each in batch],
                {each: int(each) + 1 for each in batch},
            )
        store.save_ann_index()
    store.close()


def main() -> None:
    """Measure one size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per-shard", type=int, default=_PER_SHARD, help="photos of each shard")
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--features", type=int, default=_FEATURES, help="per photo")
    parser.add_argument("--ray", help="address of a Ray cluster")
    parser.add_argument("--queries", type=int, default=20)
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        started = time.perf_counter()
        place = Path(folder) / "synthetic"
        images = _synthetic(place, options.shards, options.per_shard, options.features, options.ray)
        seconds = time.perf_counter() - started
        times = _times(images, photo(options.features), options.queries)
        size = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
        sys.stdout.write(
            f"{len(images):,} photos in {options.shards} shards: built in {seconds:.0f} s, "
            f"{size / len(images):.0f} bytes per photo, query {np.median(times):.1f} ms "
            f"({min(times):.1f} to {max(times):.1f})\n"
        )
        images.close()


if __name__ == "__main__":
    main()

"""Opening an index of a million synthetic photos: the time and the memory it takes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from delg.settings import parse
from delg.types import FloatArray, ImageFeatures, LocalFeatures
from eval.speed.harness import Bench, Growth, Point, Result, Row, stage
from eval.speed.synthetic_vectors import DIM, Vectors
from index.feature_spec import FeatureSpec
from index.image_index import ImageIndex
from index.settings import IndexSettings
from index.storage.catalog_tables import ImageRow, SegmentRow, insert_segment, put_images
from index.storage.store import Store

_COUNT, _QUICK_COUNT = 1_000_000, 20_000
_SEGMENT = 256
_LOCAL, _LOCAL_DIM, _LISTS = 4, 16, 256
_RUNS = 5
_TIME = Growth("Opening an index", "photos", "ms")
_MEMORY = Growth("Memory of an open index", "photos", "MiB")
# A new process, so that nothing of the index is in memory yet.
_OPEN = """
import json, os, sys, time
from pathlib import Path
from index.image_index import ImageIndex
import faiss, h5py, cv2

def resident():
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0

before, started = resident(), time.perf_counter()
images = ImageIndex.open(sys.argv[1])
seconds = time.perf_counter() - started
print(json.dumps([seconds * 1000, (resident() - before) / (1 << 20)]))
"""


def make_index(folder: Path, vectors: Vectors) -> None:
    """An index of synthetic photos with a few local features each."""
    kind = FeatureSpec("made-up", DIM, _LOCAL_DIM, aggregated=False)
    # Few lists train fast and take as long to open.
    values = {"store": {"local_codec": "int8"}, "shortlist": {"nlist": _LISTS}}
    settings = parse(IndexSettings, values, "speed")
    ImageIndex.create_for_features(folder, kind, settings).close()
    store = Store(folder)
    rng = np.random.default_rng(0)
    local = rng.standard_normal((_LOCAL, _LOCAL_DIM)).astype(np.float32)
    local /= np.linalg.norm(local, axis=1, keepdims=True)
    numbers = np.ones(_LOCAL, np.float32)
    features = LocalFeatures(np.ones((_LOCAL, 2), np.float32), local, numbers, numbers)
    with store.lock():
        for first, chunk in vectors.chunks():
            _commit(store, first, chunk, features)
        store.refresh()
        store.rebuild_ann_index()
        store.save_ann_index()
    store.close()


def _commit(store: Store, first: int, vectors: FloatArray, local: LocalFeatures) -> None:
    """Write many segments in one transaction; the ANN index is built at the end."""
    number = store.catalog.next_segment()
    segments: list[SegmentRow] = []
    images: list[ImageRow] = []
    for start in range(0, len(vectors), _SEGMENT):
        photos = [ImageFeatures(v, local, 640, 480) for v in vectors[start : start + _SEGMENT]]
        ids = [f"{first + start + i:09d}.jpg" for i in range(len(photos))]
        segments.append(store.write_segment(number + len(segments), ids, photos))
        images += [
            ImageRow(id_, f"/photos/{id_}", 1, 1, "", width=640, height=480,
                     segment=segments[-1].number, position=position)
            for position, id_ in enumerate(ids)
        ]  # fmt: skip
    with store.catalog.write() as db:
        for segment in segments:
            insert_segment(db, segment)
        put_images(db, images)


@stage("open_million", "open_million_memory")
def open_million(bench: Bench) -> Iterator[Result]:
    """In a new process with the libraries loaded; files may be in the system's cache."""
    counts = [_QUICK_COUNT] if bench.quick else [_COUNT // 100, _COUNT // 10, _COUNT]
    for count in counts:
        folder = bench.folder / f"{count}.index"
        make_index(folder, Vectors(count))
        command = [sys.executable, "-c", _OPEN, str(folder)]
        results = [
            json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            for _ in range(_RUNS)
        ]
        times, memory = (list(column) for column in zip(*results, strict=True))
        yield Point(_TIME, "open", count, float(np.median(times)))
        yield Point(_MEMORY, "open", count, float(np.median(memory)))
    yield Row.of("open_million", times, note=f"{counts[-1]:,} photos")
    yield Row.of(
        "open_million_memory",
        memory,
        "MiB",
        note="mostly the ANN index; 0 if the system does not report it",
    )

"""Features on disk: re-ranking candidates that are read from there, and bytes per photo."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from delg.settings import parse
from delg.types import ImageFeatures
from eval.speed import delf_baseline
from eval.speed.harness import Bench, Growth, Point, Result, Row, median_ms, milliseconds, stage
from eval.speed.synthetic import SCALES, make_index, photo, scene
from index.settings import IndexSettings

_CANDIDATES = 100
_COUNTS = (10, 25, 50, 100, 200, 400)
# The reference implementation takes seconds for this many candidates.
_MAX_REFERENCE = 25
_IMAGES = 200
_GROWTH = Growth("Re-ranking", "candidates", "ms")
_BYTES = Growth("An index on disk", "photos", "MiB")
_MIB = 1 << 20
# As many features as the published model has, for the comparison with it.
ALL_FEATURES = parse(IndexSettings, {"store": {"max_features": 1000}, **SCALES}, "speed")


def _candidates(count: int) -> list[ImageFeatures]:
    """Photos of which every tenth shows the same as the query."""
    return [
        scene(0.3 if number % 10 == 0 else 0.0, alike=0.5, other=number).other
        for number in range(count)
    ]


@stage("rerank_100")
def rerank(bench: Bench) -> Iterator[Result]:
    """A query of 1000 features against 100 photos on disk, from candidates to ranking."""
    query, photos = scene(0.0).query, _candidates(_CANDIDATES)
    files = bench.folder / "files"
    files.mkdir()
    delf_baseline.write_features(files, photos)
    with make_index(bench.folder / "index", photos, ALL_FEATURES) as images:
        yield bench.time(
            "rerank_100",
            lambda: images.query_features(query, rerank=_CANDIDATES),
            lambda: delf_baseline.rerank(files, query.local, _CANDIDATES),
            baseline_runs=1,
            note=f"{_CANDIDATES} photos of 1000 features, read from disk",
        )
    if bench.quick:
        return
    photos = _candidates(max(_COUNTS))
    with make_index(bench.folder / "larger", photos, ALL_FEATURES) as images:
        for count in _COUNTS:
            ours = median_ms(partial(images.query_features, query, rerank=count), 5)
            yield Point(_GROWTH, "ours", count, ours)
            if bench.baseline and count <= _MAX_REFERENCE:
                work = partial(delf_baseline.rerank, files, query.local, count)
                yield Point(_GROWTH, "reference", count, milliseconds(work))


@stage("bytes_an_image", "bytes_an_image_default")
def size(bench: Bench) -> Iterator[Result]:
    """Everything an index stores, per photo; the reference stores one file per photo."""
    photos = [photo(seed=number) for number in range(_IMAGES)]
    files = bench.folder / "files"
    files.mkdir()
    reference = delf_baseline.write_features(files, photos) / _IMAGES if bench.baseline else None
    for name, settings, note in (
        ("bytes_an_image", ALL_FEATURES, "1000 local features of 128 numbers + 512 global"),
        ("bytes_an_image_default", IndexSettings(), "the default number of features"),
    ):
        with make_index(bench.folder / name, photos, settings):
            ours = _bytes(bench.folder / name) / _IMAGES
        yield Row.of(name, [ours], "bytes", reference, note)
    for count in () if bench.quick else (100, 200, 400, 800):
        photos = [photo(seed=number) for number in range(count)]
        with make_index(bench.folder / f"{count}", photos):
            yield Point(_BYTES, "ours", count, _bytes(bench.folder / f"{count}") / _MIB)
        if reference is not None:
            yield Point(_BYTES, "reference", count, reference * count / _MIB)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

"""Building an index from JPEG files, everything included: reading, decoding, features, the disk."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from delg.extraction.extractor import Extractor
from delg.images.decode import decode
from delg.zoo.registry import find_model, load_model
from eval.speed.harness import Bench, Result, Row, stage
from index.demo.photos import make_gallery
from index.image_index import ImageIndex

_PHOTOS, _QUICK_PHOTOS, _RUNS = 96, 24, 3
_SIDE, _SHAPES = 1024, (1024 / 768, 768 / 1024, 1.0)
_JPEG_QUALITY = 90


def write_photos(folder: Path, count: int) -> None:
    """JPEGs of ``_SIDE`` pixels: parts of the packaged photos, in the usual shapes."""
    gallery = folder.with_name(folder.name + "-gallery")
    make_gallery(gallery)
    sources = [decode(path) for path in sorted((gallery / "gallery").iterdir())]
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        source = sources[number % len(sources)]
        shape = _SHAPES[number % len(_SHAPES)]
        size = (_SIDE, round(_SIDE / shape)) if shape >= 1 else (round(_SIDE * shape), _SIDE)
        height, width = source.shape[:2]
        share = rng.uniform(0.6, 1) * min(width / size[0], height / size[1])
        w, h = int(size[0] * share), int(size[1] * share)
        x, y = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1)
        pixels = cv2.resize(source[y : y + h, x : x + w, ::-1], size, interpolation=cv2.INTER_CUBIC)
        quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
        cv2.imwrite(str(folder / f"{number:03d}.jpg"), pixels, quality)


@stage("build_index", "build_index_float32")
def build(bench: Bench) -> Iterator[Result]:
    """The default model and settings, and the same weights without quantisation."""
    count = _QUICK_PHOTOS if bench.quick else _PHOTOS
    write_photos(bench.folder / "photos", count)
    models = {"build_index": load_model()}
    if not bench.quick:
        in_float32 = find_model().in_float32().fingerprint
        models["build_index_float32"] = load_model(fingerprint=in_float32)
    rates: dict[str, list[float]] = defaultdict(list)
    for turn in range(1 if bench.quick else min(bench.runs, _RUNS)):
        for name, extractor in models.items():
            rates[name].append(_rate(bench.folder, count, name, extractor, turn))
    note = f"{count} JPEGs of {_SIDE} pixels"
    for name in models:
        yield Row.of(name, rates[name], "images/s", note=note, more_is_better=True)


def _rate(folder: Path, count: int, name: str, extractor: Extractor, turn: int) -> float:
    """Photos per second, with the model loaded beforehand as in a long build."""
    first = sorted((folder / "photos").iterdir())[:3]
    list(extractor.extract_many(first))
    with ImageIndex.create(
        folder / f"{name}-{turn}.index", fingerprint=extractor.fingerprint
    ) as images:
        images.use(extractor)
        started = time.perf_counter()
        images.add(folder / "photos")
        return count / (time.perf_counter() - started)

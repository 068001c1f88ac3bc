"""Building an index from JPEG files, everything included: reading, decoding, features, the disk."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from delg.images.decode import decode
from delg.inference.select import VARIABLE
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


@stage("build_index", "build_index_onnxruntime")
def build(bench: Bench) -> Iterator[Result]:
    """The default model and settings, and in ONNX Runtime; the baseline is the same in
    TensorFlow."""
    count = _QUICK_PHOTOS if bench.quick else _PHOTOS
    write_photos(bench.folder / "photos", count)
    runs = 1 if bench.quick else min(bench.runs, _RUNS)
    measured = {"build_index": "auto"}
    if not bench.quick:
        measured["build_index_onnxruntime"] = "onnxruntime"
    rates: dict[str, list[float]] = defaultdict(list)
    for turn in range(runs):
        for runtime in (*measured.values(), *(["tensorflow"] if bench.baseline else [])):
            rates[runtime].append(_rate(bench.folder, count, runtime, turn))
    baseline = float(np.median(rates["tensorflow"])) if bench.baseline else None
    note = f"{count} JPEGs of {_SIDE} pixels; the baseline: {VARIABLE}=tensorflow"
    for name, runtime in measured.items():
        yield Row.of(name, rates[runtime], "images/s", baseline, note, more_is_better=True)


def _rate(folder: Path, count: int, runtime: str, turn: int) -> float:
    """Photos a second, with the model loaded beforehand as in a long build."""
    from delg.zoo.registry import load_model

    extractor = load_model(runtime=runtime)
    first = sorted((folder / "photos").iterdir())[:3]
    list(extractor.extract_many(first))
    with ImageIndex.create(folder / f"{runtime}-{turn}.index") as images:
        images.use(extractor)
        started = time.perf_counter()
        images.add(folder / "photos")
        return count / (time.perf_counter() - started)

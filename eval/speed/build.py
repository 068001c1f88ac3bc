"""Building an index from JPEG files, end to end: reading, decoding, extraction, writing."""

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
_SIDE, _ASPECT_RATIOS = 1024, (1024 / 768, 768 / 1024, 1.0)
_JPEG_QUALITY = 90


def write_photos(folder: Path, count: int) -> None:
    """JPEGs of ``_SIDE`` pixels: crops of the packaged photos in common aspect ratios."""
    gallery = folder.with_name(folder.name + "-gallery")
    make_gallery(gallery)
    sources = [decode(path) for path in sorted((gallery / "gallery").iterdir())]
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        source = sources[number % len(sources)]
        ratio = _ASPECT_RATIOS[number % len(_ASPECT_RATIOS)]
        size = (_SIDE, round(_SIDE / ratio)) if ratio >= 1 else (round(_SIDE * ratio), _SIDE)
        height, width = source.shape[:2]
        share = rng.uniform(0.6, 1) * min(width / size[0], height / size[1])
        w, h = int(size[0] * share), int(size[1] * share)
        x, y = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1)
        pixels = cv2.resize(source[y : y + h, x : x + w, ::-1], size, interpolation=cv2.INTER_CUBIC)
        quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
        cv2.imwrite(str(folder / f"{number:03d}.jpg"), pixels, quality)


@stage("build_index")
def build_index(bench: Bench) -> Iterator[Result]:
    """The default model and settings; the baseline is the same network in float32."""
    count = _QUICK_PHOTOS if bench.quick else _PHOTOS
    write_photos(bench.folder / "photos", count)
    models = {"int8": load_model()}
    if bench.baseline:
        models["float32"] = load_model(fingerprint=find_model().in_float32().fingerprint)
    rates: dict[str, list[float]] = defaultdict(list)
    for turn in range(1 if bench.quick else min(bench.runs, _RUNS)):
        for precision, extractor in models.items():
            index = bench.folder / f"{precision}-{turn}.index"
            rates[precision].append(_images_per_second(bench.folder / "photos", index, extractor))
    baseline = float(np.median(rates["float32"])) if bench.baseline else None
    note = f"{count} JPEGs of {_SIDE} pixels; the baseline: float32 in ONNX Runtime"
    yield Row.of("build_index", rates["int8"], "images/s", baseline, note, more_is_better=True)


def _images_per_second(photos: Path, index: Path, extractor: Extractor) -> float:
    """Rate of adding a folder, with the model loaded beforehand as in a long build."""
    warm_up = sorted(photos.iterdir())[:3]
    list(extractor.extract_many(warm_up))
    with ImageIndex.create(index, fingerprint=extractor.fingerprint) as images:
        images.use(extractor)
        started = time.perf_counter()
        images.add(photos)
        return len(images) / (time.perf_counter() - started)

"""A model that costs nothing: features drawn from a seed made of the photo's bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from delg.images.decode import ImageError, decode
from delg.settings import ImageSettings
from delg.types import Failure, ImageFeatures, LocalFeatures
from delg.zoo.registry import find_model

FILES = find_model("delg-lite")
DIM, LOCAL_DIM = FILES.settings.global_head.dim, FILES.settings.local_head.dim


def unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)


def features_of(pixels: np.ndarray, count: int = 40) -> ImageFeatures:
    """The same pixels give the same features."""
    seed = int.from_bytes(hashlib.sha256(pixels.tobytes()).digest()[:8], "little")
    rng = np.random.default_rng(seed)
    height, width = pixels.shape[:2]
    local = LocalFeatures(
        (rng.random((count, 2)) * [width - 1, height - 1]).astype(np.float32),
        unit(rng.normal(size=(count, LOCAL_DIM))),
        np.ones(count, np.float32),
        np.sort(rng.random(count).astype(np.float32))[::-1].copy(),
    )
    return ImageFeatures(unit(rng.normal(size=DIM)), local, width, height)


class FakeExtractor:
    """Has the fingerprint of delg-lite, so that an index made for that model takes it."""

    def __init__(self) -> None:
        self.settings, self.fingerprint = FILES.settings, FILES.fingerprint
        self.name, self.images = "fake", ImageSettings()
        self.global_dim, self.local_dim = DIM, LOCAL_DIM
        self.extracted = 0

    def extract(self, source: object, box: object = None, turns: int = 0) -> ImageFeatures:
        return features_of(np.rot90(decode(source), turns))

    def extract_many(
        self, sources: Iterable, read: Callable | None = None, threads: int | None = None
    ) -> Iterator[ImageFeatures | Failure]:
        for source in sources:
            try:
                self.extracted += 1
                yield self.extract(read(source) if read else source)
            except ImageError as error:
                yield Failure(str(source), str(error))


def make_photos(folder: Path, count: int, start: int = 0) -> None:
    """Small photos, each of other pixels."""
    import cv2

    folder.mkdir(parents=True, exist_ok=True)
    for number in range(start, start + count):
        pixels = np.random.default_rng(number).integers(0, 255, (24, 32, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / f"{number:03d}.png"), pixels)

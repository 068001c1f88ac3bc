"""Photos of coloured dots, and a model that sees nothing else.

What an index does with features can be tested without a network: each dot is a local feature, its
colour decides the descriptor, and the sum over all dots is the global descriptor. Photos that
share dots are similar, and dots that moved together are matched and verified like real points.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from delg.extraction.extractor import Refinement
from delg.images.decode import ImageError, Source, decode
from delg.images.geometry import crop_to_box
from delg.settings import ImageSettings
from delg.types import Box, Failure, ImageFeatures, LocalFeatures
from delg.zoo.registry import find_model
from index.storage.store import Store
from index.storage.vocabulary import Vocabulary, write_vocabulary

PAPER = 128
SIZE = (160, 120)
# Features of a photo, as with other models: noise is dots all over.
_MOST = 1000
_SETTINGS = """\
name: dots
global_head: {dim: 64}
local_head: {dim: 32}
"""


@dataclass(frozen=True)
class Dots:
    """Points (N, 2), (x, y), whole pixels, and their colours (N, 3)."""

    points: np.ndarray
    colours: np.ndarray
    size: tuple[int, int] = SIZE

    def pixels(self) -> np.ndarray:
        """The photo, uint8 (H, W, 3)."""
        width, height = self.size
        paper = np.full((height, width, 3), PAPER, np.uint8)
        paper[self.points[:, 1], self.points[:, 0]] = self.colours
        return paper

    def moved(self, transform: ArrayLike, size: tuple[int, int]) -> Dots:
        """The same dots through an affine transform (3, 3); those that fall outside are lost."""
        points = np.rint(
            np.c_[self.points, np.ones(len(self.points))] @ np.asarray(transform)[:2].T
        )
        inside = ((points >= 0) & (points < size)).all(axis=1)
        return Dots(points[inside].astype(int), self.colours[inside], size)

    def save(self, path: Path) -> Path:
        """Write the photo without loss."""
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(self.pixels()).save(path, "PNG", compress_level=1)
        return path


def dots(seed: int, count: int = 40, size: tuple[int, int] = SIZE) -> Dots:
    """Dots in different places, no two of one colour."""
    rng = np.random.default_rng(seed)
    places = rng.choice(size[0] * size[1], count, replace=False)
    colours = rng.integers(0, 256, (count, 3))
    colours[:, 0] = rng.choice(np.r_[0:PAPER, PAPER + 1 : 256], count, replace=False)
    points = np.stack([places % size[0], places // size[0]], axis=1)
    return Dots(points, colours.astype(np.uint8), size)


def gallery(folder: Path, count: int, first: int = 0) -> list[Path]:
    """Write photos ``000.png``, ``001.png`` … of their own dots each."""
    return [dots(n).save(folder / f"{n:03d}.png") for n in range(first, first + count)]


def model_folder(folder: Path) -> Path:
    """A model's folder as :func:`index.ImageIndex.create` wants it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.yaml").write_text(_SETTINGS)
    with h5py.File(folder / "weights.h5", "w") as file:
        file["layer/kernel"] = np.ones(3, np.float32)
    return folder


@cache
def _word(colour: tuple[int, ...], length: int) -> np.ndarray:
    return np.random.default_rng(colour).normal(size=length)


class DotModel:
    """An extractor of dots.

    Args:
        folder: see :func:`model_folder`.
        pause: seconds to wait over each photo.

    Attributes:
        extracted: how many photos were looked at; the parts of photos that are added do not count.
        pause: may be changed.
    """

    def __init__(self, folder: Path, pause: float = 0) -> None:
        files = find_model(str(folder))
        self.folder = folder
        self.settings, self.fingerprint = files.settings, files.fingerprint
        self.name = self.settings.name
        self.images = ImageSettings()
        self.global_dim = self.settings.global_head.dim
        self.local_dim = self.settings.local_head.dim
        self.extracted = 0
        self.pause = pause

    @property
    def network_alone(self) -> DotModel:
        return self

    def extract(
        self, source: Source, box: Box | None = None, turns: int = 0, all_cores: bool = True
    ) -> ImageFeatures:
        pixels = decode(source, self.images)
        crop, origin = (pixels, (0, 0)) if box is None else crop_to_box(pixels, box)
        self.extracted += 1
        time.sleep(self.pause)
        y, x = (places[:_MOST] for places in np.nonzero((crop != PAPER).any(axis=2)))
        length = self.global_dim + self.local_dim
        words = [_word(tuple(colour), length) for colour in crop[y, x].tolist()]
        words = np.array(words).reshape(len(x), length)
        global_descriptor = words[:, : self.global_dim].sum(axis=0) + 1e-6
        local = words[:, self.global_dim :]
        return ImageFeatures(
            (global_descriptor / np.linalg.norm(global_descriptor)).astype(np.float32),
            LocalFeatures(
                (np.stack([x, y], axis=1) + origin).astype(np.float32),
                (local / np.linalg.norm(local, axis=1, keepdims=True)).astype(np.float32),
                np.ones(len(x), np.float32),
                np.linspace(1, 0.5, len(x), dtype=np.float32),
            ),
            pixels.shape[1],
            pixels.shape[0],
        )

    def extract_many(
        self,
        sources: Iterable,
        read: Callable | None = None,
        threads: int | None = None,
        refine: Refinement | None = None,
    ) -> Iterator[ImageFeatures | Failure]:
        for source in sources:
            try:
                data = read(source) if read else source
                features, count = self.extract(data), self.extracted
                features = refine(decode(data, self.images), features) if refine else features
                self.extracted = count
                yield features
            except ImageError as error:
                yield Failure(str(source), str(error))


def write_words(folder: Path, photos: Iterable[Path]) -> Path:
    """Give the model in a folder a vocabulary, learnt from photos, so that indexes hold words."""
    model = DotModel(folder)
    sample = np.concatenate([model.extract(path).local.descriptors for path in photos])
    write_vocabulary(folder / "vocabulary.h5", Vocabulary.train(sample, words=32))
    return folder


def check_shortlists(store: Store) -> None:
    """Each shortlist holds the photos that can be found, or their parts, and nothing else."""
    rows = {int(row) for row in store.catalog.searchable()[:, 0]}
    assert set(store.ann_index.rows().tolist()) == rows
    words = store.inverted_file()
    assert words is None or set(words.rows().tolist()) == rows
    parts = store.region_index()
    if parts is not None:
        counts = {
            image.row: len(store.segments[image.segment].regions(image.position))
            for image in store.catalog.images("ok")
        }
        query = np.eye(1, store.dim, dtype=np.float32)[0]
        found, _ = parts.nearest(query, len(parts) + 1, None, None)
        assert len(parts) == sum(counts.values())
        assert set(found.tolist()) == {row for row, count in counts.items() if count}


def contents(folder: Path) -> dict[str, tuple]:
    """All that an index knows of its images, without row numbers and places: id -> facts."""
    store = Store(folder)
    images = {}
    for image in store.catalog.images():
        values = (image.state, image.label, tuple(image.metadata.items()), image.sha256)
        if image.state == "ok":
            features = store.features(image)
            parts = (
                features.local.descriptors,
                features.local.keypoints,
                features.local.scales,
                features.local.scores,
            )
            regions = [
                array
                for part in features.regions
                for array in (
                    np.array(part.box),
                    part.features.global_descriptor,
                    part.features.local.keypoints,
                    part.features.local.descriptors,
                )
            ]
            arrays = (features.global_descriptor, *parts, *regions)
            values += (features.width, features.height, *(array.tobytes() for array in arrays))
        images[image.id] = values
    store.close()
    return images

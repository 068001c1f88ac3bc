"""Learn a model's attention from photos: the chance that a cell finds its like in another photo.

Backbone, global descriptor and local descriptors stay as they are. What is learnt selects which of
the local features an index keeps, in place of what selected them before.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from delg.errors import UsageError
from delg.extraction.cells import CellExtractor, Cells
from delg.images.scan import Photo, scan
from delg.settings import ImageSettings
from delg.types import FloatArray, Progress
from delg.zoo.registry import ModelFiles
from index.attention.labels import label_cells
from index.attention.pairs import CellPair, find_pairs, make_pairs
from index.learn.training_photos import (
    ProgressFactory,
    decode_readable,
    evenly_spaced,
    label_of,
    spread_photos,
)
from index.settings import IndexSettings
from index.verification.matching import one_blas_thread

# Photos of each source from which pairs are made, and photos of each label among which pairs are
# looked for.
_PHOTOS_PER_SOURCE = 60
_PHOTOS_PER_LABEL = 12
# Cells taken of each photo.
_CELLS = 600
# Descriptors of earlier photos that a match must be nearer than, and of each photo.
_ELSEWHERE, _ELSEWHERE_PER_PHOTO = 1000, 100
# What the other photo does not show counts so much as no match, where it was not made.
_INVISIBLE_WEIGHT = 0.3


@dataclass(frozen=True, eq=False)
class CellSample:
    """Cells to learn from.

    Attributes:
        maps: float32 (N, C), what the attention reads.
        matches: bool (N,), whether they find their like.
        weights: float32 (N,).
    """

    maps: FloatArray
    matches: NDArray[np.bool_]
    weights: FloatArray

    @classmethod
    def concatenate(cls, parts: Sequence[CellSample]) -> CellSample:
        """The cells of all parts."""
        columns = zip(*((p.maps, p.matches, p.weights) for p in parts), strict=True)
        return cls(*map(np.concatenate, columns))

    def weighing(self, total: float) -> CellSample:
        """The same, weights adding up to ``total``."""
        scale = np.float32(total / max(float(self.weights.sum()), 1e-12))
        return CellSample(self.maps, self.matches, self.weights * scale)


@dataclass(frozen=True)
class Summary:
    """What an attention was learnt from: how many cells, and the share that find their like."""

    cells: int
    share: float


def learn_attention(
    files: ModelFiles,
    photos: Sequence[str | Path],
    instances: Sequence[str | Path],
    scale_weights: tuple[float, ...] | None,
    out: Path,
    progress: ProgressFactory,
) -> Summary:
    """Make a copy of a model with an attention learnt from photos.

    Args:
        files: of the model, one network of this package's making.
        photos, instances: see :func:`collect_cells`.
        scale_weights: ``extraction.scale_weights`` of the copy; None: as they are.
        out: folder to make; it must not exist.
        progress: makes a progress display for each step.

    Raises:
        UsageError: a source does not exist, the photos give no pairs, or the weights do not fit.
        ModelError: the model is a SavedModel, has two towers or SIFT.
        DelgError: the copy cannot be written.
    """
    from index.attention.train import (
        read_network,
        train_attention,
        with_attention,
        write_model_with_attention,
    )

    settings = with_attention(files.settings, scale_weights)
    network, matching = read_network(files), IndexSettings()
    matching = matching.model_copy(
        update={"verification": matching.verification.of_model(files.settings)}
    )
    extractor = CellExtractor(network, files.settings.extraction, os.cpu_count() or 1)
    sample = collect_cells(extractor, photos, instances, matching, progress)
    write_model_with_attention(files, settings, network, train_attention(sample), out)
    return Summary(len(sample.matches), float(sample.matches.mean()))


def collect_cells(
    extractor: CellExtractor,
    photos: Sequence[str | Path],
    instances: Sequence[str | Path],
    settings: IndexSettings,
    progress: ProgressFactory,
) -> CellSample:
    """Cells of pairs of photos, and whether they match; the same photos give the same.

    Args:
        extractor: of the model.
        photos: of all kinds of things, or folders of them; pairs are made of them.
        instances: folders with a folder per label, each with photos of one thing; pairs are looked
            for in them.
        settings: of matching and verification.
        progress: makes a progress display for each step.

    Raises:
        UsageError: a source does not exist, or the photos give no pairs.
    """
    sampler = _CellSampler(settings)
    pictures = list(decode_readable(spread_photos(photos, _PHOTOS_PER_SOURCE), settings.images))
    labels = list(_photos_by_label(instances))
    parts = []
    with one_blas_thread():
        with progress("photographed photos") as report:
            pairs = _counted(make_pairs(pictures, extractor), len(pictures), report)
            parts.append([sample for pair in pairs for sample in sampler.samples(pair)])
        with progress("labels") as report:
            samples: list[CellSample] = []
            cells_by_label = _cells_of(labels, extractor, settings.images)
            for cells in _counted(cells_by_label, len(labels), report):
                for pair in find_pairs(cells, settings):
                    samples += sampler.samples(pair)
            parts.append(samples)
    # Both kinds of pairs count alike, however many there are.
    kinds = [CellSample.concatenate(part).weighing(0.5) for part in parts if part]
    if not kinds:
        raise UsageError("these photos give no pairs to learn from: name more")
    sample = CellSample.concatenate(kinds)
    if sample.matches.all() or not sample.matches.any():
        raise UsageError("these photos teach nothing: all of their features match, or none does")
    return sample


class _CellSampler:
    """Labels the cells of pairs and keeps some of each photo."""

    def __init__(self, settings: IndexSettings) -> None:
        self._settings, self._rng = settings, np.random.default_rng(0)
        self._elsewhere: list[FloatArray] = []

    def samples(self, pair: CellPair) -> Iterator[CellSample]:
        """Some cells of both photos."""
        elsewhere = self._descriptors_elsewhere(pair.first.descriptors.shape[1])
        back = np.linalg.inv(pair.transform)
        for cells, other, transform in (
            (pair.first, pair.second, pair.transform),
            (pair.second, pair.first, back / back[2, 2]),
        ):
            matches, visible = label_cells(cells, other, transform, elsewhere, self._settings)
            weights = np.where(visible, 1.0, 0.0 if pair.is_made else _INVISIBLE_WEIGHT)
            usable = np.flatnonzero(weights > 0)
            chosen = self._rng.permutation(usable)[:_CELLS]
            yield CellSample(
                cells.maps[chosen], matches[chosen], weights[chosen].astype(np.float32)
            )
        self._remember(pair.first.descriptors)

    def _descriptors_elsewhere(self, dim: int) -> FloatArray:
        return np.concatenate([np.zeros((0, dim), np.float32), *self._elsewhere])

    def _remember(self, descriptors: FloatArray) -> None:
        chosen = self._rng.permutation(len(descriptors))[:_ELSEWHERE_PER_PHOTO]
        self._elsewhere = [descriptors[chosen], *self._elsewhere]
        del self._elsewhere[_ELSEWHERE // _ELSEWHERE_PER_PHOTO :]


def _cells_of(
    labels: Sequence[Sequence[Photo]], extractor: CellExtractor, limits: ImageSettings
) -> Iterator[list[Cells]]:
    """Of the photos of each label that can be read; those of every second label not enlarged."""
    for number, photos in enumerate(labels):
        yield [
            extractor.extract(pixels, number % 2 == 0) for pixels in decode_readable(photos, limits)
        ]


def _photos_by_label(instances: Sequence[str | Path]) -> Iterator[list[Photo]]:
    """At most ``_PHOTOS_PER_LABEL`` of each folder that lies in one of these, spread evenly."""
    for source in instances:
        by_label: dict[str, list[Photo]] = {}
        for photo in scan([source]).photos:
            if (label := label_of(photo)) is not None:
                by_label.setdefault(label, []).append(photo)
        for photos in by_label.values():
            yield [photos[number] for number in evenly_spaced(len(photos), _PHOTOS_PER_LABEL)]


_T = TypeVar("_T")


def _counted(items: Iterable[_T], total: int, report: Progress) -> Iterator[_T]:
    """The items; progress is told of each after it was used."""
    for done, item in enumerate(items, 1):
        yield item
        report(done, total, 0)

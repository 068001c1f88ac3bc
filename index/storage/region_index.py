"""The shortlist of regions: FAISS over the global descriptors of the parts of photos that are
stored (``store.regions``). A photo is as similar as its most similar part.

It is derived from the segments; ``regions.faiss`` keeps it on disk, marked and brought up to date
as ``global.faiss`` is (:mod:`index.storage.ann_index`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from delg.types import Box, FloatArray
from index.settings import GlobalCodec, ShortlistSettings
from index.storage.ann_index import AnnIndex, Rows, products
from index.storage.places import by_segment
from index.storage.segments import Segment

FILE = "regions.faiss"
# A region is known by this many times the row number of its photo, plus its number there.
_MAX_REGIONS = 16

# Called with descriptors (N, D) as the model made them, gives them as they are compared.
Adapt = Callable[[FloatArray], FloatArray]
# int64 (N, 3): row, segment and position of photos.
Places = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class BestRegion:
    """The part of a photo that is most similar to a query.

    Attributes:
        box: in the photo, (x, y, width, height) in pixels.
        similarity: inner product of the global descriptors.
    """

    box: Box
    similarity: float


def find_best_region(
    segment: Segment, position: int, query: FloatArray, adapt: Adapt
) -> BestRegion | None:
    """The most similar part of the photo at that position of a segment; None if it has none."""
    parts = segment.regions(position)
    if not parts:
        return None
    similarities = products(adapt(segment.global_descriptors(parts)), query)
    best = int(similarities.argmax())
    return BestRegion(segment.region_box(parts[best]), float(similarities[best]))


class RegionIndex:
    """Global descriptors of the parts of photos.

    Args:
        ann_index: whose ids are those of regions.
        settings: of the kind of FAISS index.
        stored: the type that descriptors come from.
    """

    def __init__(
        self, ann_index: AnnIndex, settings: ShortlistSettings, stored: GlobalCodec
    ) -> None:
        self._ann_index, self._settings, self._stored = ann_index, settings, stored

    @classmethod
    def load(
        cls, folder: Path, dim: int, settings: ShortlistSettings, stored: GlobalCodec, space: str
    ) -> tuple[RegionIndex, int] | None:
        """See :meth:`index.storage.ann_index.AnnIndex.load`."""
        loaded = AnnIndex.load(folder, dim, settings.nprobe, space, FILE)
        return (cls(loaded[0], settings, stored), loaded[1]) if loaded else None

    @classmethod
    def build(
        cls,
        dim: int,
        places: Places,
        segments: Mapping[int, Segment],
        adapt: Adapt,
        settings: ShortlistSettings,
        stored: GlobalCodec,
    ) -> RegionIndex:
        """Of all photos that can be found."""
        parts = [
            _regions_of(segments[number], rows, positions, adapt)
            for number, rows, positions in by_segment(places)
        ]
        keys = np.concatenate([np.zeros(0, np.int64), *(keys for keys, _ in parts)])
        vectors = np.concatenate([np.zeros((0, dim), np.float32), *(v for _, v in parts)])

        def sample(count: int) -> FloatArray:
            return vectors[np.random.default_rng(0).permutation(len(vectors))[:count]]

        ann_index = AnnIndex.train(dim, len(keys), sample, settings, stored)
        if len(keys):
            ann_index.add(vectors, keys)
        return cls(ann_index, settings, stored)

    def __len__(self) -> int:
        return len(self._ann_index)

    @property
    def suits(self) -> bool:
        """Whether a fresh build would be of the same kind, and training has seen enough."""
        return self._ann_index.suits(self._settings, self._stored)

    def update(self, places: Places, segments: Mapping[int, Segment], adapt: Adapt) -> None:
        """Hold exactly the regions of those photos."""
        keys = self._ann_index.rows()
        known = np.unique(keys // _MAX_REGIONS)
        removed = keys[~np.isin(keys // _MAX_REGIONS, places[:, 0])]
        if len(removed):
            self._ann_index.remove(removed)
        for number, rows, positions in by_segment(places[~np.isin(places[:, 0], known)]):
            added, vectors = _regions_of(segments[number], rows, positions, adapt)
            if len(added):
                self._ann_index.add(vectors, added)

    def save(self, folder: Path, generation: int, space: str) -> None:
        """See :meth:`index.storage.ann_index.AnnIndex.save`."""
        self._ann_index.save(folder, generation, space, FILE)

    def nearest(
        self,
        vector: FloatArray,
        count: int,
        selected: Rows | None,
        read: Callable[[NDArray[np.int64]], FloatArray] | None,
    ) -> tuple[Rows, FloatArray]:
        """The photos with the most similar regions, and these similarities, in no order.

        Args:
            vector: float32 (D,), unit length, as descriptors are compared.
            count: photos, at least, if so many have regions.
            selected: row numbers to search among, ascending; None: all.
            read: gives the descriptors of regions (n, D) by their keys (n,), where FAISS's
                similarities are not exact; None: they are.
        """
        keys = None
        if selected is not None:
            keys = (selected[:, None] * _MAX_REGIONS + np.arange(_MAX_REGIONS)).ravel()
        wanted = count * _MAX_REGIONS
        if read is not None:
            wanted = self._ann_index.candidate_count(wanted, self._settings)
        regions, similarities = self._ann_index.search(vector, wanted, keys)
        if read is not None:
            similarities = products(read(regions), vector)
        rows, places = np.unique(regions // _MAX_REGIONS, return_inverse=True)
        best = np.full(len(rows), -np.inf, np.float32)
        np.maximum.at(best, places, similarities)
        return rows, best

    @property
    def is_exact(self) -> bool:
        """See :meth:`index.storage.ann_index.AnnIndex.is_exact`."""
        return self._ann_index.is_exact(self._stored)


def place_of(keys: NDArray[np.int64]) -> tuple[Rows, NDArray[np.int64]]:
    """Row numbers (n,) of the photos of regions (n,), and the regions' numbers there."""
    return keys // _MAX_REGIONS, keys % _MAX_REGIONS


def _regions_of(
    segment: Segment, own_rows: Rows, own_positions: NDArray[np.int64], adapt: Adapt
) -> tuple[NDArray[np.int64], FloatArray]:
    """Keys (n,) and descriptors (n, D) of the regions of photos in one segment."""
    rows = np.full(len(segment), -1, np.int64)
    rows[own_positions] = own_rows
    photos = segment.region_photos
    numbers = np.arange(len(photos)) - np.searchsorted(photos, photos)
    is_wanted = (rows[photos] >= 0) & (numbers < _MAX_REGIONS)
    positions = len(segment) + np.flatnonzero(is_wanted)
    keys = rows[photos] * _MAX_REGIONS + numbers
    return keys[is_wanted], adapt(segment.global_descriptors(positions))

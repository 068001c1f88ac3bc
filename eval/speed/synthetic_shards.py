"""Shards of synthetic photos, by the million, as the default model's would be stored.

Global descriptors are clustered (:mod:`eval.speed.synthetic_vectors`), visual words drawn by their
frequency (:mod:`eval.speed.synthetic_words`), and each photo has the local features of one of a few
hundred, so that nothing is extracted and little is encoded. Segments, catalogs, ANN indexes and
inverted files are the real ones, in as many processes as there are processors.
"""

from __future__ import annotations

import hashlib
import itertools
import multiprocessing
import os
from array import array
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from delg.files import file_sha256
from delg.settings import parse
from delg.types import FloatArray
from eval.speed.synthetic import SIZE, photo
from eval.speed.synthetic_vectors import CHUNK, Vectors
from eval.speed.synthetic_words import Words
from index.image_index import ImageIndex
from index.settings import IndexSettings
from index.sharding.shards import ShardEntry, ShardMap, new_entries, shard_number
from index.storage.catalog_tables import ImageRow, SegmentRow, insert_segment, put_images
from index.storage.segment_writer import write_compact_segment
from index.storage.segments import EncodedImage, segment_path
from index.storage.store import Store

# Photos whose local features all others have.
_POOL = 500
# Long segments, as millions of short ones would be files by the ten thousand.
_SEGMENT = 2048


@dataclass(frozen=True)
class SyntheticShards:
    """Shards of so many photos each.

    Attributes:
        folder: of the shards.
        count: of shards.
        per_shard: photos of each.
        features: local features of each photo.
        nlist: see :class:`index.settings.ShortlistSettings`.
    """

    folder: Path
    count: int
    per_shard: int
    features: int
    nlist: int | None = None

    @property
    def photos(self) -> int:
        """Number of all photos."""
        return self.count * self.per_shard

    def bytes(self) -> int:
        """Of all files."""
        places = (self.folder / entry.location for entry in new_entries(self.count))
        files = (file for place in places for file in place.rglob("*"))
        return sum(file.stat().st_size for file in files if file.is_file())

    def make(self) -> int:
        """Write the photos that are not there yet; returns their number."""
        self.folder.mkdir(parents=True, exist_ok=True)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as processes:
            return sum(processes.map(self.fill, range(self.count)))

    def first(self, count: int) -> Path:
        """A sharded index of the first shards alone.

        The ids in them have hashes that agree in all numbers of shards that divide
        :attr:`count`, so that each lies where it belongs.
        """
        if self.count % count:
            raise ValueError(f"{count} does not divide {self.count}")
        place = self.folder / f"first-{count}.index"
        place.mkdir(exist_ok=True)
        entries = [self._entry(number) for number in range(count)]
        with ImageIndex.open(entries[0].location) as images:
            shards = ShardMap.of(images.meta(), entries)
        # A busy machine must not make answers partial.
        shards.model_copy(update={"deadline_seconds": 300.0}).write(place)
        return place

    def _entry(self, number: int) -> ShardEntry:
        entry = new_entries(self.count)[number]
        return ShardEntry(name=entry.name, location=str((self.folder / entry.location).absolute()))

    def fill(self, number: int) -> int:
        """Write a shard, or the rest of one that was left; returns the number of photos written."""
        place = Path(self._entry(number).location)
        values = {"store": {"segment_images": _SEGMENT}, "shortlist": {"nlist": self.nlist}}
        if not ImageIndex.exists(place):
            ImageIndex.create(place, settings=parse(IndexSettings, values, "speed")).close()
        store = Store(place)
        with closing(store), store.lock():
            photos = store.catalog.count("ok")
            if photos < self.per_shard:
                self._write(store, number, photos)
                store.refresh()
                store.rebuild_ann_index()
            if not store.ann_index_current:
                store.save_ann_index()
            return self.per_shard - photos

    def vectors(self, dim: int) -> Vectors:
        """Global descriptors: so many chunks for each shard, one shard after the other."""
        return Vectors(self.count * self._chunks * CHUNK, dim=dim)

    @property
    def _chunks(self) -> int:
        return -(-self.per_shard // CHUNK)

    def _write(self, store: Store, number: int, done: int) -> None:
        """Write what a shard does not hold yet, a chunk at a time."""
        writer = _Writer(store, self.features, self.per_shard, seed=number)
        vectors = self.vectors(store.dim)
        numbers = _numbers(self.count, self.per_shard)[number]
        for chunk in range(done // CHUNK, self._chunks):
            part = slice(max(done - chunk * CHUNK, 0), CHUNK)
            ids = numbers[chunk * CHUNK :][part].tolist()
            descriptors = vectors.chunk(number * self._chunks + chunk)[part][: len(ids)]
            writer.write(ids, descriptors)


class _Writer:
    """Writes synthetic photos into an index.

    Args:
        store: of the index; under its lock.
        features: local features of each photo.
        photos: that will be written, at most.
    """

    def __init__(self, store: Store, features: int, photos: int, seed: int) -> None:
        codebook, vocabulary = store.codebook, store.vocabulary
        assert codebook is not None and vocabulary is not None
        self._store, self._codebook = store, codebook
        self._words = Words(vocabulary, store.settings.store.max_words, photos, seed)
        width = len(vocabulary.mean)
        self._records = [
            EncodedImage.encode(photo(features, width, seed=each), codebook).records
            for each in range(_POOL)
        ]

    def write(self, numbers: list[int], descriptors: FloatArray) -> None:
        """Commit photos in one transaction, the ANN index is the caller's.

        Args:
            numbers: of the photos, which are their ids.
            descriptors: (N, D), their global descriptors.
        """
        rows: list[ImageRow] = []
        segments: list[SegmentRow] = []
        first = self._store.catalog.next_segment()
        for start in range(0, len(numbers), _SEGMENT):
            part, vectors = numbers[start : start + _SEGMENT], descriptors[start : start + _SEGMENT]
            segments.append(self._write_segment(first + len(segments), part, vectors))
            rows += [_row(n, segments[-1].number, place) for place, n in enumerate(part)]
        with self._store.catalog.write() as db:
            for segment in segments:
                insert_segment(db, segment)
            put_images(db, rows, {row.id: int(row.id) + 1 for row in rows})

    def _write_segment(
        self, segment: int, numbers: list[int], descriptors: FloatArray
    ) -> SegmentRow:
        images = [
            EncodedImage(vector, self._records[number % _POOL], *SIZE)
            for number, vector in zip(numbers, descriptors, strict=True)
        ]
        path = segment_path(self._store.folder, segment)
        words = self._words.postings(len(images))
        ids, global_codec = [str(n) for n in numbers], self._store.settings.store.global_type
        write_compact_segment(path, ids, images, self._codebook, global_codec, words)
        return SegmentRow(segment, len(images), path.stat().st_size, file_sha256(path))


@cache
def _numbers(count: int, per_shard: int) -> list[NDArray[np.int64]]:
    """The numbers that are ids of photos, by the shard that they belong to."""
    numbers: list[array[int]] = [array("q") for _ in range(count)]
    missing = count
    for n in itertools.count():
        own = numbers[shard_number(str(n), count)]
        if len(own) < per_shard:
            own.append(n)
            missing -= len(own) == per_shard
            if not missing:
                return [np.array(each, np.int64) for each in numbers]
    raise AssertionError("numbers never end")


def _row(number: int, segment: int, position: int) -> ImageRow:
    name = str(number)
    # As long as those of real photos.
    path, digest = f"/photos/{name}.jpg", hashlib.sha256(name.encode()).hexdigest()
    return ImageRow(
        name, path, 150_000, 1_700_000_000_000_000_000, digest, width=SIZE[0], height=SIZE[1],
        segment=segment, position=position,
    )  # fmt: skip

"""What is on disk, as one object: catalog, segments, shortlist, and the order of commits.

A batch of photos is committed like this: its segment is written under another name, flushed and
renamed; one transaction records the segment and its photos; the shortlist follows last and can be
made again from the rest. Killed anywhere between, the index is as it was at the last transaction.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from delg.errors import DelgError
from delg.files import file_sha256
from delg.settings import parse
from delg.types import FloatArray, ImageFeatures
from index.settings import IndexSettings, merge, read_overrides
from index.storage.ann_index import AnnIndex, Rows
from index.storage.catalog import (
    Catalog,
    ImageRow,
    SegmentRow,
    drop_empty_segments,
    drop_images,
    insert_segment,
    put_images,
)
from index.storage.feature_selection import top_k
from index.storage.product_quantizer import MIN_TRAINING_VECTORS, ProductQuantizer
from index.storage.segment_set import SegmentSet
from index.storage.segments import (
    FOLDER,
    EncodedImage,
    Segment,
    SegmentError,
    segment_path,
    write_compact_segment,
    write_segment,
)
from index.verification.matchable import MatchableFeatures
from index.verification.matching import one_blas_thread

_LOCK = "writer.lock"
HOW_TO_REPAIR = (
    "restore the file, or build again from the same sources, which extracts its photos anew"
)
# A reader may look for a segment just as a compaction elsewhere replaces it.
_OPEN_TRIES = 5
_ROWS_AT_ONCE = 50_000
# Until there are enough descriptors to learn compact codes from.
_CODEC_OF_FEW = "int8"


class BusyError(DelgError):
    """Another process is writing to the index."""


class Store:
    """One consistent state of an index, and the ways to change it.

    Args:
        folder: of the index.

    Raises:
        DelgError: there is no index, or a part of it is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.catalog = Catalog(folder)
        # Settings for this object only, by section and key; they outlive a refresh.
        self.overrides: dict[str, Any] = {}
        self.settings = self._read_settings()
        self.dim = int(self.catalog.meta("global_dim"))
        self.segments = SegmentSet(folder, [])
        self.refresh()

    def close(self) -> None:
        """Let go of the state; the object is of no use afterwards."""
        self.catalog.close()
        self.segments = SegmentSet(self.folder, [])

    @property
    def unreadable(self) -> dict[int, str]:
        """Segment number -> what is wrong with it; its photos cannot be found until they are
        extracted again or the file is back."""
        return self.segments.unreadable

    def refresh(self) -> None:
        """Move on to the newest committed state."""
        for _ in range(_OPEN_TRIES):
            self.catalog.refresh()
            self._open_segments()
            if not self.unreadable:
                break
        self.settings = self._read_settings()
        self._load_ann_index()

    def _read_settings(self) -> IndexSettings:
        origin = f"{self.catalog.path}: settings"
        try:
            recorded = json.loads(self.catalog.meta("settings"))
        except ValueError as error:
            raise DelgError(f"{origin}: damaged ({error})") from None
        return merge(parse(IndexSettings, recorded, origin, recorded=True), self.overrides, origin)

    def override(self, overrides: dict[str, Any], origin: str) -> None:
        """Replace settings for this object only."""
        overrides = read_overrides(overrides, origin)
        self.settings = merge(self.settings, overrides, origin)
        for section, keys in overrides.items():
            self.overrides[section] = {**self.overrides.get(section, {}), **(keys or {})}
        self.ann_index.set_nprobe(self.settings.shortlist.nprobe)

    def _open_segments(self) -> None:
        self.segments = SegmentSet(self.folder, self.catalog.segments(), self.segments)

    def _load_ann_index(self) -> None:
        """The stored shortlist if it shows this state; otherwise brought up to date in memory."""
        probes = self.settings.shortlist.nprobe
        stored = AnnIndex.load(self.folder, self.dim, probes)
        self.ann_index_current = stored is not None and stored[1] == self.catalog.generation
        if stored is None:
            self.rebuild_ann_index()
            return
        self.ann_index = stored[0]
        if self.unreadable or not self.ann_index_current:
            wanted = self.searchable()
            held = self.ann_index.rows()
            self.update_ann_index(np.setdiff1d(wanted, held), np.setdiff1d(held, wanted))

    def update_ann_index(self, added: Rows, removed: Rows) -> None:
        """Take rows into the shortlist in memory and others out of it."""
        if len(removed):
            self.ann_index.remove(removed)
        if len(added):
            self.ann_index.add(self.global_descriptors(added), added)
        if not self.ann_index.suits(self.settings.shortlist):
            self.rebuild_ann_index()

    def rebuild_ann_index(self) -> None:
        """Build the shortlist in memory from the stored descriptors, as the settings ask."""
        rows = self.searchable()

        def sample(most: int) -> FloatArray:
            chosen = np.random.default_rng(0).permutation(len(rows))[:most]
            return self.global_descriptors(rows[np.sort(chosen)])

        self.ann_index = AnnIndex.train(self.dim, len(rows), sample, self.settings.shortlist)
        # In parts, so that memory holds the index and not all descriptors besides.
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            part = rows[start : start + _ROWS_AT_ONCE]
            self.ann_index.add(self.global_descriptors(part), part)

    def save_ann_index(self) -> None:
        """Write the shortlist as showing the present state; under the lock."""
        if self.unreadable:
            return  # What is stored still knows the photos of a segment that may come back.
        self.ann_index.save(self.folder, self.catalog.generation)
        self.ann_index_current = True

    def searchable(self) -> Rows:
        """Row numbers of the images that can be found, ascending."""
        table = self.catalog.searchable()
        return table[~np.isin(table[:, 1], list(self.unreadable)), 0]

    def nearest(
        self, vector: FloatArray, count: int, without: Collection[str] = ()
    ) -> tuple[Rows, FloatArray]:
        """The rows most similar to a global descriptor, and their exact similarities, best first.

        Args:
            vector: float32 (D,), unit length.
            count: at most so many are returned.
            without: ids of images to leave out.
        """
        out = self._rows(without)
        # Compact segments keep descriptors as float16.
        exact = self.ann_index.is_exact(self.settings.store.local_codec == "compact")
        wanted = count if exact else self.ann_index.candidate_count(count, self.settings.shortlist)
        wanted += len(out)
        rows, similarities = self.ann_index.search(vector, wanted)
        keep = ~np.isin(rows, out)
        rows, similarities = rows[keep], similarities[keep]
        if not exact:
            similarities = self.global_descriptors(rows) @ vector
            best = np.lexsort((rows, -similarities))
            rows, similarities = rows[best], similarities[best]
        return rows[:count], similarities[:count]

    def global_descriptors(self, rows: Rows) -> FloatArray:
        """Stored global descriptors (len(rows), D)."""
        vectors = np.zeros((len(rows), self.dim), np.float32)
        segments, positions = self.catalog.places(rows).T
        for number in np.unique(segments):
            here = np.flatnonzero(segments == number)
            vectors[here] = self.segments[int(number)].globals(positions[here])
        return vectors

    def matchable(self, row: int) -> MatchableFeatures:
        """What matching and verification need of a searchable image, by its row number."""
        segment, position = self.catalog.place(row)
        return self.segments[segment].matchable(position)

    def features(self, image: ImageRow) -> ImageFeatures:
        """The stored features of an image that has some."""
        segment, position = self._place(image)
        return segment.features(position)

    def _place(self, image: ImageRow) -> tuple[Segment, int]:
        if image.segment is None or image.position is None:
            raise DelgError(f"{image.id}: has no features ({image.reason})")
        if image.segment in self.unreadable:
            raise SegmentError(f"{self.unreadable[image.segment]}; {HOW_TO_REPAIR}")
        return self.segments[image.segment], image.position

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only writer; the newest state is read first.

        Raises:
            BusyError: another process writes.
            DelgError: the folder cannot be written to.
        """
        lock = filelock.FileLock(self.folder / _LOCK)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise BusyError(
                f"{self.folder}: another process is writing to this index; "
                "try again when it is done"
            ) from None
        except OSError as error:
            raise DelgError(f"{self.folder}: cannot be written to: {error.strerror}") from None
        try:
            self.refresh()
            # Whoever writes can mend what is damaged.
            self.segments.read_all()
            self._sweep()
            yield
        finally:
            lock.release()

    def orphans(self) -> list[Path]:
        """Files that a killed writer left behind and no catalog entry names."""
        known = {segment_path(self.folder, one.number) for one in self.catalog.segments()}
        return sorted(set((self.folder / FOLDER).glob("*.h5*")) - known)

    def _sweep(self) -> None:
        for path in self.orphans():
            path.unlink(missing_ok=True)

    @property
    def quantizer(self) -> ProductQuantizer | None:
        """Of the compact segments; None while there are none."""
        found = (segment.quantizer for segment in self.segments.values())
        return next((one for one in found if one is not None), None)

    @property
    def is_uniform(self) -> bool:
        """Whether all segments are compact, or none is."""
        return len({segment.quantizer is None for segment in self.segments.values()}) < 2

    def write_segment_of(
        self, ids: Sequence[str], features: Sequence[ImageFeatures], number: int
    ) -> SegmentRow:
        """Put features on disk under a number of their own; the catalog does not know them yet."""
        spec, path = self.settings.store, segment_path(self.folder, number)
        most = spec.kept_features

        def kept(one: ImageFeatures) -> ImageFeatures:
            return replace(one, local=top_k(one.local, most, max(one.width, one.height)))

        # Photos side by side; behind the last one no core has anything else to do.
        with one_blas_thread(), ThreadPoolExecutor(os.cpu_count()) as threads:
            features = list(threads.map(kept, features))
            if spec.local_codec != "compact":
                write_segment(path, ids, features, spec.local_codec)
            elif (quantizer := self.quantizer or self._learn(features)) is None:
                write_segment(path, ids, features, _CODEC_OF_FEW, np.float16)
            else:
                packed = list(threads.map(EncodedImage.encode, features, repeat(quantizer)))
                write_compact_segment(path, ids, packed, quantizer)
        return _segment_row(path, number, len(ids))

    def _learn(self, features: Sequence[ImageFeatures]) -> ProductQuantizer | None:
        """Codes learnt from these features and those already stored; None if they are too few."""
        stored = (
            segment.local(position).descriptors
            for segment in self.segments.values()
            for position in range(len(segment))
        )
        sample = np.concatenate([*(one.local.descriptors for one in features), *stored])
        return ProductQuantizer.train(sample) if len(sample) >= MIN_TRAINING_VECTORS else None

    def rewrite(self, images: Sequence[ImageRow], number: int) -> SegmentRow:
        """A segment of images that are stored already; compact where that can be."""
        path, ids = segment_path(self.folder, number), [one.id for one in images]
        quantizer = self.quantizer
        if quantizer is None:
            codec = self.settings.store.local_codec
            features = [self.features(one) for one in images]
            if codec == "compact":
                write_segment(path, ids, features, _CODEC_OF_FEW, np.float16)
            else:
                write_segment(path, ids, features, codec)
        else:
            packed = [self._place(one)[0].encoded(self._place(one)[1], quantizer) for one in images]
            write_compact_segment(path, ids, packed, quantizer)
        return _segment_row(path, number, len(ids))

    def commit(self, images: Sequence[ImageRow], features: Sequence[ImageFeatures]) -> None:
        """Commit a batch: images with features, in that order, and failed ones without.

        Images already in the index under the same id are replaced.
        """
        good = [image for image in images if image.state == "ok"]
        failed = [image for image in images if image.state != "ok"]
        old = self._rows([image.id for image in images])
        if good:
            segment = self.write_segment_of(
                [one.id for one in good], features, self.catalog.next_segment()
            )
            good = [
                replace(image, segment=segment.number, position=position)
                for position, image in enumerate(good)
            ]
        with self.catalog.write() as db:
            if good:
                insert_segment(db, segment)
            put_images(db, [*good, *failed])
            # A lost segment whose photos have all been extracted again is no loss any more.
            drop_empty_segments(db, self.unreadable)
        self._open_segments()
        self.ann_index_current = False
        self.update_ann_index(self._rows([image.id for image in good]), old)

    def remove(self, ids: Sequence[str]) -> None:
        """Take images out of the index, in one transaction."""
        old = self._rows(ids)
        with self.catalog.write() as db:
            drop_images(db, ids)
        self.update_ann_index(np.zeros(0, np.int64), old)
        self.save_ann_index()

    def _rows(self, ids: Collection[str]) -> Rows:
        """Row numbers, ascending, of those images that can be searched."""
        found = [row for one in ids if (row := self.catalog.by_id(one)) and row.state == "ok"]
        return np.array(sorted(row.row for row in found), np.int64)

    def set_settings(self, settings: IndexSettings) -> None:
        """Record other settings, and rebuild the shortlist if they ask for another."""
        rebuild = settings.shortlist != self.settings.shortlist
        self.catalog.set_meta("settings", settings.model_dump_json())
        self.settings = settings
        if rebuild:
            self.rebuild_ann_index()
            self.save_ann_index()


def _segment_row(path: Path, number: int, images: int) -> SegmentRow:
    return SegmentRow(number, images, path.stat().st_size, file_sha256(path))

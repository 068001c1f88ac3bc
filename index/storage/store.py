"""An index on disk as one object: catalog, segments, ANN index, and the order of commits.

A batch of photos is committed like this: its segment is written under another name, flushed and
renamed; one transaction records the segment and its photos; the ANN index follows last and can be
rebuilt from the rest. Killed anywhere between, the index is as it was at the last transaction.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delg.errors import DelgError, UsageError
from delg.files import file_sha256
from delg.paths import exists, is_folder
from delg.plain_values import parse_json
from delg.settings import parse
from delg.types import Box, FloatArray, ImageFeatures
from index.selection import Selection
from index.settings import IndexSettings, merge, read_overrides, record
from index.storage.adaptation import ADAPTATION, ADAPTATION_DIGEST, Adaptation
from index.storage.ann_index import AnnIndex, Rows
from index.storage.catalog import FILE as CATALOG_FILE
from index.storage.catalog import Catalog
from index.storage.catalog_tables import (
    ImageRow,
    SegmentRow,
    count_change,
    delete_empty_segments,
    delete_images,
    insert_segment,
    put_images,
    rename_images,
    update_images,
)
from index.storage.codebook import codebook_digest, codebook_from_text, codebook_to_text
from index.storage.inverse_scales import unmarked_are_inverse
from index.storage.inverted_file import MAX_BLOCK_IMAGES, InvertedFile
from index.storage.lock import LOCK_FILES, BusyError, writer_lock
from index.storage.open_segments import OPEN
from index.storage.product_quantizer import ProductQuantizer
from index.storage.region_index import BestRegion, RegionIndex, find_best_region, place_of
from index.storage.segment_set import SegmentSet
from index.storage.segment_writer import SegmentWriter
from index.storage.segments import FOLDER, SegmentError, segment_path
from index.storage.trash import TRASH, log_changes, restore_images, trash_images
from index.storage.vocabulary import VOCABULARY_DIGEST, BinaryWords, Vocabulary
from index.storage.word_file import load_inverted_file, save_inverted_file
from index.verification.matchable import MatchableFeatures

# What the catalog calls the codebook of the model, and the digest of it.
CODEBOOK, CODEBOOK_DIGEST = "codebook", "codebook_digest"
# What a killed attempt to create an index may leave in its folder.
_LEFTOVERS = {f"{CATALOG_FILE}.tmp", f"{CATALOG_FILE}.tmp-journal", *LOCK_FILES}
# Seconds to wait for another process that is creating the same index, and between two looks.
_CREATE_SECONDS, _CREATE_PAUSE = 10.0, 0.02
HOW_TO_REPAIR = (
    "restore the file, or build again from the same sources, which extracts its photos anew"
)
NOT_AS_WRITTEN = "its bytes are not those that were written"
# A reader may look for a segment just as a compaction elsewhere replaces it.
_OPEN_ATTEMPTS = 5
_ROWS_PER_STEP = 50_000
# A large inverted file is written when one photo in so many has changed.
_MIN_CHANGED = 100
_ALL = Selection()


def check_usable(folder: Path, leftovers: Collection[str] = ()) -> None:
    """Refuse a folder that holds anything but what attempts to create an index leave.

    Args:
        leftovers: further names that such attempts leave.

    Raises:
        UsageError: it holds something else.
    """
    if not exists(folder):
        return
    names = {path.name for path in folder.iterdir()} if is_folder(folder) else {"a file"}
    if not names <= _LEFTOVERS.union(leftovers):
        raise UsageError(f"{folder}: exists and is not empty; choose another place for the index")


def codebook_meta(codebook: ProductQuantizer) -> dict[str, str]:
    """What the catalog of an index records of a codebook."""
    return {CODEBOOK: codebook_to_text(codebook), CODEBOOK_DIGEST: codebook_digest(codebook)}


class Store:
    """One consistent state of an index, and the ways to change it.

    Args:
        folder: of the index.

    Attributes:
        catalog, segments, ann_index: the parts of that state.
        ann_index_current: whether the ANN index on disk shows this state.
        settings: as recorded, with overrides of :meth:`override`.
        dim: D, width of the global descriptors as the model makes them.
        adaptation: how they are projected before they are compared; None: not at all.

    Raises:
        DelgError: there is no index, or a part of it is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.catalog = Catalog(folder)
        # Settings for this object only, by section and key; they outlive a refresh.
        self._overrides: dict[str, Any] = {}
        self.settings = self._read_settings()
        self.dim = self.catalog.dim
        self.adaptation: Adaptation | None = None
        self.segments = SegmentSet(folder, [])
        # Number of each segment whose bytes are not those that were written -> what is wrong.
        self._damaged: dict[int, str] = {}
        self._vocabulary: Vocabulary | None = None
        self._inverted_file: InvertedFile | None = None
        self._words_changed, self._words_lock = True, Lock()
        self._region_index: RegionIndex | None = None
        self._regions_changed, self._regions_lock = True, Lock()
        self.refresh()

    @classmethod
    def create(
        cls,
        folder: Path,
        meta: dict[str, str],
        settings: IndexSettings,
        beside: Collection[str] = (),
    ) -> Store:
        """A new, empty index.

        Args:
            folder: to create; it must not exist or be empty.
            meta: what the catalog records of the model.
            settings: to record as well.
            beside: names of files that may lie in the folder.

        Raises:
            UsageError: the folder is in use; if another process was first to create an index
                there, it exists now.
            BusyError: another process writes there.
            DelgError: it cannot be created.
        """
        values = {**meta, "settings": record(settings)}
        until = time.monotonic() + _CREATE_SECONDS
        while True:
            try:
                # Before anything is put into a folder that may be somebody's photos.
                check_usable(folder, beside)
                folder.mkdir(parents=True, exist_ok=True)
                with writer_lock(folder):
                    check_usable(folder, beside)
                    Catalog.create(folder, values)
                return cls(folder)
            except BusyError:
                # Whoever creates it is done in a moment, but may go on to write for hours.
                if time.monotonic() > until:
                    raise
                time.sleep(_CREATE_PAUSE)
            except OSError as error:
                raise DelgError(f"{folder}: cannot be made: {error.strerror}") from None

    def close(self) -> None:
        """Let go of the files; the object is of no use afterwards."""
        self.catalog.close()
        self.segments = SegmentSet(self.folder, [])
        if "threads" in self.__dict__:
            self.threads.shutdown(wait=False)

    def reopen(self) -> None:
        """Make the object usable in a fork of the process that opened it, at the newest state."""
        self.catalog.reopen()
        # A thread of the parent may have held them; its other threads are not here.
        self._words_lock, self._regions_lock = Lock(), Lock()
        self.__dict__.pop("threads", None)
        self.refresh()

    @cached_property
    def threads(self) -> ThreadPoolExecutor:
        """One per processor, for short work on photos: starting them for every request of a query
        would take a tenth of its time."""
        return ThreadPoolExecutor(os.cpu_count())

    @property
    def unreadable(self) -> dict[int, str]:
        """Segment number -> what is wrong with it; its photos cannot be found until they are
        extracted again or the file is back."""
        return self.segments.unreadable

    def refresh(self) -> None:
        """Move on to the newest committed state."""
        self._damaged.clear()
        for _ in range(_OPEN_ATTEMPTS):
            self.catalog.refresh()
            self.reopen_segments()
            if not self.unreadable:
                break
        self.settings = self._read_settings()
        self._find_vocabulary()
        self.adaptation = self._read_adaptation()
        self._load_ann_index()

    def _read_settings(self) -> IndexSettings:
        origin = f"{self.catalog.path}: settings"
        try:
            values = parse_json(self.catalog.meta("settings"))
        except ValueError as error:
            raise DelgError(f"{origin}: damaged ({error})") from None
        recorded = parse(IndexSettings, values, origin, recorded=True)
        return merge(recorded, self._overrides, origin)

    def override(self, overrides: dict[str, Any], origin: str) -> None:
        """Replace settings for this object only; see :func:`index.settings.merge`."""
        overrides = read_overrides(overrides, origin)
        self.settings = merge(self.settings, overrides, origin)
        for section, keys in overrides.items():
            self._overrides[section] = {**self._overrides.get(section, {}), **(keys or {})}
        self.ann_index.set_nprobe(self.settings.shortlist.nprobe)
        self._inverted_file = None

    def set_settings(self, settings: IndexSettings) -> None:
        """Record other settings, and rebuild the ANN index if they ask for another."""
        needs_rebuild = settings.shortlist != self.settings.shortlist
        self.catalog.set_meta("settings", record(settings))
        self.settings = settings
        self._inverted_file = None
        if needs_rebuild:
            self._region_index = None
            self.rebuild_ann_index()
            self.save_ann_index()

    def reopen_segments(self) -> None:
        """Open the segments that the catalog names now."""
        self.segments = SegmentSet(
            self.folder,
            self.catalog.segments(),
            self.segments,
            self._damaged,
            lambda: self.has_inverse_scales,
        )
        self._words_changed = self._regions_changed = True

    def verify_segments(self, numbers: Collection[int] | None = None) -> None:
        """Compare checksums; segments whose bytes are not those that were written count as
        unreadable until the next refresh.

        Args:
            numbers: of the segments; None: all.
        """
        for row in self.catalog.segments():
            is_asked = numbers is None or row.number in numbers
            if not is_asked or row.number in self.unreadable:
                continue
            path = segment_path(self.folder, row.number)
            try:
                if file_sha256(path) != row.sha256:
                    self._damaged[row.number] = f"{path}: {NOT_AS_WRITTEN}"
            except OSError as error:
                self._damaged[row.number] = f"{path}: not a readable segment ({error.strerror})"
        if self._damaged.keys() - self.unreadable.keys():
            self.reopen_segments()
            self._match_ann_index()

    @cached_property
    def has_inverse_scales(self) -> bool:
        """See :class:`index.storage.segments.Segment`."""
        return unmarked_are_inverse(self.catalog.meta("model"))

    @property
    def codebook(self) -> ProductQuantizer | None:
        """What the local descriptors of new photos are encoded by; None: component by component.

        It is the model's, as recorded. An index of before that has none recorded goes on with the
        codes that it learnt from its first photos.
        """
        if self.settings.store.local_codec != "compact":
            return None
        text = self.catalog.meta(CODEBOOK)
        if not text:
            return next(iter(self.segments.quantizers), None)
        return OPEN.shared(codebook_from_text(text, str(self.catalog.path)))

    def set_codebook(self, codebook: ProductQuantizer) -> None:
        """Encode new photos by that from now on; under the lock."""
        with self.catalog.write() as db:
            for key, value in codebook_meta(codebook).items():
                db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    # Visual words.

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The model's vocabulary, if the words in the index are of it."""
        return self._vocabulary

    @property
    def shortlist_vocabulary(self) -> Vocabulary | None:
        """The same; None where settings say not to look at words, or to keep none."""
        return self._vocabulary if self.settings.uses_words else None

    def set_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Keep words of that vocabulary from now on; under the lock."""
        self.catalog.set_meta(VOCABULARY_DIGEST, vocabulary.digest)
        self._vocabulary, self._inverted_file = vocabulary, None

    def _find_vocabulary(self) -> None:
        known = self._vocabulary.digest if self._vocabulary is not None else ""
        if self.catalog.meta(VOCABULARY_DIGEST) != known:
            self._vocabulary, self._inverted_file = self.catalog.read_vocabulary(), None

    def inverted_file(self) -> InvertedFile | None:
        """The words of the photos that can be found; None where there are none, or settings say
        not to look at them."""
        spec, vocabulary = self.settings.local_shortlist, self.shortlist_vocabulary
        if vocabulary is None:
            return None
        with self._words_lock:
            if self._inverted_file is None:
                stored = load_inverted_file(self.folder, vocabulary, spec.alpha, spec.tau)
                new = InvertedFile(vocabulary, spec.alpha, spec.tau), -1
                self._inverted_file, generation = stored or new
                is_current = generation == self.catalog.generation and not self.unreadable
                self._words_changed = not is_current
            if self._words_changed:
                table = self.catalog.searchable()
                is_readable = ~np.isin(table[:, 1], list(self.unreadable))
                self._inverted_file.update(table[is_readable], self.segments)
                self._words_changed = False
            return self._inverted_file

    def word_similarities(
        self, query: BinaryWords, selection: Selection = _ALL
    ) -> tuple[Rows, FloatArray]:
        """The rows of photos with words, ascending, and their ASMK* similarities to a query.

        Args:
            query: words; nothing is similar to those of another vocabulary than the index's.
            selection: of the photos.
        """
        inverted = self.inverted_file()
        if inverted is None or inverted.vocabulary.digest != query.vocabulary:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        rows, similarities = inverted.similarities(query)
        selected, excluded = self._selected(selection), self._rows(selection.without)
        if selected is None and not len(excluded):
            return rows, similarities
        kept = ~np.isin(rows, excluded)
        if selected is not None:
            kept &= np.isin(rows, selected, assume_unique=True)
        return rows[kept], similarities[kept]

    # Regions.

    def region_index(self) -> RegionIndex | None:
        """The regions of the photos that can be found; None where the index keeps none."""
        if not self.settings.store.regions:
            return None
        with self._regions_lock:
            if self._region_index is None:
                spec = self.settings.shortlist
                stored = RegionIndex.load(self.folder, self.search_dim, spec, self._space)
                generation = -1
                if stored is not None:
                    self._region_index, generation = stored
                is_current = generation == self.catalog.generation and not self.unreadable
                self._regions_changed = not is_current
            if self._regions_changed:
                self._region_index = self._updated_regions(self._region_index)
                self._regions_changed = False
            return self._region_index

    def _updated_regions(self, known: RegionIndex | None) -> RegionIndex:
        table = self.catalog.searchable()
        places = table[~np.isin(table[:, 1], list(self.unreadable))]
        if known is not None:
            known.update(places, self.segments, self.adapt)
            if known.suits:
                return known
        spec = self.settings.shortlist
        return RegionIndex.build(self.search_dim, places, self.segments, self.adapt, spec)

    def best_region(self, row: int, query: FloatArray) -> BestRegion | None:
        """The part of an image that is most similar to a global descriptor (search_dim,); None
        where none is stored."""
        segment, position = self.catalog.place(row)
        return find_best_region(self.segments[segment], position, query, self.adapt)

    def matchable_region(self, row: int, box: Box) -> MatchableFeatures:
        """What matching and verification need of a stored part of an image, in pixels of the part.

        Raises:
            SegmentError: no such part is stored.
        """
        number, position = self.catalog.place(row)
        segment = self.segments[number]
        for part in segment.regions(position):
            if segment.region_box(part) == box:
                return segment.matchable(part)
        raise SegmentError(f"{segment.path}: photo {position} has no part {box}")

    def _region_descriptors(self, keys: NDArray[np.int64]) -> FloatArray:
        """Global descriptors of regions, as they are compared, by their keys."""
        rows, numbers = place_of(keys)
        vectors = np.zeros((len(keys), self.dim), np.float32)
        for n, (segment, position) in enumerate(self.catalog.places(rows).tolist()):
            stored = self.segments[segment]
            part = stored.regions(position)[int(numbers[n])]
            vectors[n] = stored.global_descriptors([part])[0]
        return self.adapt(vectors)

    def _with_regions(
        self,
        vector: FloatArray,
        count: int,
        rows: Rows,
        similarities: FloatArray,
        among: Rows | None,
    ) -> tuple[Rows, FloatArray]:
        """The nearest images where each is as similar as its most similar part, or itself.

        Args:
            rows, similarities: of the images that are most similar as a whole, ``count`` or more
                of them, if there are so many.
            among: row numbers to search among; None: all.
        """
        regions = self.region_index()
        if regions is None or not len(regions):
            return rows, similarities
        read = None if regions.is_exact(self._is_float16) else self._region_descriptors
        others, values = regions.nearest(vector, count, among, read)
        merged, places = np.unique(np.concatenate([rows, others]), return_inverse=True)
        best = np.full(len(merged), -np.inf, np.float32)
        np.maximum.at(best, places, np.concatenate([similarities, values]))
        order = np.lexsort((merged, -best))
        return merged[order], best[order]

    # The adaptation.

    def _read_adaptation(self) -> Adaptation | None:
        digest = self.catalog.meta(ADAPTATION_DIGEST)
        if self.adaptation is not None and self.adaptation.digest == digest:
            return self.adaptation
        return self.catalog.read_adaptation()

    def set_adaptation(self, adaptation: Adaptation | None, meta: Mapping[str, str]) -> None:
        """Project global descriptors by that from now on, or not at all; under the lock.

        Args:
            adaptation: learnt from descriptors as the model makes them.
            meta: what else to record, in the same transaction; an empty text removes its key.
        """
        values = {ADAPTATION: "", ADAPTATION_DIGEST: ""}
        values |= {**(adaptation.as_meta() if adaptation else {}), **meta}
        with self.catalog.write() as db:
            for key, value in values.items():
                db.execute("DELETE FROM meta WHERE key = ?", (key,))
                if value:
                    db.execute("INSERT INTO meta VALUES (?, ?)", (key, value))
            count_change(db)
        self.adaptation, self.ann_index_current = adaptation, False
        self._region_index = None
        self.rebuild_ann_index()
        self.save_ann_index()

    # The ANN index.

    @property
    def search_dim(self) -> int:
        """Width of the global descriptors as they are compared."""
        return self.dim if self.adaptation is None else self.adaptation.dim

    @property
    def _space(self) -> str:
        """What tells the descriptors of the ANN index from others of the same model."""
        return "" if self.adaptation is None else self.adaptation.digest

    def _load_ann_index(self) -> None:
        """The stored ANN index if it shows this state; otherwise brought up to date in memory."""
        stored = AnnIndex.load(
            self.folder, self.search_dim, self.settings.shortlist.nprobe, self._space
        )
        self.ann_index_current = stored is not None and stored[1] == self.catalog.generation
        if stored is None:
            self.rebuild_ann_index()
            return
        self.ann_index = stored[0]
        if self.unreadable or not self.ann_index_current:
            self._match_ann_index()

    def _match_ann_index(self) -> None:
        """Bring the ANN index in memory up to date with what can be searched."""
        present, indexed = self.searchable(), self.ann_index.rows()
        self.update_ann_index(
            np.setdiff1d(present, indexed), removed=np.setdiff1d(indexed, present)
        )

    def update_ann_index(self, added: Rows, removed: Rows) -> None:
        """Add rows to the ANN index in memory and remove others."""
        self._words_changed = self._regions_changed = True
        if len(removed):
            self.ann_index.remove(removed)
        if len(added):
            self.ann_index.add(self.global_descriptors(added), added)
        if not self.ann_index.suits(self.settings.shortlist):
            self.rebuild_ann_index()

    def rebuild_ann_index(self) -> None:
        """Build the ANN index in memory from the stored descriptors, as the settings ask."""
        rows = self.searchable()

        def sample(count: int) -> FloatArray:
            chosen = np.random.default_rng(0).permutation(len(rows))[:count]
            return self.global_descriptors(rows[np.sort(chosen)])

        self.ann_index = AnnIndex.train(self.search_dim, len(rows), sample, self.settings.shortlist)
        # In parts, so that memory holds the index and not all descriptors as well.
        for start in range(0, len(rows), _ROWS_PER_STEP):
            part = rows[start : start + _ROWS_PER_STEP]
            self.ann_index.add(self.global_descriptors(part), part)

    def save_ann_index(self) -> None:
        """Write the ANN index as showing the present state; under the lock."""
        if self.unreadable:
            return  # The stored one still knows the photos of a segment that may come back.
        self.ann_index.save(self.folder, self.catalog.generation, self._space)
        self.ann_index_current = True
        self._save_words()
        regions = self.region_index()
        if regions is not None:
            regions.save(self.folder, self.catalog.generation, self._space)

    def _save_words(self) -> None:
        """Write the inverted file, unless it is large and little has changed: then bringing it up
        to date costs less than writing it with every photo that is added."""
        inverted = self.inverted_file()
        if inverted is None:
            return
        if len(inverted) <= MAX_BLOCK_IMAGES or inverted.changes * _MIN_CHANGED > len(inverted):
            save_inverted_file(self.folder, inverted, self.catalog.generation)
            inverted.changes = 0

    # Reading.

    def searchable(self) -> Rows:
        """Row numbers of the images that can be found, ascending."""
        table = self.catalog.searchable()
        return table[~np.isin(table[:, 1], list(self.unreadable)), 0]

    def searchable_images(self) -> dict[int, ImageRow]:
        """The images that can be found, by row number."""
        images = self.catalog.images("ok")
        return {image.row: image for image in images if image.segment not in self.unreadable}

    def nearest(
        self, vector: FloatArray, count: int, selection: Selection = _ALL
    ) -> tuple[Rows, FloatArray]:
        """The rows most similar to a global descriptor, and their exact similarities, best first.

        Args:
            vector: float32 (search_dim,), unit length, see :meth:`adapt`.
            count: at most this many are returned; so many, if so many are selected.
            selection: of the images.
        """
        excluded = self._rows(selection.without)
        is_exact = self.ann_index.is_exact(self._is_float16)
        candidates = count
        if not is_exact:
            candidates = self.ann_index.candidate_count(count, self.settings.shortlist)
        selected = self._selected(selection)
        rows, similarities = self.ann_index.search(vector, candidates + len(excluded), selected)
        keep = ~np.isin(rows, excluded)
        rows, similarities = rows[keep], similarities[keep]
        if not is_exact:
            similarities = self.global_descriptors(rows) @ vector
            order = np.lexsort((rows, -similarities))
            rows, similarities = rows[order], similarities[order]
        wanted = count + len(excluded)
        rows, similarities = self._with_regions(vector, wanted, rows, similarities, selected)
        keep = ~np.isin(rows, excluded)
        return rows[keep][:count], similarities[keep][:count]

    @property
    def _is_float16(self) -> bool:
        """Whether descriptors are compared as float16: compact segments keep them so; adapted ones
        have more digits."""
        return self.settings.store.local_codec == "compact" and self.adaptation is None

    def similarities(self, vector: FloatArray, rows: Rows) -> FloatArray:
        """Similarities of images to a global descriptor, each as similar as its most similar part,
        or itself: float32 (len(rows),)."""
        # Row by row, as a matrix product rounds differently beside other rows.
        values = np.einsum("nd,d->n", self.global_descriptors(rows), vector).astype(np.float32)
        if not self.settings.store.regions:
            return values
        regions = (self.best_region(int(row), vector) for row in rows)
        best = [-np.inf if region is None else region.similarity for region in regions]
        return np.maximum(values, np.array(best, np.float32))

    def adapt(self, descriptors: FloatArray) -> FloatArray:
        """Global descriptors (N, D) of the model as they are compared: (N, search_dim)."""
        return descriptors if self.adaptation is None else self.adaptation.apply(descriptors)

    def global_descriptors(self, rows: Rows) -> FloatArray:
        """Global descriptors as they are compared, float32 (len(rows), search_dim)."""
        return self.adapt(self.stored_descriptors(rows))

    def stored_descriptors(self, rows: Rows) -> FloatArray:
        """Global descriptors as the model made them, float32 (len(rows), D)."""
        vectors = np.zeros((len(rows), self.dim), np.float32)
        segments, positions = self.catalog.places(rows).T
        for number in np.unique(segments):
            inside = np.flatnonzero(segments == number)
            part = self.segments[int(number)].global_descriptors(positions[inside])
            if part.shape[1] != self.dim:
                path = segment_path(self.folder, int(number))
                raise SegmentError(f"{path}: its descriptors have {part.shape[1]} numbers")
            vectors[inside] = part
        return vectors

    def matchable(self, row: int) -> MatchableFeatures:
        """What matching and verification need of a searchable image, by its row number."""
        segment, position = self.catalog.place(row)
        return self.segments[segment].matchable(position)

    def features(self, image: ImageRow) -> ImageFeatures:
        """The stored features of an image.

        Raises:
            DelgError: it has none, or they cannot be read.
        """
        segment, position = self._place(image)
        return self.segments[segment].features(position)

    def _place(self, image: ImageRow) -> tuple[int, int]:
        """Segment and position of an image's features."""
        if image.segment is None or image.position is None:
            raise DelgError(f"{image.id}: has no features ({image.reason})")
        if image.segment in self.unreadable:
            raise SegmentError(f"{self.unreadable[image.segment]}; {HOW_TO_REPAIR}")
        return image.segment, image.position

    def _selected(self, selection: Selection) -> Rows | None:
        """Row numbers, ascending, of the images that fulfil the conditions of a selection; None:
        it has none."""
        return self.catalog.rows(*selection.as_sql()) if selection.where else None

    def _rows(self, ids: Collection[str]) -> Rows:
        """Row numbers, ascending, of those images that can be searched."""
        images = map(self.catalog.by_id, ids)
        rows = [image.row for image in images if image is not None and image.state == "ok"]
        return np.array(sorted(rows), np.int64)

    # Writing.

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only writer; the newest state is read first.

        Raises:
            BusyError: another process writes.
            DelgError: the folder cannot be written to.
        """
        with writer_lock(self.folder):
            self.refresh()
            # Whoever writes can repair what is damaged.
            self.segments.read_all()
            for path in self.orphans():
                path.unlink(missing_ok=True)
            yield

    def orphans(self) -> list[Path]:
        """Files that a killed writer left behind and no catalog entry names."""
        known = {segment_path(self.folder, row.number) for row in self.catalog.segments()}
        segments = set((self.folder / FOLDER).glob("*.h5*")) - known
        return sorted([*segments, *self.folder.glob("*.tmp*")])

    def write_segment(
        self, number: int, ids: Sequence[str], features: Sequence[ImageFeatures]
    ) -> SegmentRow:
        """Write features as a new segment, which the catalog does not know yet."""
        settings, vocabulary = self.settings.store, self._vocabulary
        writer = SegmentWriter(self.folder, settings, self.codebook, vocabulary)
        return writer.write(number, ids, features)

    def rewrite_segment(
        self, number: int, images: Sequence[ImageRow], codebook: ProductQuantizer | None
    ) -> SegmentRow:
        """Write stored images as a new segment, which the catalog does not know yet.

        Args:
            codebook: that the segment is encoded by.
        """
        places = map(self._place, images)
        # One after the other, as there may be more segments than files may be open.
        sources = ((self.segments[segment], position) for segment, position in places)
        writer = SegmentWriter(self.folder, self.settings.store, codebook, self._vocabulary)
        return writer.rewrite(number, [image.id for image in images], sources)

    def copy_in(
        self, images: Sequence[ImageRow], source: Store, codebook: ProductQuantizer | None
    ) -> None:
        """Commit images of another index of the same model under their row numbers, with their
        features as they are stored there; under the lock. The ANN index is rebuilt by the caller.

        Args:
            images: those with features are encoded by ``codebook`` there.
        """
        usable = [image for image in images if image.state == "ok"]
        placed = [image for image in images if image.state != "ok"]
        number = self.catalog.next_segment()
        if usable:
            places = map(source._place, usable)
            sources = ((source.segments[segment], position) for segment, position in places)
            writer = SegmentWriter(self.folder, self.settings.store, codebook, self._vocabulary)
            segment = writer.rewrite(number, [image.id for image in usable], sources)
            placed += [
                replace(image, segment=number, position=position)
                for position, image in enumerate(usable)
            ]
        with self.catalog.write() as db:
            if usable:
                insert_segment(db, segment)
            put_images(db, placed, {image.id: image.row for image in placed})
        self.reopen_segments()
        self.ann_index_current = False

    def commit(
        self,
        images: Sequence[ImageRow],
        features: Sequence[ImageFeatures],
        rows: Mapping[str, int] | None = None,
    ) -> None:
        """Commit a batch: images with features, in that order, and failed ones without.

        Images already in the index under the same id are replaced.

        Args:
            rows: by id, row numbers that are free, for those that do not take the next.
        """
        usable = [image for image in images if image.state == "ok"]
        failed = [image for image in images if image.state != "ok"]
        replaced = self._rows([image.id for image in images])
        if usable:
            number = self.catalog.next_segment()
            segment = self.write_segment(number, [image.id for image in usable], features)
            usable = [
                replace(image, segment=number, position=position)
                for position, image in enumerate(usable)
            ]
        with self.catalog.write() as db:
            if usable:
                insert_segment(db, segment)
            put_images(db, [*usable, *failed], rows)
            # An unreadable segment whose photos have all been extracted again is repaired.
            delete_empty_segments(db, self.unreadable)
        self.reopen_segments()
        self.ann_index_current = False
        self.update_ann_index(self._rows([image.id for image in usable]), removed=replaced)

    def rename(self, renamed: Mapping[int, str], displaced: Sequence[ImageRow]) -> None:
        """Give images other ids, in one transaction; their features and labels stay.

        Args:
            renamed: row number -> new id.
            displaced: images to remove, whose ids others take.
        """
        with self.catalog.write() as db:
            if displaced:
                delete_images(db, [image.id for image in displaced])
            rename_images(db, renamed.items())
        rows = [image.row for image in displaced if image.state == "ok"]
        if rows:
            self.ann_index_current = False
            self.update_ann_index(np.zeros(0, np.int64), np.array(sorted(rows), np.int64))

    def remove(self, ids: Sequence[str], by: str = "") -> None:
        """Move images to the trash, in one transaction; see :mod:`index.storage.trash`.

        Args:
            by: who removes them, for the log.

        Raises:
            UsageError: an id is not in the index; nothing is removed.
        """
        images = list({image.row: image for image in self.catalog.by_ids(ids)}.values())
        removed = self._rows([image.id for image in images])
        with self.catalog.write() as db:
            trash_images(db, images)
            log_changes(db, "remove", ((image.id, image, None) for image in images), by)
        self.update_ann_index(np.zeros(0, np.int64), removed)
        self.save_ann_index()

    def restore(self, ids: Sequence[str], by: str = "") -> list[ImageRow]:
        """Bring images back from the trash, in one transaction.

        Raises:
            UsageError: an id is not in the trash, its features are gone, or another image has it
                now; nothing is restored.
        """
        images = [self._trashed(image_id) for image_id in dict.fromkeys(ids)]
        with self.catalog.write() as db:
            restore_images(db, images)
            log_changes(db, "restore", ((image.id, None, image) for image in images), by)
        self.reopen_segments()
        self.update_ann_index(self._rows([image.id for image in images]), np.zeros(0, np.int64))
        self.save_ann_index()
        return images

    def _trashed(self, image_id: str) -> ImageRow:
        image = self.catalog.trashed(image_id)
        if image is None:
            raise UsageError(f"{image_id}: not in the trash, or removed for good by a compaction")
        if self.catalog.by_id(image.id) is not None:
            raise UsageError(f"{image_id}: another image has that id now; remove it first")
        if image.segment is not None and self.catalog.segment(image.segment) is None:
            raise UsageError(f"{image_id}: its features are gone; add the photo again")
        return image

    def edit(self, images: Sequence[ImageRow], by: str = "") -> None:
        """Record other labels and metadata of images, in one transaction."""
        before = {image.row: image for image in self.catalog.by_ids([each.id for each in images])}
        with self.catalog.write() as db:
            update_images(db, images)
            edits = ((image.id, before[image.row], image) for image in images)
            log_changes(db, "edit", edits, by)

    def log_added(self, image: ImageRow, by: str = "") -> None:
        """Log that somebody added an image."""
        with self.catalog.write() as db:
            log_changes(db, "add", [(image.id, None, image)], by)

    def empty_trash(self) -> None:
        """Remove for good what is in the trash."""
        if self.catalog.trash(limit=1):
            with self.catalog.write() as db:
                db.execute(f"DELETE FROM {TRASH}")

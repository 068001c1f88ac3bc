"""What finds the photos of an index: the ANN index of global descriptors, words, regions."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delg.files import file_sha256
from delg.types import Box, FloatArray
from index.selection import Selection
from index.settings import GlobalCodec
from index.storage.ann_index import AnnIndex, Rows, products
from index.storage.inverted_file import InvertedFile
from index.storage.opened_store import OpenedStore
from index.storage.region_index import BestRegion, RegionIndex, find_best_region, place_of
from index.storage.segments import SegmentError, segment_path
from index.storage.vocabulary import BinaryWords
from index.storage.word_file import load_inverted_file
from index.verification.matchable import MatchableFeatures

NOT_AS_WRITTEN = "its bytes are not those that were written"
_ROWS_PER_STEP = 50_000
_ALL = Selection()


class SearchableStore(OpenedStore):
    """One consistent state of an index, and its shortlists, brought up to date in memory.

    Args:
        folder: of the index.

    Attributes:
        ann_index: of the global descriptors.
        ann_index_current: whether the ANN index on disk shows this state.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._inverted_file: InvertedFile | None = None
        self._words_changed, self._words_lock = True, Lock()
        self._region_index: RegionIndex | None = None
        self._regions_changed, self._regions_lock = True, Lock()
        # Space of the ANN index that was built in memory; None: none was.
        self._built_space: str | None = None
        # State that the ANN index in memory shows; None: it is being changed.
        self._ann_state: tuple[object, ...] | None = None
        self.refresh()

    def reopen(self) -> None:
        """See :meth:`index.storage.opened_store.OpenedStore.reopen`."""
        # A thread of the parent may have held them.
        self._words_lock, self._regions_lock = Lock(), Lock()
        super().reopen()

    def refresh(self) -> None:
        """Move on to the newest committed state."""
        super().refresh()
        self._load_ann_index()

    def override(self, overrides: dict[str, Any], origin: str) -> None:
        """Replace settings for this object only; see :func:`index.settings.merge`."""
        super().override(overrides, origin)
        self.ann_index.set_nprobe(self.settings.shortlist.nprobe)
        self._inverted_file = None

    def reopen_segments(self) -> None:
        """Open the segments that the catalog names now."""
        super().reopen_segments()
        self._words_changed = self._regions_changed = True

    def _find_vocabulary(self) -> None:
        known = self._vocabulary
        super()._find_vocabulary()
        if self._vocabulary is not known:
            self._inverted_file = None

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
                self._inverted_file.update(self.places(), self.segments)
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

    def region_index(self) -> RegionIndex | None:
        """The regions of the photos that can be found; None where the index keeps none."""
        if not self.settings.store.regions:
            return None
        with self._regions_lock:
            if self._region_index is None:
                spec = self.settings.shortlist
                stored = RegionIndex.load(
                    self.folder, self.search_dim, spec, self.compared_type, self._space
                )
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
        places = self.places()
        if known is not None:
            known.update(places, self.segments, self.adapt)
            if known.suits:
                return known
        spec = self.settings.shortlist
        return RegionIndex.build(
            self.search_dim, places, self.segments, self.adapt, spec, self.compared_type
        )

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
        read = None if regions.is_exact else self._region_descriptors
        others, values = regions.nearest(vector, count, among, read)
        merged, places = np.unique(np.concatenate([rows, others]), return_inverse=True)
        best = np.full(len(merged), -np.inf, np.float32)
        np.maximum.at(best, places, np.concatenate([similarities, values]))
        order = np.lexsort((merged, -best))
        return merged[order], best[order]

    @property
    def _space(self) -> str:
        """What tells the descriptors of the ANN index from others of the same model."""
        return "" if self.adaptation is None else self.adaptation.digest

    def _load_ann_index(self) -> None:
        """The stored ANN index if it shows this state; otherwise brought up to date in memory.

        One that shows it already stays: reading a large one costs more than what a writer changes.
        """
        if self._ann_state != self._present_state():
            self._read_ann_index()
            self._ann_state = self._present_state()

    def _present_state(self) -> tuple[object, ...]:
        unreadable = frozenset(self.unreadable)
        return self.catalog.generation, self._space, self.settings.shortlist, unreadable

    def _read_ann_index(self) -> None:
        stored = AnnIndex.load(
            self.folder, self.search_dim, self.settings.shortlist.nprobe, self._space
        )
        self.ann_index_current = stored is not None and stored[1] == self.catalog.generation
        if stored is None and self._built_space == self._space:
            # A first build that was killed has left none, and what takes minutes is done already.
            self._match_ann_index()
            return
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

    def update_ann_index(self, added: Rows, removed: Rows) -> None:
        """Add rows to the ANN index in memory and remove others."""
        self._ann_state = None
        self._words_changed = self._regions_changed = True
        if len(removed):
            self.ann_index.remove(removed)
        if len(added):
            self.ann_index.add(self.global_descriptors(added), added)
        if not self.ann_index.suits(self.settings.shortlist, self.compared_type):
            self.rebuild_ann_index()

    def rebuild_ann_index(self) -> None:
        """Build the ANN index in memory from the stored descriptors, as the settings ask."""
        self._ann_state = None
        rows = self.searchable()

        def sample(count: int) -> FloatArray:
            chosen = np.random.default_rng(0).permutation(len(rows))[:count]
            return self.global_descriptors(rows[np.sort(chosen)])

        self.ann_index = AnnIndex.train(
            self.search_dim, len(rows), sample, self.settings.shortlist, self.compared_type
        )
        # In parts, so that memory holds the index and not all descriptors as well.
        for start in range(0, len(rows), _ROWS_PER_STEP):
            part = rows[start : start + _ROWS_PER_STEP]
            self.ann_index.add(self.global_descriptors(part), part)
        self._built_space = self._space

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
        is_exact = self.ann_index.is_exact(self.compared_type)
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
    def compared_type(self) -> GlobalCodec:
        """The type that descriptors come from as they are compared: that which segments keep them
        in; adapted ones have more digits."""
        return self.settings.store.global_type if self.adaptation is None else "float32"

    def similarities(self, vector: FloatArray, rows: Rows) -> FloatArray:
        """Similarities of images to a global descriptor, each as similar as its most similar part,
        or itself: float32 (len(rows),)."""
        values = products(self.global_descriptors(rows), vector)
        if not self.settings.store.regions:
            return values
        regions = (self.best_region(int(row), vector) for row in rows)
        best = [-np.inf if region is None else region.similarity for region in regions]
        return np.maximum(values, np.array(best, np.float32))

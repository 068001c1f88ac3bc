"""An index on disk as it can be read: catalog, settings, segments and what they hold of photos."""

from __future__ import annotations

import os
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delg.errors import DelgError
from delg.plain_values import parse_json
from delg.settings import parse
from delg.types import FloatArray, ImageFeatures
from index.selection import Selection
from index.settings import IndexSettings, merge, read_overrides
from index.storage.adaptation import ADAPTATION_DIGEST, Adaptation
from index.storage.ann_index import Rows
from index.storage.catalog import Catalog
from index.storage.catalog_tables import ImageRow
from index.storage.codebook import codebook_from_text
from index.storage.inverse_scales import unmarked_are_inverse
from index.storage.open_segments import OPEN
from index.storage.product_quantizer import ProductQuantizer
from index.storage.segment_set import SegmentSet
from index.storage.segments import SegmentError, segment_path
from index.storage.vocabulary import VOCABULARY_DIGEST, Vocabulary
from index.verification.matchable import MatchableFeatures

# What the catalog calls the codebook of the model.
CODEBOOK = "codebook"
HOW_TO_REPAIR = (
    "restore the file, or build again from the same sources, which extracts its photos anew"
)
# A reader may look for a segment just as a compaction elsewhere replaces it.
_OPEN_ATTEMPTS = 5


class OpenedStore:
    """One consistent state of an index, without what searches it.

    Args:
        folder: of the index.

    Attributes:
        catalog, segments: the parts of that state.
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

    def close(self) -> None:
        """Let go of the files; the object is of no use afterwards."""
        self.catalog.close()
        self.segments = SegmentSet(self.folder, [])
        if "threads" in self.__dict__:
            self.threads.shutdown(wait=False)

    def reopen(self) -> None:
        """Make the object usable in a fork of the process that opened it, at the newest state."""
        self.catalog.reopen()
        # The threads of the parent are not here.
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

    def reopen_segments(self) -> None:
        """Open the segments that the catalog names now."""
        self.segments = SegmentSet(
            self.folder,
            self.catalog.segments(),
            self.segments,
            self._damaged,
            lambda: self.has_inverse_scales,
        )

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

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The model's vocabulary, if the words in the index are of it."""
        return self._vocabulary

    @property
    def shortlist_vocabulary(self) -> Vocabulary | None:
        """The same; None where settings say not to look at words, or to keep none."""
        return self._vocabulary if self.settings.uses_words else None

    def _find_vocabulary(self) -> None:
        known = self._vocabulary.digest if self._vocabulary is not None else ""
        if self.catalog.meta(VOCABULARY_DIGEST) != known:
            self._vocabulary = self.catalog.read_vocabulary()

    def _read_adaptation(self) -> Adaptation | None:
        digest = self.catalog.meta(ADAPTATION_DIGEST)
        if self.adaptation is not None and self.adaptation.digest == digest:
            return self.adaptation
        return self.catalog.read_adaptation()

    def places(self) -> NDArray[np.int64]:
        """int64 (N, 3): row, segment and position of the images that can be found, by row."""
        places = self.catalog.searchable()
        return places[~np.isin(places[:, 1], list(self.unreadable))]

    def searchable(self) -> Rows:
        """Row numbers of the images that can be found, ascending."""
        return self.places()[:, 0]

    def searchable_images(self) -> dict[int, ImageRow]:
        """The images that can be found, by row number."""
        images = self.catalog.images("ok")
        return {image.row: image for image in images if image.segment not in self.unreadable}

    def adapt(self, descriptors: FloatArray) -> FloatArray:
        """Global descriptors (N, D) of the model as they are compared: (N, search_dim)."""
        return descriptors if self.adaptation is None else self.adaptation.apply(descriptors)

    @property
    def search_dim(self) -> int:
        """Width of the global descriptors as they are compared."""
        return self.dim if self.adaptation is None else self.adaptation.dim

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

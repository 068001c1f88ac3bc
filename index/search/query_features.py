"""What a query is compared by: its features and visual words in each orientation."""

from __future__ import annotations

from dataclasses import replace

from delg.extraction.extractor import Extractor
from delg.images.decode import Source, decode
from delg.types import Box, ImageFeatures
from index.search.local_shortlist import quantize_query
from index.search.shard import SearchContext
from index.search.stage_timer import StageTimer
from index.storage.vocabulary import BinaryWords
from index.verification.reverify import QueryPhoto


class QueryFeatures:
    """One query; what is extracted is kept.

    Args:
        context: of the indexes that are searched.
        extractor: of their model; not needed for features.
        source: a path, bytes or pixels (see :func:`delg.images.decode.decode`), or features of that
            model, which cannot be rotated.
        box: the part of the photo that is meant, (x, y, width, height) in its upright pixels.
        timer: that extraction is counted by.

    Attributes:
        photo: of the query; None for features.
        box: as given.
        size: (width, height) of the upright photo, pixels.

    Raises:
        ImageError: the query cannot be decoded.
    """

    def __init__(
        self,
        context: SearchContext,
        extractor: Extractor | None,
        source: Source | ImageFeatures,
        box: Box | None,
        timer: StageTimer,
    ) -> None:
        self._context, self._timer = context, timer
        self.box = box
        self.photo: QueryPhoto | None = None
        # By quarter turns of the query.
        self._features: dict[int, ImageFeatures] = {}
        self._words: dict[int, BinaryWords | None] = {}
        if isinstance(source, ImageFeatures):
            self._features[0], self.size = self._adapted(source), (source.width, source.height)
        elif extractor is None:
            raise ValueError("a photo cannot be searched for without a model")
        else:
            with timer.time("extract"):
                pixels = decode(source, extractor.images)
            self.photo = QueryPhoto(extractor, pixels, box)
            self.size = pixels.shape[1], pixels.shape[0]

    def _adapted(self, features: ImageFeatures) -> ImageFeatures:
        """With the global descriptor as the indexes compare it."""
        [descriptor] = self._context.adapt(features.global_descriptor[None])
        return replace(features, global_descriptor=descriptor)

    def rotated(self, rotations: int) -> ImageFeatures:
        """Features after so many quarter turns counter-clockwise."""
        if rotations not in self._features and self.photo is not None:
            with self._timer.time("extract"):
                self._features[rotations] = self._adapted(self.photo.extract(rotations))
        return self._features[rotations]

    def words(self, rotations: int) -> BinaryWords | None:
        """Visual words after so many quarter turns; None where the indexes have none."""
        if rotations not in self._words:
            descriptors = self.rotated(rotations).local.descriptors
            self._words[rotations] = quantize_query(self._context, descriptors)
        return self._words[rotations]

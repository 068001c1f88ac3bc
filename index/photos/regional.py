"""Regional features: parts of a photo that stand out, extracted as photos of their own and stored
with it.

A thing that fills a tenth of a stored photo is found by the descriptor of its part, and proven by
the local features of the part, which the network sees enlarged (Detect-to-Retrieve, Teichmann et
al., CVPR 2019, on the side of the index).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from delg.extraction.extractor import Extractor
from delg.extraction.regions import propose_regions
from delg.images.decode import ImageError
from delg.images.geometry import crop_to_box
from delg.types import Box, ImageFeatures, RegionFeatures
from index.photos.detected import detect_regions
from index.settings import IndexSettings

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class RegionalExtraction:
    """Adds regions to the features of photos.

    Attributes:
        extractor: of the photos.
        settings: of the index: how many regions, and what finds them.
    """

    extractor: Extractor
    settings: IndexSettings

    def __call__(self, pixels: Pixels, features: ImageFeatures) -> ImageFeatures:
        """A photo's features with its regions.

        Args:
            pixels: uint8 (H, W, 3), RGB, upright.
            features: of the photo.
        """
        parts = [self._extract(pixels, box) for box in self._boxes(pixels, features)]
        return replace(features, regions=tuple(part for part in parts if part is not None))

    def _boxes(self, pixels: Pixels, features: ImageFeatures) -> Sequence[Box]:
        count = self.settings.store.regions
        boxes = detect_regions(self.settings.regions, pixels)
        if boxes is not None:
            return boxes[:count]
        size = features.width, features.height
        return [each.box for each in propose_regions(features.local, size, count)]

    def _extract(self, pixels: Pixels, box: Box) -> RegionFeatures | None:
        try:
            crop, (x, y) = crop_to_box(pixels, box)
            features = self.extractor.extract(np.ascontiguousarray(crop), all_cores=False)
        except ImageError:  # Too thin, or nothing in it that a model of local features could use.
            return None
        return RegionFeatures(x, y, features)


def regional_extraction(extractor: Extractor, settings: IndexSettings) -> RegionalExtraction | None:
    """What adds regions to the photos of an index; None where it stores none."""
    return RegionalExtraction(extractor, settings) if settings.store.regions else None

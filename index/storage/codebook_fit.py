"""How well codebooks fit the photos that were encoded by them.

Before models came with a codebook, an index learnt its own from its first photos. Where those were
blank or few of a kind, it spoilt all that came later.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from delg.errors import ModelError
from delg.files import file_sha256
from delg.remote_path import Location, as_location
from delg.types import Failure, FloatArray, ImageFeatures
from index.storage.catalog_tables import ImageRow
from index.storage.feature_selection import top_k
from index.storage.product_quantizer import ProductQuantizer
from index.storage.store import Store

logger = logging.getLogger(__name__)

# Features of photos, in their order.
Extract = Callable[[Iterable[Location]], Iterator[ImageFeatures | Failure]]
# Photos that are extracted anew for each codebook.
_SAMPLE = 8
# By so much less a codebook may fit than the model's; with no such, below this it is spoilt.
_TOLERANCE, _SPOILT_BELOW = 0.05, 0.6


@dataclass(frozen=True)
class Fit:
    """How well a codebook that an index learnt itself fits photos that it encoded.

    Attributes:
        codebook: whose fit it is.
        cosine: mean cosine of descriptors, extracted anew, and their codes.
        model_cosine: the same of the model's codebook; None if it has none.
    """

    codebook: ProductQuantizer
    cosine: float
    model_cosine: float | None

    @property
    def is_spoilt(self) -> bool:
        """Whether the codes are much worse than they could be."""
        if self.model_cosine is None:
            return self.cosine < _SPOILT_BELOW
        return self.cosine < self.model_cosine - _TOLERANCE


def measure_fits(
    store: Store, extract: Extract | None, model_codebook: ProductQuantizer | None
) -> list[Fit]:
    """Measure the codebooks that the index learnt itself; without those whose photos are gone.

    Args:
        extract: the index's model; without it nothing is measured.
        model_codebook: that came with it.
    """
    fits = []
    for codebook in store.segments.quantizers:
        is_own = model_codebook is None or not codebook.is_same(model_codebook)
        if extract is None or not is_own:
            continue
        try:
            descriptors = _sample(store, codebook, extract)
        except ModelError as error:
            logger.info("note: the fit of the codes cannot be measured: %s", error)
            return []
        if len(descriptors):
            other = None if model_codebook is None else _mean_cosine(model_codebook, descriptors)
            fits.append(Fit(codebook, _mean_cosine(codebook, descriptors), other))
    return fits


def rows_encoded_by(store: Store, codebook: ProductQuantizer | None) -> np.ndarray:
    """Row numbers int64 of the images that can be found in segments of that codebook, ascending;
    None: in segments without codes."""
    table = store.catalog.searchable()
    numbers = [n for n, segment in store.segments.items() if segment.quantizer is codebook]
    return table[np.isin(table[:, 1], numbers), 0]


def is_unchanged(image: ImageRow) -> bool:
    """Whether the photo is still there, with the bytes that its features were extracted from."""
    try:
        return bool(image.path) and file_sha256(image.path) == image.sha256
    except OSError:
        return False


def _sample(store: Store, codebook: ProductQuantizer, extract: Extract) -> FloatArray:
    """Descriptors float32 (N, d), extracted anew, of a few photos that the codebook encoded."""
    rows = rows_encoded_by(store, codebook)
    chosen = rows[np.linspace(0, len(rows) - 1, min(_SAMPLE, len(rows))).astype(int)]
    images = map(store.catalog.by_row, chosen.tolist())
    paths = [as_location(image.path) for image in images if is_unchanged(image)]
    kept = store.settings.store.kept_features
    results = list(extract(paths)) if paths else []
    samples = [
        top_k(result.local, kept, max(result.width, result.height)).descriptors
        for result in results
        if not isinstance(result, Failure)
    ]
    return np.concatenate([np.zeros((0, len(codebook.rotation)), np.float32), *samples])


def _mean_cosine(codebook: ProductQuantizer, descriptors: FloatArray) -> float:
    decoded = codebook.reconstruct(codebook.encode(descriptors))
    return float((decoded * descriptors).sum(axis=1).mean())
